/**
 * The inputs of layers as rows that the columns of their weights meet: tokens of products, patches of convolutions, steps
 * of recurrent layers. A layer's result is a sum over columns for each row, so the rows say what an error of a weight does.
 */
import { HalftoneError } from '../base/errors.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { WeightUse } from '../lowerings/weight.ts';
import { type Shape, sizeOf, type Tensor } from '../tensor/tensor.ts';

/** What one layer reads, before there is any data. */
export interface LayerInput {
  /** Equal for layers whose weights meet the same rows. */
  readonly key: string;
  /** What the rows are made of. Absent: an optional input that the node has not. */
  readonly values: readonly (Value | undefined)[];
  /** Parts of the weight's rows, all of one size and in their order, that meet rows of their own. */
  readonly groups: number;
  readonly columns: number;
  /** True where rows are patches, which overlap and are alike. */
  readonly hasPatches: boolean;
  /** @param tensors the data of `values` */
  open(tensors: readonly (Tensor | undefined)[]): Rows;
}

/** The rows of one run. */
export interface Rows {
  /** Rows of each group. */
  readonly count: number;
  /** The size of the axis that samples are joined along; their rows follow each other. 1 where it is not known. */
  readonly leading: number;
  /** Looks up chosen rows. What comes back writes [rows.length, columns] of one group. */
  take(rows: Int32Array): (group: number, out: Float32Array) => void;
}

/**
 * The input of a layer, or undefined where the weight is no factor of a sum over columns (embeddings, tables), or is laid
 * out as no runtime runs it.
 * @param node the use's node, or its twin in a copy of the model
 */
export function layerInput(use: WeightUse, node: Node): LayerInput | undefined {
  switch (use.kind) {
    case 'matrix':
      return node.op === 'Gemm' ? gemmInput(use, node) : productInput(use, node);
    case 'convolution':
    case 'depthwise-convolution':
    case 'transposed-convolution':
      return patchInput(use, node);
    case 'recurrent':
      return use.input === 1 ? stepInput(use, node) : stateInput(use, node);
    default:
      return undefined;
  }
}

function gemmInput({ input, view }: WeightUse, node: Node): LayerInput {
  const isTransposed = input === 1 ? node.int('transA', 0) !== 0 : node.int('transB', 0) === 0;
  return matrixInput(node.input(1 - input), view.columns, isTransposed, []);
}

function productInput({ input, view }: WeightUse, node: Node): LayerInput {
  return matrixInput(node.input(1 - input), view.columns, input === 0, view.shape.slice(0, -2));
}

/**
 * The other factor of a matrix product: [..., rows, columns], or [..., columns, rows] where it is transposed. A batch of
 * weight matrices, of shape `batch`, has as many groups.
 */
function matrixInput(value: Value, columns: number, isTransposed: boolean, batch: Shape): LayerInput {
  const groups = sizeOf(batch);
  return {
    key: `${value.name} matrix ${columns} ${isTransposed} ${batch.join('×')}`,
    values: [value],
    groups,
    columns,
    hasPatches: false,
    open([tensor]) {
      const { shape } = present(tensor);
      const values = present(tensor).floats();
      const isVector = shape.length === 1;
      const size = isVector ? 1 : shape[shape.length - (isTransposed ? 1 : 2)];
      const matrices = matricesOf(shape.slice(0, -2), batch);
      const matrixSize = size * columns;
      const [rowStride, stride] = isTransposed ? [1, size] : [columns, 1];
      return {
        count: matrices[0].length * size,
        leading: groups > 1 || isVector ? 1 : shape.length > 2 ? shape[0] : size,
        take: (rows) => (group, out) => {
          rows.forEach((row, index) => {
            const from = matrices[group][Math.floor(row / size)] * matrixSize + (row % size) * rowStride;
            const to = index * columns;
            if (stride === 1) out.set(values.subarray(from, from + columns), to);
            else for (let column = 0; column < columns; column++) out[to + column] = values[from + column * stride];
          });
        },
      };
    },
  };
}

/** For each matrix of a batch of weights, the matrices that it is multiplied with. Batches broadcast as in NumPy. */
function matricesOf(batch: Shape, weights: Shape): number[][] {
  const rank = Math.max(batch.length, weights.length);
  const padded = (shape: Shape) => [...new Array<number>(rank - shape.length).fill(1), ...shape];
  const [a, b] = [padded(batch), padded(weights)];
  const result: number[][] = Array.from({ length: sizeOf(weights) }, () => []);
  const visit = (axis: number, left: number, right: number) => {
    if (axis === rank) {
      result[right].push(left);
      return;
    }
    for (let index = 0; index < Math.max(a[axis], b[axis]); index++) {
      visit(axis + 1, left * a[axis] + (a[axis] === 1 ? 0 : index), right * b[axis] + (b[axis] === 1 ? 0 : index));
    }
  };
  visit(0, 0, 0);
  return result;
}

/** How positions of a result and of a kernel lead to positions of the input, along one axis. */
interface Axis {
  readonly size: number;
  readonly kernel: number;
  /** Positions of the result. */
  readonly results: number;
  /** [results, kernel]: the position in the input, or −1 for padding. */
  readonly inputs: Int32Array;
}

/**
 * Patches of a convolution, in the order of the weight's columns: channels of the group, then positions of the kernel.
 *
 * A transposed convolution adds `W[c, r, k] · x[c, i]` to its result at `i·stride + k·dilation − pad`. Read from the result
 * at o, the patch has x at `(o + pad − k·dilation) / stride` where that is a position of the input, and 0 elsewhere. Its
 * weight has the channels of all groups side by side in the columns, and one row for a channel of every group: rows are
 * then the patches of each group in turn, with 0 in the columns of the others.
 */
function patchInput({ view, kind }: WeightUse, node: Node): LayerInput {
  const isTransposed = kind === 'transposed-convolution';
  const group = node.int('group', 1);
  const kernel = view.shape.slice(2);
  const kernelSize = sizeOf(kernel);
  const names = ['strides', 'dilations', 'pads', 'output_padding', 'output_shape'] as const;
  const settings = names.map((name) => node.ints(name)?.join(',') ?? '').join(';');
  const value = node.input(0);
  return {
    key: `${value.name} ${node.op} ${kernel.join('×')} ${group} ${settings} ${node.string('auto_pad', '')}`,
    values: [value],
    groups: isTransposed ? 1 : group,
    columns: view.columns,
    hasPatches: true,
    open([tensor]) {
      const [samples, channels, ...sizes] = present(tensor).shape;
      const values = present(tensor).floats();
      const axes = kernel.map((_, axis) => (isTransposed ? transposedAxis : plainAxis)(node, kernel, sizes, axis));
      const positions = axes.reduce((product, { results }) => product * results, 1);
      const spatial = sizeOf(sizes);
      const groupChannels = channels / group;
      const perSample = isTransposed ? positions * group : positions;
      return {
        count: samples * perSample,
        leading: samples,
        take(rows) {
          const sources = new Int32Array(rows.length * kernelSize);
          rows.forEach((row, index) => {
            patchSources(axes, row % positions, sources.subarray(index * kernelSize, (index + 1) * kernelSize));
          });
          return (wanted, out) => {
            out.fill(0, 0, rows.length * view.columns);
            rows.forEach((row, index) => {
              const own = isTransposed ? Math.floor(row / positions) % group : wanted;
              const first = own * groupChannels;
              let to = index * view.columns + (isTransposed ? first * kernelSize : 0);
              for (let channel = first; channel < first + groupChannels; channel++) {
                const plane = (Math.floor(row / perSample) * channels + channel) * spatial;
                for (let k = index * kernelSize; k < (index + 1) * kernelSize; k++, to++) {
                  if (sources[k] >= 0) out[to] = values[plane + sources[k]];
                }
              }
            });
          };
        },
      };
    },
  };
}

/** For each position of the kernel where in a plane of the input it lies, or −1, for one position of the result. */
function patchSources(axes: readonly Axis[], position: number, out: Int32Array): void {
  let stride = out.length;
  let behind = axes.reduce((product, { results }) => product * results, 1);
  out.fill(0);
  for (const { size, kernel, results, inputs } of axes) {
    behind /= results;
    const first = (Math.floor(position / behind) % results) * kernel;
    stride /= kernel;
    for (let k = 0; k < out.length; k++) {
      const input = inputs[first + (Math.floor(k / stride) % kernel)];
      out[k] = out[k] < 0 || input < 0 ? -1 : out[k] * size + input;
    }
  }
}

/** One axis of Conv: onnx/docs/Operators.md, Conv. */
function plainAxis(node: Node, kernels: readonly number[], sizes: readonly number[], axis: number): Axis {
  const { size, kernel, stride, dilation, reach, pads, automatic } = axisSettings(node, kernels, sizes, axis);
  let [begin, end] = pads;
  if (automatic.startsWith('SAME')) {
    const total = Math.max((Math.ceil(size / stride) - 1) * stride + reach - size, 0);
    [begin, end] = shared(total, automatic === 'SAME_UPPER');
  }
  const results = Math.max(Math.floor((size + begin + end - reach) / stride) + 1, 0);
  return axisOf(size, kernel, results, (result, k) => result * stride + k * dilation - begin);
}

/** One axis of ConvTranspose: onnx/docs/Operators.md, ConvTranspose. */
function transposedAxis(node: Node, kernels: readonly number[], sizes: readonly number[], axis: number): Axis {
  const { size, kernel, stride, dilation, reach, pads, automatic } = axisSettings(node, kernels, sizes, axis);
  const all = (size - 1) * stride + reach + (node.ints('output_padding')?.[axis] ?? 0);
  const given = node.ints('output_shape')?.slice(-kernels.length)[axis];
  const wanted = given ?? (automatic.startsWith('SAME') ? size * stride : undefined);
  const total = wanted === undefined ? pads[0] + pads[1] : Math.max(all - wanted, 0);
  const begin = wanted === undefined ? pads[0] : shared(total, automatic === 'SAME_UPPER')[0];
  return axisOf(size, kernel, given ?? all - total, (result, k) => (result + begin - k * dilation) / stride);
}

function axisSettings(node: Node, kernels: readonly number[], sizes: readonly number[], axis: number) {
  const kernel = kernels[axis];
  const dilation = node.ints('dilations')?.[axis] ?? 1;
  const automatic = node.string('auto_pad', 'NOTSET');
  const pads = automatic === 'NOTSET' ? node.ints('pads') : undefined;
  return {
    size: sizes[axis],
    kernel,
    stride: node.ints('strides')?.[axis] ?? 1,
    dilation,
    reach: (kernel - 1) * dilation + 1,
    pads: [pads?.[axis] ?? 0, pads?.[axis + kernels.length] ?? 0] as const,
    automatic,
  };
}

/** Padding on both sides; an odd one more at the end, or at the beginning. */
function shared(total: number, atEnd: boolean): [number, number] {
  const less = Math.floor(total / 2);
  return atEnd ? [less, total - less] : [total - less, less];
}

function axisOf(size: number, kernel: number, results: number, at: (result: number, k: number) => number): Axis {
  const inputs = new Int32Array(results * kernel).fill(-1);
  for (let result = 0; result < results; result++) {
    for (let k = 0; k < kernel; k++) {
      const input = at(result, k);
      if (Number.isInteger(input) && input >= 0 && input < size) inputs[result * kernel + k] = input;
    }
  }
  return { size, kernel, results, inputs };
}

/** X of a recurrent layer, [steps, batch, columns]: both directions see the same. */
function stepInput({ view }: WeightUse, node: Node): LayerInput | undefined {
  if (node.int('layout', 0) !== 0) return undefined;
  const value = node.input(0);
  const lengths = node.inputs[4];
  return {
    key: `${value.name} steps ${lengths?.name ?? ''}`,
    values: [value, lengths],
    groups: 1,
    columns: view.columns,
    hasPatches: false,
    open([tensor, given]) {
      const [steps, batch] = present(tensor).shape;
      const values = present(tensor).floats();
      const list = stepsOf(steps, batch, given);
      return {
        count: list.length,
        leading: given ? 1 : batch,
        take: (rows) => (_, out) => {
          rows.forEach((row, index) => {
            const { step, item } = list[row];
            const from = (step * batch + item) * view.columns;
            out.set(values.subarray(from, from + view.columns), index * view.columns);
          });
        },
      };
    },
  };
}

/**
 * The state before each step, of every direction: a step behind in Y, [steps, directions, batch, columns], and `initial_h`,
 * [directions, batch, columns], at the first. GRU without `linear_before_reset` multiplies the state by its reset gate
 * before the last third of R sees it; those rows of R, too, are given the state itself.
 */
function stateInput({ view }: WeightUse, node: Node): LayerInput | undefined {
  if (node.int('layout', 0) !== 0) return undefined;
  const [directions] = view.shape;
  const { columns } = view;
  const value = node.outputs[0];
  const isReversed = (direction: number) => direction === 1 || node.string('direction', 'forward') === 'reverse';
  if (!value) throw new HalftoneError('internal', `${node.label}: expected its states as an output, got none`);
  return {
    key: `${value.name} states`,
    values: [value, node.inputs[5], node.inputs[4]],
    groups: directions,
    columns,
    hasPatches: false,
    open([tensor, initial, given]) {
      const [steps, , batch] = present(tensor).shape;
      const states = present(tensor).floats();
      const first = initial?.floats() ?? new Float32Array(directions * batch * columns);
      const list = stepsOf(steps, batch, given);
      return {
        count: list.length,
        leading: given ? 1 : batch,
        take: (rows) => (direction, out) => {
          rows.forEach((row, index) => {
            const { step, item, length } = list[row];
            const before = isReversed(direction) ? step + 1 : step - 1;
            const isFirst = before < 0 || before >= length;
            const from = ((isFirst ? 0 : before * directions) + direction) * batch + item;
            const state = (isFirst ? first : states).subarray(from * columns, (from + 1) * columns);
            out.set(state, index * columns);
          });
        },
      };
    },
  };
}

/** The steps of each item of a batch up to its length. */
function stepsOf(steps: number, batch: number, lengths: Tensor | undefined) {
  const ends = lengths?.integers() ?? new Array<number>(batch).fill(steps);
  return ends.flatMap((length, item) => Array.from({ length }, (_, step) => ({ step, item, length })));
}

function present(tensor: Tensor | undefined): Tensor {
  if (!tensor) throw new HalftoneError('internal', 'rows of a layer: expected its input, got none');
  return tensor;
}
