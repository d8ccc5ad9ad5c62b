/** Operators whose constants make or read channels: layers, embeddings, normalizations, clips; and products of two activations. */
import { clipBounds } from '../graph/clip-bounds.ts';
import type { Node } from '../graph/node.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { fitted, type Layout, singleAxis } from './layout.ts';
import { constant, type Rule, type Slot, type Tracer } from './tracer.ts';

/** Where a layer's weight has the channels that it reads and those that it makes, and where its activations have theirs. */
export interface LayerAxes {
  readonly weight: Tensor;
  /** Counted from the end. */
  readonly activation: number;
  readonly reads: Pick<Slot, 'axis' | 'blocks'>;
  readonly makes: Pick<Slot, 'axis' | 'blocks'>;
}

/**
 * The axes of Conv, ConvTranspose, Gemm and MatMul with a constant second factor (onnx/docs/Operators.md); undefined for
 * other nodes.
 */
export function layerAxes(node: Node): LayerAxes | undefined {
  const weight = constant(node.inputs[1]);
  if (!weight || node.domain !== '') return undefined;
  const rank = weight.shape.length;
  const [whole, blocks] = [1, node.int('group', 1)];
  if (node.op === 'Conv' && rank >= 3) {
    return { weight, activation: 1 - rank, reads: { axis: 1, blocks }, makes: { axis: 0, blocks: whole } };
  }
  if (node.op === 'ConvTranspose' && rank >= 3) {
    return { weight, activation: 1 - rank, reads: { axis: 0, blocks: whole }, makes: { axis: 1, blocks } };
  }
  const isGemm = node.op === 'Gemm' && node.int('transA', 0) === 0;
  if (rank !== 2 || (!isGemm && node.op !== 'MatMul')) return undefined;
  const reads = isGemm && node.int('transB', 0) !== 0 ? 1 : 0;
  return { weight, activation: -1, reads: { axis: reads, blocks: 1 }, makes: { axis: 1 - reads, blocks: 1 } };
}

/** True for a weight that nothing else reads: factors would make a second copy of a shared one. */
export function isOwned(node: Node, input = 1): boolean {
  const value = node.inputs[input];
  return value?.useCount === 1 && !value.isGraphOutput;
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
const layer: Rule = (node, tracer) => {
  const axes = layerAxes(node);
  if (!axes || !isOwned(node)) return false;
  const { weight, activation, reads, makes } = axes;
  const size = (side: Pick<Slot, 'axis' | 'blocks'>) => weight.shape[side.axis] * side.blocks;
  const read = readBy(tracer, node, activation, size(reads));
  if (read) tracer.slot({ node, input: 1, ...reads, channels: read, kind: 'weight', power: 1 });
  else tracer.pin(node.inputs[0], `${node.label} reads it another way`);
  const made = tracer.make(node, activation, size(makes));
  tracer.slot({ node, input: 1, ...makes, channels: made, kind: 'weight', power: -1 });
  if (!offset(tracer, node, 2, made)) tracer.channels.freeze(made, `${node.label} has no bias of its own a channel`);
  return true;
};

/** A table of rows, each with all channels. */
const embedding: Rule = (node, tracer) => {
  const table = constant(node.inputs[0]);
  if (table?.shape.length !== 2 || node.int('axis', 0) !== 0 || node.inputs[1]?.isConstant) return false;
  if (!isOwned(node, 0)) return false;
  const channels = tracer.make(node, -1, table.shape[1]);
  tracer.slot({ node, input: 0, axis: 1, blocks: 1, channels, kind: 'weight', power: -1 });
  return true;
};

/** A normalization: it ends with a factor and an offset for each channel. */
function normalization(node: Node, tracer: Tracer, axis: number): boolean {
  const scale = constant(node.inputs[1]);
  tracer.pin(node.inputs[0], `${node.label} does not scale with its input`);
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
  return axis === -1 || (rank !== undefined && axis === rank - 1) ? normalization(node, tracer, -1) : false;
};

const instanceNormalization: Rule = (node, tracer) => {
  const rank = tracer.ranks.rankOf(node.inputs[0]);
  return rank === undefined ? false : normalization(node, tracer, 1 - rank);
};

/** Operators whose constants make or read channels. */
export const layers: Readonly<Record<string, Rule>> = {
  Conv: layer,
  ConvTranspose: layer,
  Gemm: layer,
  Gather: embedding,
  MatMul: (node, tracer) => {
    if (node.inputs[1]?.tensor) return layer(node, tracer);
    return node.inputs[0]?.tensor ? false : product(node, tracer);
  },
  LayerNormalization: layerNormalization,
  SimplifiedLayerNormalization: layerNormalization,
  RMSNormalization: layerNormalization,
  InstanceNormalization: instanceNormalization,
  BatchNormalization: instanceNormalization,
  Clip(node, tracer) {
    const layout = tracer.layoutOf(node.inputs[0]);
    const axis = singleAxis(layout);
    const bounds = clipBounds(node);
    if (!layout || axis === undefined || !bounds || bounds.min > 0 || bounds.max <= 0) return false;
    tracer.limits.push({ node, axis, channels: layout.channels, low: bounds.min, high: bounds.max });
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

/** A pooling that counts zeros around the map. */
export function averagesPadding(node: Node): boolean {
  return node.is('AveragePool') && node.int('count_include_pad', 0) !== 0 && isPadded(node);
}

/** True where zeros lie around the map that a window moves over. */
export function isPadded(node: Node): boolean {
  const automatic = node.string('auto_pad', 'NOTSET');
  return automatic.startsWith('SAME') || (automatic === 'NOTSET' && (node.ints('pads') ?? []).some((pad) => pad !== 0));
}
