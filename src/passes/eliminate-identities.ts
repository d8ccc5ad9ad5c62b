/** Removes operators that provably change nothing, and merges Transposes that follow one another. */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { type DType, dtypeOfNumber } from '../tensor/dtype.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { Pass } from './pass.ts';

type Shape = readonly (number | string | undefined)[];

function shapeOf(value: Value): Shape | undefined {
  return value.tensor?.shape ?? value.type?.shape;
}

function dtypeOf(value: Value): DType | undefined {
  return value.tensor?.dtype ?? value.type?.dtype;
}

/** The tensor of a constant input; undefined for an omitted or computed one. */
function constant(node: Node, index: number): Tensor | undefined {
  const input = node.inputs[index];
  return input?.isConstant ? input.tensor : undefined;
}

/** Whether the operator returns its first input as it is. Only what the graph itself proves counts. */
const passesThrough: Readonly<Record<string, (node: Node, opset: number) => boolean>> = {
  Identity: () => true,

  Dropout(node) {
    // The mask says which elements were kept; before opset 12 the operator only knows inference.
    if (node.outputs[1] && (node.outputs[1].users.size > 0 || node.outputs[1].isGraphOutput)) return false;
    if (!node.inputs[2]) return true;
    const training = constant(node, 2);
    return training?.bytes.every((byte) => byte === 0) ?? false;
  },

  Cast(node) {
    const from = dtypeOf(node.input(0));
    return from !== undefined && from === dtypeOfNumber(node.int('to', 0));
  },

  Transpose(node) {
    const perm = node.ints('perm');
    if (perm) return perm.every((axis, index) => axis === index);
    const rank = shapeOf(node.input(0))?.length;
    return rank !== undefined && rank < 2;
  },

  Reshape(node) {
    const shape = shapeOf(node.input(0));
    const target = constant(node, 1)?.integers();
    if (!shape || !target || shape.length !== target.length || node.int('allowzero', 0) !== 0) return false;
    // One -1 stands for whatever is left, which is the axis itself when all others stay.
    const inferred = target.filter((size) => size === -1).length;
    return (
      inferred <= 1 && target.every((size, axis) => size === 0 || size === -1 || (size === shape[axis] && size !== 0))
    );
  },

  Flatten(node) {
    const shape = shapeOf(node.input(0));
    const axis = node.int('axis', 1);
    return shape?.length === 2 && (axis === 1 || axis === -1);
  },

  Pad(node, opset) {
    const pads = opset < 11 ? node.ints('pads') : constant(node, 1)?.integers();
    return pads?.every((pad) => pad === 0) ?? false;
  },

  Slice(node, opset) {
    const starts = opset < 10 ? node.ints('starts') : constant(node, 1)?.integers();
    const ends = opset < 10 ? node.ints('ends') : constant(node, 2)?.integers();
    if (
      !starts ||
      !ends ||
      (node.inputs[4] &&
        !constant(node, 4)
          ?.integers()
          .every((step) => step === 1))
    )
      return false;
    if (node.inputs[3] && !constant(node, 3)) return false;
    const shape = shapeOf(node.input(0));
    const axes = node.ints('axes') ?? constant(node, 3)?.integers() ?? starts.map((_, index) => index);
    return ends.every((end, index) => {
      const size = shape?.at(axes[index]);
      // INT32_MAX and above stand for "to the end" (Slice-10, input ends).
      return starts[index] === 0 && (end >= 2147483647 || (typeof size === 'number' && end >= size));
    });
  },

  Concat: (node) => node.inputs.length === 1,
  Sum: (node) => node.inputs.length === 1,
  Mean: (node) => node.inputs.length === 1,
  Max: (node) => node.inputs.length === 1,
  Min: (node) => node.inputs.length === 1,

  Expand(node) {
    const rank = shapeOf(node.input(0))?.length;
    const target = constant(node, 1)?.integers();
    return rank !== undefined && target !== undefined && target.length <= rank && target.every((size) => size === 1);
  },
};

/** Whether `input` can stand where `output` stood without an Identity in between to keep the name of a graph output. */
function canStandIn(output: Value, input: Value): boolean {
  if (!output.isGraphOutput) return true;
  return (
    input.graph === output.graph &&
    input.producer !== undefined &&
    !input.isGraphOutput &&
    !input.isGraphInput &&
    !input.tensor
  );
}

/** Transpose after Transpose reads the first one's input with the composed permutation. */
function mergeTransposes(node: Node): boolean {
  const first = node.inputs[0]?.producer;
  const outer = node.ints('perm');
  const inner = first?.ints('perm');
  if (!first?.is('Transpose') || first.graph !== node.graph || !outer || !inner || outer.length !== inner.length) {
    return false;
  }
  const between = node.input(0);
  node.set(
    'perm',
    outer.map((axis) => inner[axis]),
  );
  node.setInput(0, first.input(0));
  if (between.users.size === 0 && !between.isGraphOutput) node.graph.remove(first);
  return true;
}

function run(model: Model): boolean {
  const opset = model.opset;
  let changed = false;
  for (const node of model.nodes()) {
    if (node.domain !== '' || !node.inputs[0] || !node.outputs[0]) continue;
    if (node.op === 'Transpose') while (mergeTransposes(node)) changed = true;
    if (!passesThrough[node.op]?.(node, opset)) continue;
    const input = node.input(0);
    const output = node.output();
    if (!canStandIn(output, input)) continue;
    output.replaceWith(input);
    node.graph.remove(node);
    changed = true;
  }
  if (changed) for (const graph of model.graphs()) graph.removeUnusedInitializers();
  return changed;
}

export const eliminateIdentities = {
  id: 'eliminate-identities',
  summary: 'remove operators that change nothing',
  run,
} as const satisfies Pass;
