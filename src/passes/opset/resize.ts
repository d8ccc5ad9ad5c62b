/** Upsample, which became Resize in opset 10, and Resize, whose rule for coordinates became explicit in opset 11. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { computedFor, constantFor, type OpsetChange } from './change.ts';

/** `roi` may be omitted from this opset on. */
const optionalRoi = 13;

function regionFor(node: Node, target: number): Value | undefined {
  return target < optionalRoi ? constantFor(node, 'roi', Tensor.float32([0], [])) : undefined;
}

function setScales(node: Node, scales: Value, target: number): void {
  node.setInputs([node.input(0), regionFor(node, target), scales]);
}

/**
 * Resize-10 in nearest mode takes the floor of x/scale where it enlarges and, in ONNX Runtime, the ceiling where it
 * shrinks (onnxruntime/core/providers/cpu/tensor/upsamplebase.h, ResizeNearestMode::SIMPLE).
 */
function applyResize11(node: Node, target: number): void {
  const scales = node.input(1);
  if (node.attributes.has('coordinate_transformation_mode')) {
    setScales(node, scales, target);
    return;
  }
  node.set('coordinate_transformation_mode', 'asymmetric');
  if (node.string('mode', 'nearest') !== 'nearest') {
    setScales(node, scales, target);
    return;
  }
  const known = scales.isConstant ? Array.from(scales.tensor!.floats()) : undefined;
  if (known?.every((scale) => scale >= 1) || known?.every((scale) => scale <= 1)) {
    node.set('nearest_mode', known.every((scale) => scale >= 1) ? 'floor' : 'ceil');
    setScales(node, scales, target);
    return;
  }
  // Both at once, or unknown: first enlarge, then shrink. Each axis takes part in one of the two.
  const one = constantFor(node, 'one', Tensor.float32([], [1]));
  const enlarge = computedFor(node, 'Max', [scales, one]);
  const shrink = computedFor(node, 'Min', [scales, one]);
  const enlarged = computedFor(node, 'Resize', [node.input(0), regionFor(node, target), enlarge], {
    mode: 'nearest',
    coordinate_transformation_mode: 'asymmetric',
    nearest_mode: 'floor',
  });
  node.set('nearest_mode', 'ceil');
  node.setInputs([enlarged, regionFor(node, target), shrink]);
}

/**
 * Opset 13 took tf_half_pixel_for_nn away: x = (i + 0.5)/scale. It is half_pixel without the final −0.5, so that its
 * floor is half_pixel rounded with halves up. Its other roundings have no counterpart.
 */
function isTensorflowNearest(node: Node): boolean {
  return node.string('coordinate_transformation_mode') === 'tf_half_pixel_for_nn';
}

export const resizeChanges: readonly OpsetChange[] = [
  {
    ops: ['Upsample'],
    at: 9,
    apply(node) {
      const scales = node.floats('scales') ?? [];
      node.set('scales', undefined);
      node.setInput(1, constantFor(node, 'scales', Tensor.float32([scales.length], scales)));
    },
  },
  {
    ops: ['Upsample'],
    at: 10,
    apply(node, target) {
      node.op = 'Resize';
      if (target < 11) return;
      // Upsample never shrinks.
      node.set('coordinate_transformation_mode', 'asymmetric');
      if (node.string('mode', 'nearest') === 'nearest') node.set('nearest_mode', 'floor');
    },
  },
  { ops: ['Resize'], at: 11, apply: applyResize11 },
  {
    ops: ['Resize'],
    at: 13,
    refuse(node) {
      if (!isTensorflowNearest(node)) return undefined;
      const rounding = node.string('nearest_mode', 'round_prefer_floor');
      return node.string('mode', 'nearest') === 'nearest' && rounding === 'floor'
        ? undefined
        : `coordinate_transformation_mode tf_half_pixel_for_nn with nearest_mode ${rounding}`;
    },
    apply(node) {
      if (isTensorflowNearest(node)) {
        node.set('coordinate_transformation_mode', 'half_pixel');
        node.set('nearest_mode', 'round_prefer_ceil');
      }
      for (const index of [1, 2]) {
        const input = node.inputs[index];
        if (input?.isConstant && input.tensor!.size === 0) node.setInput(index, undefined);
      }
    },
  },
];
