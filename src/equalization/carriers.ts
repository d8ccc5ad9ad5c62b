/** Operators that carry the factors of channels on: linear and positively homogeneous ones, and those that move numbers. */
import type { Node } from '../graph/node.ts';
import {
  expanded,
  flattened,
  type Layout,
  merged,
  onAxis,
  reshaped,
  singleAxis,
  transposed,
  withAxes,
} from './layout.ts';
import { axesOf } from './ranks.ts';
import { constant, type Rule, type Tracer } from './tracer.ts';

/** f(s·x) = s·f(x) for s > 0, element by element. */
const elementwise: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  return layout ? tracer.carry(node, layout) : false;
};

/** [N, C, …] with channels on axis 1, which windows over the other axes leave alone. */
function image(node: Node, tracer: Tracer): Layout | undefined {
  const layout = tracer.layoutOf(node.inputs[0]);
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  return rank !== undefined && rank >= 3 && singleAxis(layout) === 1 - rank ? layout : undefined;
}

const pooling: Rule = (node, tracer) => {
  const layout = image(node, tracer);
  return layout ? tracer.carry(node, { ...layout, behind: undefined }) : false;
};

const globalPooling: Rule = (node, tracer) => {
  const layout = image(node, tracer);
  return layout ? tracer.carry(node, { ...layout, behind: 1 }) : false;
};

/** Two summands with the same channels, or one constant with a number for each channel. */
const sum: Rule = (node, tracer) => {
  const [first, second] = node.inputs.map((input) => tracer.layoutOf(input));
  if (first && second) {
    if (!haveSamePlaces(first, second)) return false;
    tracer.channels.join(first.channels, second.channels);
    const channels = first.channels.map((channel, index) => (channel < 0 ? second.channels[index] : channel));
    return tracer.carry(node, {
      ...first,
      channels,
      behind: first.behind === second.behind ? first.behind : undefined,
    });
  }
  const position = first ? 0 : 1;
  const layout = first ?? second;
  if (!layout) return false;
  const slot = tracer.along(node, 1 - position, layout);
  if (!slot) return false;
  tracer.slot({ ...slot, kind: 'offset', power: -1 });
  return tracer.carry(node, layout.isStretched ? onAxis(-1, slot.channels) : layout);
};

function haveSamePlaces(a: Layout, b: Layout): boolean {
  return (
    a.axes.join() === b.axes.join() &&
    a.sizes.join() === b.sizes.join() &&
    a.isStretched === b.isStretched &&
    a.sizes.some((size) => size > 1)
  );
}

/** A factor: a constant, which cuts where it has a number a channel, or another activation, whose scale then is pinned. */
const factor: Rule = (node, tracer) => {
  const [first, second] = node.inputs;
  const constantAt = node.inputs.findIndex((input) => input?.tensor);
  if (constantAt >= 0) {
    if (node.op === 'Div' && constantAt === 0) return false;
    return constantFactor(node, tracer, constantAt);
  }
  if (first === second) return false;
  const layouts = [tracer.layoutOf(first), node.op === 'Mul' ? tracer.layoutOf(second) : undefined];
  // Free channels go on; those that are pinned anyway are the other factor (the gate of a gated layer).
  const at = layouts.findIndex((layout) => layout && !tracer.channels.areFrozen(layout.channels));
  const layout = layouts[at];
  if (!layout || layout.sizes.includes(1)) return false;
  tracer.pin(node.inputs[1 - at], `${node.label} multiplies it with channels`);
  return tracer.carry(node, layout);
};

function constantFactor(node: Node, tracer: Tracer, at: number): boolean {
  const tensor = constant(node.inputs[at]);
  const layout = tracer.layoutOf(node.inputs[1 - at]);
  if (!tensor) return false;
  if (tensor.size === 1) return layout ? tracer.carry(node, layout) : false;
  if (node.op === 'Div') return false;
  // Without channels before it, a vector is the last step of a normalization: x̂·γ.
  if (!layout) {
    const rank = tracer.ranks.rankOf(node.inputs[1 - at]);
    if (tensor.shape.at(-1) !== tensor.size || (rank !== undefined && rank < tensor.shape.length)) return false;
    const channels = tracer.make(node, -1, tensor.size);
    tracer.slot({ node, input: at, axis: tensor.shape.length - 1, blocks: 1, channels, kind: 'affine', power: -1 });
    return true;
  }
  const slot = tracer.along(node, at, layout);
  if (!slot) return false;
  tracer.slot({ ...slot, kind: 'affine', power: 1 });
  const channels = tracer.make(node, layout.axes[0], slot.channels.length, layout.behind);
  tracer.slot({ ...slot, channels, kind: 'affine', power: -1 });
  return true;
}

const reshape: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const entries = tracer.ranks.entriesOf(node.inputs[1]);
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  if (!layout || !entries) return false;
  const { tail, isWhole } = entries;
  const next = reshaped(layout, tail);
  if (next) return tracer.carry(node, next);
  const keeps = (count: number) => tail.slice(0, count).every((entry) => entry === 0) && node.int('allowzero', 0) === 0;
  // The leading axes are copied, and what is left is one axis.
  if (isWhole && tail.at(-1) === -1 && rank !== undefined && keeps(tail.length - 1)) {
    const joined = tail.length - 1 === rank - layout.axes.length ? merged(layout) : undefined;
    if (joined) return tracer.carry(node, joined);
    if (tail.length === 2 && singleAxis(layout) === 1 - rank)
      return carryOr(tracer, node, flattened(layout, undefined));
  }
  // [−1, K]: only where it is known that K is what one sample holds.
  const columns = tail.at(-1);
  if (isWhole && tail.length === 2 && rank !== undefined && singleAxis(layout) === 1 - rank && columns !== undefined) {
    if (layout.behind !== undefined && layout.behind * layout.channels.length === columns) {
      return carryOr(tracer, node, flattened(layout, columns));
    }
  }
  return false;
};

function carryOr(tracer: Tracer, node: Node, layout: Layout | undefined): boolean {
  return layout ? tracer.carry(node, layout) : false;
}

const flatten: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  if (!layout || node.int('axis', 1) !== 1 || rank === undefined || singleAxis(layout) !== 1 - rank) return false;
  return carryOr(tracer, node, flattened(layout, undefined));
};

const transpose: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const permutation = node.ints('perm');
  return layout && permutation ? carryOr(tracer, node, transposed(layout, permutation)) : false;
};

/** Squeeze and Unsqueeze. */
const axes: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const rank = tracer.ranks.rankOf(node.op === 'Squeeze' ? node.inputs[0] : node.output());
  const changed = axesOf(node);
  if (!layout || !changed || (rank === undefined && changed.some((axis) => axis >= 0))) return false;
  const fromEnd = changed.map((axis) => (axis < 0 ? axis : axis - rank!));
  return carryOr(tracer, node, withAxes(layout, fromEnd, node.op === 'Unsqueeze'));
};

/** An axis of the node's input, counted from the end. */
function fromEnd(tracer: Tracer, node: Node, axis: number): number | undefined {
  if (axis < 0) return axis;
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  return rank === undefined ? undefined : axis - rank;
}

const concat: Rule = (node, tracer) => {
  const layouts = node.inputs.map((input) => tracer.layoutOf(input));
  const axis = fromEnd(tracer, node, node.int('axis', 0));
  const [first] = layouts;
  if (axis === undefined || !first || layouts.some((layout) => layout?.axes.join() !== first.axes.join())) return false;
  const all = layouts as Layout[];
  if (!first.axes.includes(axis)) {
    if (!all.every((layout) => haveSamePlaces(first, layout))) return false;
    for (const layout of all.slice(1)) tracer.channels.join(first.channels, layout.channels);
    return tracer.carry(node, { ...first, behind: undefined });
  }
  if (all.some((layout) => singleAxis(layout) === undefined)) return false;
  const channels = Int32Array.from(all.flatMap((layout) => [...layout.channels]));
  const { behind } = first;
  return tracer.carry(
    node,
    onAxis(axis, channels, all.every((layout) => layout.behind === behind) ? behind : undefined),
  );
};

const split: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const axis = fromEnd(tracer, node, node.int('axis', 0));
  if (!layout || layout.isStretched || axis === undefined) return false;
  if (!layout.axes.includes(axis)) {
    for (const index of node.outputs.keys()) tracer.carry(node, { ...layout, behind: undefined }, index);
    return true;
  }
  if (layout.axes.length !== 1) return false;
  const total = layout.channels.length;
  const parts = node.outputs.length;
  const sizes =
    node.ints('split') ??
    (node.inputs[1] ? (node.inputs[1].isConstant ? node.inputs[1].tensor?.integers() : undefined) : undefined) ??
    (node.inputs[1] || total % parts !== 0 ? undefined : new Array<number>(parts).fill(total / parts));
  if (sizes?.length !== parts || sizes.reduce((a, b) => a + b, 0) !== total) return false;
  let start = 0;
  for (const [index, size] of sizes.entries()) {
    const value = node.outputs[index];
    if (value) tracer.layouts.set(value, onAxis(axis, layout.channels.slice(start, start + size), layout.behind));
    start += size;
  }
  tracer.carried.set(node, layout);
  return true;
};

const slice: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const ints = (name: string, input: number) =>
    node.ints(name) ?? (node.inputs[input]?.isConstant ? node.inputs[input]?.tensor?.integers() : undefined);
  const starts = ints('starts', 1);
  const given = ints('axes', 3) ?? (node.inputs[3] ? undefined : starts?.map((_, index) => index));
  const places = given?.map((axis) => fromEnd(tracer, node, axis));
  if (!layout || layout.isStretched || !places || places.includes(undefined)) return false;
  const at = places.findIndex((axis) => layout.axes.includes(axis as number));
  if (at < 0) return tracer.carry(node, { ...layout, behind: undefined });
  const ends = ints('ends', 2);
  const steps = node.inputs[4] ? ints('steps', 4) : starts?.map(() => 1);
  if (places.length !== 1 || layout.axes.length !== 1 || !starts || !ends || steps?.[at] !== 1) return false;
  return tracer.carry(node, onAxis(layout.axes[0], layout.channels.slice(starts[at], ends[at]), layout.behind));
};

/** Zeros stay zeros under any factor; reflected and repeated borders have their own channel's. */
const pad: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const axis = singleAxis(layout);
  const pads = node.ints('pads') ?? (node.inputs[1]?.isConstant ? node.inputs[1].tensor?.integers() : undefined);
  const value = node.inputs[2] ? constant(node.inputs[2])?.floats()[0] : node.float('value', 0);
  if (!layout || axis === undefined || !pads || node.inputs[3]) return false;
  if (node.string('mode', 'constant') === 'constant' && value !== 0) return false;
  const rank = pads.length / 2;
  const [before, after] = [pads[rank + axis], pads[2 * rank + axis]];
  if (before < 0 || after < 0) return false;
  if (before + after === 0) return tracer.carry(node, { ...layout, behind: undefined });
  if (node.string('mode', 'constant') !== 'constant') return false;
  const channels = new Int32Array(before + layout.channels.length + after).fill(-1);
  channels.set(layout.channels, before);
  return tracer.carry(node, onAxis(axis, channels));
};

/** Means, sums and extremes over other axes than that of the channels. */
const reduce: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const axis = singleAxis(layout);
  const places = axesOf(node)?.map((place) => fromEnd(tracer, node, place));
  if (!layout || axis === undefined || !places || places.length === 0) return false;
  if (places.includes(undefined) || places.includes(axis)) return false;
  const behind = places.length === -1 - axis && places.every((place) => place! > axis) ? 1 : undefined;
  const kept = { ...layout, behind };
  if (node.int('keepdims', 1) !== 0) return tracer.carry(node, kept);
  return carryOr(tracer, node, withAxes(kept, places as number[], false));
};

/** Sizes change on the axes of space alone. */
const resize: Rule = (node, tracer) => {
  const layout = image(node, tracer);
  const scalesAt = node.inputs.length > 2 ? 2 : 1;
  const scales = constant(node.inputs[scalesAt])?.floats() ?? node.floats('scales');
  if (!layout || node.string('coordinate_transformation_mode', '') === 'tf_crop_and_resize' || node.ints('axes'))
    return false;
  return scales && scales.length > 1 && scales[1] === 1 ? tracer.carry(node, { ...layout, behind: undefined }) : false;
};

/** Repeats along axes of size 1. */
const expand: Rule = (node, tracer) => {
  const layout = tracer.layoutOf(node.inputs[0]);
  const entries = tracer.ranks.entriesOf(node.inputs[1]);
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  if (!layout || !entries || rank !== tracer.ranks.rankOf(node.output())) return false;
  let next: Layout | undefined = layout;
  // A size that only the run knows may repeat its axis or not; either way its positions have the same channels.
  for (const [index, size] of entries.tail.entries()) {
    const axis = index - entries.tail.length;
    const own = layout.axes.indexOf(axis);
    if (own >= 0 && size !== layout.sizes[own] && size !== 1) return false;
    if (own < 0 && size !== undefined && size > 1 && isInside(axis, layout)) next = next && expanded(next, axis, size);
  }
  return carryOr(tracer, node, next);
};

/** Between the channels' axes, where a later reshape would join it with them. */
function isInside(axis: number, { axes: own }: Layout): boolean {
  return axis > Math.min(...own);
}

const shapeOnly: Rule = () => true;

export const carriers: Readonly<Record<string, Rule>> = {
  Relu: elementwise,
  LeakyRelu: elementwise,
  PRelu: (node, tracer) => (node.inputs[1]?.isConstant ? elementwise(node, tracer) : false),
  Identity: elementwise,
  Dropout: (node, tracer) => (node.inputs[2] || node.outputs[1]?.users.size ? false : elementwise(node, tracer)),
  Neg: elementwise,
  Abs: elementwise,
  MaxPool: (node, tracer) => (node.outputs[1]?.users.size ? false : pooling(node, tracer)),
  AveragePool: pooling,
  LpPool: pooling,
  GlobalAveragePool: globalPooling,
  GlobalMaxPool: globalPooling,
  GlobalLpPool: globalPooling,
  ReduceMean: reduce,
  ReduceSum: reduce,
  ReduceMax: reduce,
  ReduceMin: reduce,
  Add: sum,
  Sub: sum,
  Mul: factor,
  Div: factor,
  Reshape: reshape,
  Flatten: flatten,
  Transpose: transpose,
  Squeeze: axes,
  Unsqueeze: axes,
  Concat: concat,
  Split: split,
  Slice: slice,
  Pad: pad,
  Resize: resize,
  Upsample: resize,
  Expand: expand,
  Shape: shapeOnly,
  Size: shapeOnly,
};
