/**
 * Weights of any width, stored packed and rebuilt by ordinary operators that ONNX Runtime folds into a plain float
 * constant when it loads the file: a small file that runs at float speed everywhere (ALGORITHMS.md §0.6, measured).
 */
import { intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import {
  fromMatrix,
  inversePermutation,
  isRowMajor,
  permutedShape,
  rowBroadcastShape,
  rowsInTensorOrder,
} from '../tensor/matrix-view.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';
import {
  cast,
  floatValue,
  inner,
  op,
  packedBytes,
  packedCodes,
  plainScaleType,
  reshape,
  scaleBytes,
  scaleValue,
  sharedZeroPoint,
  unsignedCodes,
} from './codes.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

export const foldAtLoad = {
  id: 'fold-at-load',
  summary: 'packed weights rebuilt by ordinary operators when the file is loaded: small file, float speed',
  requiredOpset: () => 11,
  refuses: () => undefined,
} as const satisfies WeightLowering;

/** Makes every reader of the weight read the rebuilt tensor. */
export function lowerFoldAtLoad(weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): void {
  const { value } = weight;
  const readers = [...value.users];
  const rebuilt = rebuild(value.graph, weight, matrix, constants);
  for (const node of readers) {
    node.inputs.forEach((input, index) => {
      if (input === value) node.setInput(index, rebuilt);
    });
  }
}

function rebuild(graph: Graph, weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): Value {
  const { name } = weight.value;
  const perBlock = matrix.scheme.granularity.kind === 'block' && matrix.blockSize < matrix.columns;
  const floats = perBlock
    ? rebuildBlocks(graph, weight, matrix, constants)
    : rebuildRows(graph, weight, matrix, constants);
  const { dtype } = weight.tensor;
  return dtype === 'float32' ? floats : cast(graph, floats, dtype, `${name}/${dtype}`);
}

/** One parameter per row, or one for all: codes stay in the tensor's own order and parameters broadcast. */
function rebuildRows(graph: Graph, weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): Value {
  const { view } = weight.use;
  const { name } = weight.value;
  const format = intFormatOf(matrix.scheme.format);
  const codes = fromMatrix(matrix.codes, view);
  const parameterShape = matrix.scales.length === 1 ? [] : rowBroadcastShape(view);
  const inOrder = (values: Float32Array) => (values.length === 1 ? values : rowsInTensorOrder(values, view));
  const scale = scaleValue(graph, constants, `${name}/scale`, {
    scheme: matrix.scheme,
    scales: inOrder(matrix.scales),
    shape: parameterShape,
    ...(matrix.factors
      ? { factors: inOrder(matrix.factors), factorShape: matrix.factors.length === 1 ? [] : parameterShape }
      : {}),
  });

  if (format.signed && format.bits >= 8 && sharedZeroPoint(matrix) === 0) {
    const stored = graph.addInitializer(
      `${name}/codes`,
      new Tensor(format.bits === 8 ? 'int8' : 'int16', view.shape, bytesOf(codes)),
    );
    return op(graph, 'Mul', [cast(graph, stored, 'float32', inner), scale], `${name}/weight`);
  }
  const floats = packedCodes(graph, constants, name, unsignedCodes(codes, format.min), format.bits, view.shape);
  const zeroPoint = zeroPointValue(graph, name, matrix, constants, inOrder(matrix.zeroPoints), parameterShape);
  const centred = op(graph, 'Sub', [floats, zeroPoint], inner);
  return op(graph, 'Mul', [centred, scale], `${name}/weight`);
}

/** One parameter per block: codes are stored row after row, and the matrix is turned into the tensor at the end. */
function rebuildBlocks(graph: Graph, weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): Value {
  const { view } = weight.use;
  const { name } = weight.value;
  const { rows, columns, blockSize } = matrix;
  const format = intFormatOf(matrix.scheme.format);
  const blocks = Math.ceil(columns / blockSize);
  const ragged = blocks * blockSize !== columns;
  const shape = ragged ? [rows, columns] : [rows, blocks, blockSize];
  const parameterShape = [rows, blocks, 1];

  /** Where the last block is short, every column gets its own copy of the parameter. */
  const spread = (value: Value): Value => {
    if (!ragged) return value;
    const target = constants.get(`shape_${rows}x${blocks}x${blockSize}`, () =>
      Tensor.int64([3], [rows, blocks, blockSize]),
    );
    const expanded = op(graph, 'Expand', [value, target], inner);
    const flat = reshape(graph, constants, expanded, [rows, blocks * blockSize], inner);
    const start = constants.get('zero', () => Tensor.int64([1], [0]));
    const end = constants.get(`length_${columns}`, () => Tensor.int64([1], [columns]));
    const axis = constants.get('one', () => Tensor.int64([1], [1]));
    return op(graph, 'Slice', [flat, start, end, axis], inner);
  };

  const floats = packedCodes(graph, constants, name, unsignedCodes(matrix.codes, format.min), format.bits, shape);
  const zeroPoint = zeroPointValue(graph, name, matrix, constants, matrix.zeroPoints, parameterShape);
  const scale = scaleValue(graph, constants, `${name}/scale`, {
    scheme: matrix.scheme,
    scales: matrix.scales,
    shape: parameterShape,
    ...(matrix.factors
      ? { factors: matrix.factors, factorShape: matrix.factors.length === 1 ? [] : [rows, 1, 1] }
      : {}),
  });
  const shared = sharedZeroPoint(matrix) !== undefined;
  const centred = op(graph, 'Sub', [floats, shared ? zeroPoint : spread(zeroPoint)], inner);
  const scaled = op(graph, 'Mul', [centred, spread(scale)], inner);
  const ordered = reshape(graph, constants, scaled, permutedShape(view), `${name}/weight`);
  if (isRowMajor(view)) return ordered;
  return op(graph, 'Transpose', [ordered], `${name}/transposed`, { perm: inversePermutation(view.permutation) });
}

function zeroPointValue(
  graph: Graph,
  name: string,
  matrix: QuantizedMatrix,
  constants: SharedConstants,
  zeroPoints: Float32Array,
  shape: readonly number[],
): Value {
  const { min, bits } = intFormatOf(matrix.scheme.format);
  const shared = sharedZeroPoint(matrix);
  if (shared !== undefined) {
    return constants.get(`zero_point_${shared - min}`, () => Tensor.float32([], [shared - min]));
  }
  if (matrix.scheme.zeroPointType === 'float') {
    // Stored as they are: counted from the smallest code they would need more digits than float16 has.
    const stored = floatValue(graph, `${name}/zero_point`, zeroPoints, plainScaleType(matrix.scheme), shape);
    if (min === 0) return stored;
    const offset = constants.get(`offset_${-min}_float32`, () => Tensor.float32([], [-min]));
    return op(graph, 'Add', [stored, offset], inner);
  }
  const unsigned = zeroPoints.map((zeroPoint) => zeroPoint - min);
  const codes = bits > 8 ? Uint16Array.from(unsigned) : Uint8Array.from(unsigned);
  return packedCodes(graph, constants, `${name}/zero_point`, codes, zeroPointBits(codes.length, bits), shape);
}

/** Packing fewer zero points than this into less than a byte each would cost more in nodes than it saves. */
const fewZeroPoints = 1024;

function zeroPointBits(count: number, bits: number): number {
  return bits < 8 && count < fewZeroPoints ? 8 : bits;
}

/** Bytes of the initializers that `lowerFoldAtLoad` writes for a matrix with `parameters` scales; nodes come on top. */
export function foldAtLoadBytes(
  rows: number,
  columns: number,
  parameters: number,
  matrix: Pick<QuantizedMatrix, 'scheme'>,
): number {
  const { scheme } = matrix;
  const { bits } = intFormatOf(scheme.format);
  const scales = scaleBytes(scheme, parameters, rows);
  const zeroPointBytes =
    scheme.zeroPointType === 'float' ? scales : packedBytes(parameters, zeroPointBits(parameters, bits));
  return packedBytes(rows * columns, bits) + scales + (scheme.symmetric ? 0 : zeroPointBytes);
}

/** About what the nodes of one weight take in the file, names included. */
export function foldAtLoadNodeBytes(scheme: Scheme): number {
  const { bits } = intFormatOf(scheme.format);
  const planes = [1, 2, 4].includes(bits) ? 1 : bits < 8 ? 2 : 0;
  return 150 + 200 * planes + (scheme.granularity.kind === 'block' ? 100 : 0) + (scheme.symmetric ? 0 : 100);
}
