/** Folds BatchNormalization, and per-channel Mul and Add, into the weights and bias of the layer before. */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { type DType, isFloat } from '../tensor/dtype.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';
import { allowConstants } from './lift-initializers.ts';
import type { Pass } from './pass.ts';

/** y[c] = scale[c] · x[c] + shift[c], in double precision. */
interface Affine {
  readonly scale: Float64Array;
  readonly shift: Float64Array;
}

/** A layer whose output is linear in its weights, as the fold sees it. */
interface Layer {
  readonly node: Node;
  readonly weight: Tensor;
  readonly channels: number;
  /** The channel that the weight element at this flat index contributes to. */
  readonly channelOf: (index: number) => number;
  /** Axis of the channels in the output, counted from the last one when negative. */
  readonly channelAxis: 1 | -1;
  /** Rank of the output where the operator fixes or the file declares it. */
  readonly rank: number | undefined;
}

function constant(value: Value | undefined): Tensor | undefined {
  return value?.isConstant && isFloat(value.tensor!.dtype) ? value.tensor : undefined;
}

function doubles(tensor: Tensor): Float64Array {
  return tensor.dtype === 'float64'
    ? new Float64Array(tensor.bytes.slice().buffer)
    : Float64Array.from(tensor.floats());
}

function tensorOf(dtype: DType, shape: readonly number[], values: Float64Array): Tensor {
  if (dtype === 'float64') return new Tensor(dtype, shape, bytesOf(values));
  return Tensor.float32(shape, Float32Array.from(values)).converted(dtype as 'float32' | 'float16' | 'bfloat16');
}

/** The weight axes follow onnx/docs/Operators.md: Conv, ConvTranspose, Gemm, MatMul. */
function layerOf(node: Node | undefined): Layer | undefined {
  const weight = constant(node?.inputs[1]);
  if (!node || !weight) return undefined;
  const { shape } = weight;
  const rank = shape.length;
  if (node.is('Conv') && rank >= 3) {
    const inner = weight.size / shape[0];
    return { node, weight, channels: shape[0], channelOf: (i) => Math.floor(i / inner), channelAxis: 1, rank };
  }
  if (node.is('ConvTranspose') && rank >= 3) {
    // W is [C, M/group, …]: the group is decided by the input channel.
    const groups = node.int('group', 1);
    const [inputs, perGroup] = shape;
    const kernel = weight.size / (inputs * perGroup);
    const channelOf = (i: number) => {
      const group = Math.floor(Math.floor(i / (kernel * perGroup)) / (inputs / groups));
      return group * perGroup + (Math.floor(i / kernel) % perGroup);
    };
    return { node, weight, channels: perGroup * groups, channelOf, channelAxis: 1, rank };
  }
  if (node.is('Gemm') && rank === 2) {
    const transposed = node.int('transB', 0) !== 0;
    const channels = shape[transposed ? 0 : 1];
    const channelOf = transposed ? (i: number) => Math.floor(i / shape[1]) : (i: number) => i % channels;
    return { node, weight, channels, channelOf, channelAxis: -1, rank: 2 };
  }
  if (node.is('MatMul') && rank === 2) {
    const channels = shape[1];
    const declared = node.output().type?.shape?.length ?? node.input(0).type?.shape?.length;
    return { node, weight, channels, channelOf: (i) => i % channels, channelAxis: -1, rank: declared };
  }
  return undefined;
}

/** BatchNormalization-7 to -15 in inference: one output, no training_mode, one statistic a channel. */
function batchNorm(node: Node, channels: number): Affine | undefined {
  if (node.int('training_mode', 0) !== 0 || node.int('spatial', 1) !== 1) return undefined;
  if (node.outputs.slice(1).some((output) => output)) return undefined;
  const parameters = [1, 2, 3, 4].map((index) => constant(node.inputs[index]));
  if (!parameters.every((tensor) => tensor?.size === channels)) return undefined;
  const [gamma, beta, mean, variance] = parameters.map((tensor) => doubles(tensor!));
  const epsilon = node.float('epsilon', Math.fround(1e-5));
  const scale = gamma.map((value, c) => value / Math.sqrt(variance[c] + epsilon));
  return { scale, shift: beta.map((value, c) => value - mean[c] * scale[c]) };
}

/** One number a channel from a tensor that broadcasts against the layer's output without changing its shape. */
function perChannel(tensor: Tensor, layer: Layer): Float64Array | undefined {
  const { shape } = tensor;
  const { channels, channelAxis, rank } = layer;
  if (shape.length > (rank ?? 1)) return undefined;
  const axis = channelAxis === 1 ? shape.length - rank! + 1 : shape.length - 1;
  if (shape.some((size, index) => size !== 1 && (index !== axis || size !== channels))) return undefined;
  const values = doubles(tensor);
  return values.length === channels ? values : new Float64Array(channels).fill(values[0]);
}

/** What `next`, the only reader of the layer's output, does to each channel; undefined when it is something else. */
function affineOf(next: Node, output: Value, layer: Layer): Affine | undefined {
  const { channels } = layer;
  if (next.is('BatchNormalization')) {
    if (next.inputs[0] !== output || (layer.channelAxis === -1 && layer.rank !== 2)) return undefined;
    return batchNorm(next, channels);
  }
  // After a matrix product an Add is the bias itself, and a Mul often a scale of attention scores: only Conv here.
  if (layer.channelAxis !== 1 || !next.is('Mul', 'Add', 'Sub', 'Div')) return undefined;
  const position = next.inputs[0] === output ? 0 : 1;
  const tensor = constant(next.inputs[1 - position]);
  const values = tensor && perChannel(tensor, layer);
  if (!values) return undefined;
  const [ones, zeros] = [new Float64Array(channels).fill(1), new Float64Array(channels)];
  switch (next.op) {
    case 'Mul':
      return { scale: values, shift: zeros };
    case 'Add':
      return { scale: ones, shift: values };
    case 'Sub':
      return position === 0
        ? { scale: ones, shift: values.map((value) => -value) }
        : { scale: ones.map((value) => -value), shift: values };
    default:
      return position === 0 ? { scale: values.map((value) => 1 / value), shift: zeros } : undefined;
  }
}

/** The bias of a layer, one number a channel; undefined when it is not constant or not one a channel. */
function biasOf(layer: Layer): Float64Array | undefined {
  const { node, channels } = layer;
  if (node.op === 'MatMul' || !node.inputs[2]) return new Float64Array(channels);
  const tensor = constant(node.inputs[2]);
  const values = tensor && perChannel(tensor, { ...layer, channelAxis: -1, rank: node.op === 'Gemm' ? 2 : 1 });
  const factor = node.op === 'Gemm' ? node.float('beta', 1) : 1;
  return values?.map((value) => value * factor);
}

/** Gives `node` a new constant at `index`: in place when nobody else reads the old one, else beside it. */
function setConstant(node: Node, index: number, tensor: Tensor, hint: string): void {
  const previous = node.inputs[index];
  if (previous?.isConstant && previous.soleUser === node) {
    previous.tensor = tensor;
    previous.type = undefined;
    return;
  }
  node.setInput(index, node.graph.addInitializer(hint, tensor));
}

/** The layer's output becomes `output`, which keeps its name; the node that made it goes. */
function takeOver(node: Node, replaced: Node): void {
  const output = replaced.output();
  replaced.setOutput(0, undefined);
  const inputs = new Set(replaced.inputs);
  node.graph.remove(replaced);
  node.setOutput(0, output);
  for (const input of inputs) {
    if (input?.isConstant && input.users.size === 0 && !input.isGraphOutput) input.graph.initializers.delete(input);
  }
}

function allFinite(values: Float64Array, dtype: DType): boolean {
  const limit = dtype === 'float16' ? 65504 : dtype === 'float64' ? Number.MAX_VALUE : 3.4028234663852886e38;
  return values.every((value) => Math.abs(value) <= limit);
}

/** Folds the reader of `node`'s output into it, once. */
function foldNext(node: Node): boolean {
  const layer = layerOf(node);
  if (!layer || node.outputs.length !== 1) return false;
  const output = node.output();
  const next = output.soleUser;
  if (!next || next.graph !== node.graph) return false;

  // A bias added after a matrix product takes part: x·W + b, then the normalization.
  const bias = node.op === 'MatMul' && next.is('Add') ? addedBias(next, output, layer) : undefined;
  const last = bias ? next.output().soleUser : next;
  if (!last || last.graph !== node.graph) return false;
  const affine = affineOf(last, bias ? next.output() : output, layer);
  const before = bias ?? biasOf(layer);
  if (!affine || !before) return false;

  const { weight, channelOf } = layer;
  const weights = doubles(weight).map((value, index) => value * affine.scale[channelOf(index)]);
  const biases = before.map((value, c) => value * affine.scale[c] + affine.shift[c]);
  if (!allFinite(weights, weight.dtype) || !allFinite(biases, weight.dtype)) return false;

  const name = node.name || output.name;
  setConstant(node, 1, tensorOf(weight.dtype, weight.shape, weights), node.input(1).name);
  const biasTensor = tensorOf(weight.dtype, [layer.channels], biases);
  if (node.op !== 'MatMul') {
    if (node.inputs[2] || biases.some((value) => value !== 0)) setConstant(node, 2, biasTensor, `${name}.bias`);
    if (node.op === 'Gemm') node.set('beta', undefined);
    takeOver(node, last);
  } else if (bias) {
    setConstant(next, next.inputs[0] === output ? 1 : 0, biasTensor, `${name}.bias`);
    takeOver(next, last);
  } else {
    const added = node.graph.addInitializer(`${name}.bias`, biasTensor);
    const add = node.graph.add({ op: 'Add', name: last.name, inputs: [output, added], outputs: [undefined] }, last);
    takeOver(add, last);
  }
  return true;
}

function addedBias(add: Node, output: Value, layer: Layer): Float64Array | undefined {
  const tensor = constant(add.inputs[add.inputs[0] === output ? 1 : 0]);
  return tensor && perChannel(tensor, layer);
}

function run(model: Model): boolean {
  let changed = false;
  for (const node of model.nodes()) while (foldNext(node)) changed = true;
  if (changed) allowConstants(model);
  return changed;
}

export const foldBatchNorm = {
  id: 'fold-batch-norm',
  summary: 'fold BatchNormalization and per-channel Mul and Add into the layer before',
  run,
} as const satisfies Pass;
