/** Operators whose constants make or read channels: layers, normalizations, clips; and products of two activations. */
import type { Node } from '../graph/node.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { fitted, type Layout, singleAxis } from './layout.ts';
import { constant, type Rule, type Tracer } from './tracer.ts';

/** A layer's weight that nothing else reads: factors would make a second copy of a shared one. */
function weightOf(node: Node, input = 1): Tensor | undefined {
  const value = node.inputs[input];
  return value?.useCount === 1 && !value.isGraphOutput ? constant(value) : undefined;
}

/** The input's channels, where a layer with weights along `axis` (of the activation) of `size` positions can read them. */
function readBy(tracer: Tracer, node: Node, axis: number, size: number): Int32Array | undefined {
  const layout = tracer.layoutOf(node.inputs[0]);
  return layout?.axes.length === 1 && layout.axes[0] === axis ? fitted(layout, size) : undefined;
}

/** Adds the slot of a bias with one number a channel; false where there is another kind of bias. */
function offset(tracer: Tracer, node: Node, input: number, channels: Int32Array): boolean {
  if (!node.inputs[input]) return true;
  const tensor = constant(node.inputs[input]);
  if (tensor?.shape.at(-1) !== channels.length) return false;
  tracer.slot({ node, input, axis: tensor.shape.length - 1, blocks: 1, channels, kind: 'offset', power: -1 });
  return true;
}

/** A layer: reads channels along one axis of its weight and makes others along another. */
function layer(
  node: Node,
  tracer: Tracer,
  weight: Tensor,
  activationAxis: number,
  reads: { axis: number; blocks: number },
  makes: { axis: number; blocks: number },
): boolean {
  const size = (side: { axis: number; blocks: number }) => weight.shape[side.axis] * side.blocks;
  const read = readBy(tracer, node, activationAxis, size(reads));
  if (read) tracer.slot({ node, input: 1, ...reads, channels: read, kind: 'weight', power: 1 });
  else tracer.pin(node.inputs[0], `${node.label} reads it another way`);
  const made = tracer.make(node, activationAxis, size(makes));
  tracer.slot({ node, input: 1, ...makes, channels: made, kind: 'weight', power: -1 });
  if (!offset(tracer, node, 2, made)) tracer.channels.freeze(made, `${node.label} has no bias of its own a channel`);
  return true;
}

/** A normalization over the last axis, or any other operator that ends with a factor and an offset a channel. */
function normalization(node: Node, tracer: Tracer, axis: number, isOwnInput: boolean): boolean {
  const scale = constant(node.inputs[1]);
  if (!isOwnInput) tracer.pin(node.inputs[0], `${node.label} does not scale with its input`);
  if (scale?.shape.length !== 1 || node.outputs.slice(1).some((output) => output?.users.size)) return false;
  const channels = tracer.make(node, axis, scale.size);
  const base = { node, blocks: 1, axis: 0, channels, power: -1 } as const;
  tracer.slot({ ...base, input: 1, kind: 'affine' });
  if (!offset(tracer, node, 2, channels)) tracer.channels.freeze(channels, `${node.label} has another kind of bias`);
  return true;
}

const layerNormalization: Rule = (node, tracer) => {
  const axis = node.int('axis', -1);
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  return axis === -1 || (rank !== undefined && axis === rank - 1) ? normalization(node, tracer, -1, false) : false;
};

const instanceNormalization: Rule = (node, tracer) => {
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  return rank === undefined ? false : normalization(node, tracer, 1 - rank, false);
};

/** Operators whose constants make or read channels. */
export const layers: Readonly<Record<string, Rule>> = {
  Conv(node, tracer) {
    const weight = weightOf(node);
    if (!weight || weight.shape.length < 3) return false;
    const blocks = node.int('group', 1);
    return layer(node, tracer, weight, 1 - weight.shape.length, { axis: 1, blocks }, { axis: 0, blocks: 1 });
  },
  ConvTranspose(node, tracer) {
    const weight = weightOf(node);
    if (!weight || weight.shape.length < 3) return false;
    const blocks = node.int('group', 1);
    return layer(node, tracer, weight, 1 - weight.shape.length, { axis: 0, blocks: 1 }, { axis: 1, blocks });
  },
  Gemm(node, tracer) {
    const weight = weightOf(node);
    if (weight?.shape.length !== 2 || node.int('transA', 0) !== 0) return false;
    const out = node.int('transB', 0) ? 0 : 1;
    return layer(node, tracer, weight, -1, { axis: 1 - out, blocks: 1 }, { axis: out, blocks: 1 });
  },
  MatMul(node, tracer) {
    const weight = weightOf(node);
    if (weight?.shape.length === 2)
      return layer(node, tracer, weight, -1, { axis: 0, blocks: 1 }, { axis: 1, blocks: 1 });
    return node.inputs.some((input) => input?.tensor) ? false : product(node, tracer);
  },
  LayerNormalization: layerNormalization,
  SimplifiedLayerNormalization: layerNormalization,
  RMSNormalization: layerNormalization,
  InstanceNormalization: instanceNormalization,
  BatchNormalization: instanceNormalization,
  Clip(node, tracer) {
    const layout = tracer.layoutOf(node.inputs[0]);
    const axis = singleAxis(layout);
    const bound = (input: number, name: string, fallback: number) =>
      node.inputs[input] ? constant(node.inputs[input])?.floats()[0] : node.float(name, fallback);
    const low = bound(1, 'min', Number.NEGATIVE_INFINITY);
    const high = bound(2, 'max', Number.POSITIVE_INFINITY);
    if (!layout || axis === undefined || low === undefined || high === undefined || low > 0 || high <= 0) return false;
    tracer.limits.push({ node, axis, channels: layout.channels, low, high });
    return tracer.carry(node, layout);
  },
};

/** A product of two activations: the columns of the second and the rows of the first go on into the result. */
function product(node: Node, tracer: Tracer): boolean {
  const [first, second] = node.inputs.map((input) => tracer.layoutOf(input));
  const goesOn = (layout: Layout | undefined, contracted: number) =>
    layout !== undefined &&
    !layout.isStretched &&
    !layout.sizes.includes(1) &&
    !layout.axes.includes(contracted) &&
    !tracer.channels.areFrozen(layout.channels);
  const ranks = node.inputs.map((input) => tracer.ranks.rankOf(input));
  // Vectors, and batches that are repeated, have axes of another meaning.
  if (ranks[0] === undefined || ranks[0] !== ranks[1] || ranks[0] < 2) return false;
  if (goesOn(second, -2)) {
    tracer.pin(node.inputs[0], `${node.label} multiplies it with channels`);
    return second ? tracer.carry(node, second) : false;
  }
  if (goesOn(first, -1)) {
    tracer.pin(node.inputs[1], `${node.label} multiplies it with channels`);
    return first ? tracer.carry(node, first) : false;
  }
  return false;
}
