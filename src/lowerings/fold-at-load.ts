/**
 * Weights of any format, stored packed and rebuilt by ordinary operators that ONNX Runtime folds into a plain float
 * constant when it loads the file: a small file that runs at float speed everywhere (ALGORITHMS.md §0.6, measured).
 */
import { HalftoneError } from '../base/errors.ts';
import { formatOf, type IntFormat, type ResidualFormat } from '../formats/index.ts';
import type { Codes, QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import {
  fromMatrix,
  inversePermutation,
  isRowMajor,
  type MatrixView,
  permutedShape,
  rowBroadcastShape,
  rowsInTensorOrder,
} from '../tensor/matrix-view.ts';
import { bytesOf, type Shape, Tensor } from '../tensor/tensor.ts';
import {
  cast,
  firstOf,
  floatValue,
  inner,
  op,
  packedBytes,
  packedCodes,
  plainScaleType,
  planeCount,
  reshape,
  scaleBytes,
  scaleOpset,
  scaleValue,
  sharedZeroPoint,
  unsignedCodes,
} from './codes.ts';
import {
  codeBytes,
  codebookBytes,
  codebookValue,
  hasRowTables,
  hasScales,
  levelValue,
  nativeType,
  tritValue,
} from './levels.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

/** The opset of BitShift, and of Cast from floats of 8 bits. */
const opsets = { shifts: 11, minifloats: 19 } as const;

export const foldAtLoad = {
  id: 'fold-at-load',
  summary: 'packed weights rebuilt by ordinary operators when the file is loaded: small file, float speed',
  requiredOpset: (scheme: Scheme) =>
    Math.max(nativeType(formatOf(scheme.format)) ? opsets.minifloats : opsets.shifts, scaleOpset(scheme)),
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

/** A matrix on its way into a graph, and how it is laid out there. */
interface Target {
  readonly graph: Graph;
  readonly constants: SharedConstants;
  readonly name: string;
  readonly matrix: QuantizedMatrix;
  readonly layout: Layout;
}

/** The order in which codes and parameters are stored, and how the tensor is made of them. */
interface Layout {
  /** Of codes as they are unpacked. */
  readonly shape: Shape;
  /** Of scales and zero points; once spread, they broadcast against codes. */
  readonly parameterShape: Shape;
  /** Of one number for each row, which broadcasts against parameters. */
  readonly rowShape: Shape;
  codes(codes: Codes): Codes;
  /** Parameters, or several numbers for each row in turn, in their order. */
  parameters(values: Float32Array): Float32Array;
  spread(parameters: Value): Value;
  /** Brings numbers into the shape and order of the tensor. */
  finish(numbers: Value): Value;
}

function rebuild(graph: Graph, weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): Value {
  const { name } = weight.value;
  const { view } = weight.use;
  const { scheme, columns, blockSize } = matrix;
  const perBlock = scheme.granularity.kind === 'block' && blockSize < columns;
  const layout =
    perBlock || hasRowTables(scheme)
      ? matrixLayout(graph, constants, view, blockSize)
      : tensorLayout(view, scheme.granularity.kind === 'tensor');
  const target: Target = { graph, constants, name, matrix, layout };
  const floats = layout.finish(formatOf(scheme.format).kind === 'residual' ? signSum(target) : scaled(target));
  floats.name = graph.names.fresh(`${name}/weight`);
  const { dtype } = weight.tensor;
  return dtype === 'float32' ? floats : cast(graph, floats, dtype, `${name}/${dtype}`);
}

/** One parameter per row, or one for all: codes stay in the tensor's own order and parameters broadcast. */
function tensorLayout(view: MatrixView, single: boolean): Layout {
  const shape = single ? [] : rowBroadcastShape(view);
  return {
    shape: view.shape,
    parameterShape: shape,
    rowShape: shape,
    codes: (codes) => fromMatrix(codes, view),
    parameters: (values) => (single ? values : inTensorOrder(values, view)),
    spread: (parameters) => parameters,
    finish: (numbers) => numbers,
  };
}

/** As `rowsInTensorOrder`, for several numbers per row. */
function inTensorOrder(values: Float32Array, view: MatrixView): Float32Array {
  const { rows } = view;
  const perRow = values.length / rows;
  if (perRow === 1) return rowsInTensorOrder(values, view);
  const order = rowsInTensorOrder(
    Float32Array.from({ length: rows }, (_, row) => row),
    view,
  );
  return values.map((_, index) => values[order[Math.floor(index / perRow)] * perRow + (index % perRow)]);
}

/** One parameter per block: codes are stored row after row, and the matrix is turned into the tensor at the end. */
function matrixLayout(graph: Graph, constants: SharedConstants, view: MatrixView, blockSize: number): Layout {
  const { rows, columns } = view;
  const blocks = Math.ceil(columns / blockSize);
  const ragged = blocks * blockSize !== columns;
  const blocked = [rows, blocks, blockSize];
  return {
    shape: ragged ? [rows, columns] : blocked,
    parameterShape: [rows, blocks, 1],
    rowShape: [rows, 1, 1],
    codes: (codes) => codes,
    parameters: (values) => values,
    // Where the last block is short, every column gets its own copy of the parameter.
    spread(parameters) {
      if (!ragged) return parameters;
      const target = constants.get(`shape_${blocked.join('x')}`, () => Tensor.int64([3], blocked));
      const expanded = op(graph, 'Expand', [parameters, target], inner);
      const flat = reshape(graph, constants, expanded, [rows, blocks * blockSize], inner);
      return firstOf(graph, constants, flat, columns, 1);
    },
    finish(numbers) {
      const ordered = reshape(graph, constants, numbers, permutedShape(view), inner);
      if (isRowMajor(view)) return ordered;
      return op(graph, 'Transpose', [ordered], inner, { perm: inversePermutation(view.permutation) });
    },
  };
}

/** Levels times scales. */
function scaled(target: Target): Value {
  const { graph, matrix, layout } = target;
  const numbers = unscaled(target);
  if (!hasScales(matrix.scheme)) return numbers;
  return op(graph, 'Mul', [numbers, layout.spread(unpackedScales(target))], inner);
}

/** What codes stand for before they are scaled, in `layout.shape`. */
function unscaled(target: Target): Value {
  const { graph, constants, name, matrix, layout } = target;
  const format = formatOf(matrix.scheme.format);
  const codes = layout.codes(matrix.codes);
  switch (format.kind) {
    case 'int':
      return integers(target, format, codes);
    case 'levels':
      return levelValue(graph, constants, name, format, codes, layout.shape);
    case 'codebook':
      return codebookValue(graph, constants, name, matrix, codes, layout.shape);
    default:
      throw new HalftoneError('internal', `"${name}": expected codes to rebuild, got ${format.id}`);
  }
}

/** Codes without their zero points. */
function integers(target: Target, format: IntFormat, codes: Codes): Value {
  const { graph, constants, name, matrix, layout } = target;
  const { bits, min, signed } = format;
  if (format.least !== undefined) return tritValue(graph, constants, name, codes, layout.shape);
  const shared = sharedZeroPoint(matrix);
  if (signed && bits >= 8 && shared === 0) {
    const dtype = bits === 8 ? 'int8' : 'int16';
    const stored = graph.addInitializer(`${name}/codes`, new Tensor(dtype, layout.shape, bytesOf(codes)));
    return cast(graph, stored, 'float32', inner);
  }
  const floats = packedCodes(graph, constants, name, unsignedCodes(codes, min), bits, layout.shape);
  const zeroPoint =
    shared === undefined
      ? layout.spread(unpackedZeroPoints(target, format))
      : constants.get(`zero_point_${shared - min}`, () => Tensor.float32([], [shared - min]));
  return op(graph, 'Sub', [floats, zeroPoint], inner);
}

/** Zero points counted from the smallest code, as float32 of `layout.parameterShape`. */
function unpackedZeroPoints({ graph, constants, name, matrix, layout }: Target, { bits, min }: IntFormat): Value {
  const numbers = layout.parameters(matrix.zeroPoints);
  if (matrix.scheme.zeroPointType === 'float') {
    // Stored as they are: counted from the smallest code they would need more digits than float16 has.
    const type = plainScaleType(matrix.scheme);
    const stored = floatValue(graph, `${name}/zero_point`, numbers, type, layout.parameterShape);
    if (min === 0) return stored;
    const offset = constants.get(`offset_${-min}_float32`, () => Tensor.float32([], [-min]));
    return op(graph, 'Add', [stored, offset], inner);
  }
  const unsigned = numbers.map((zeroPoint) => zeroPoint - min);
  const codes = bits > 8 ? Uint16Array.from(unsigned) : Uint8Array.from(unsigned);
  const width = zeroPointBits(codes.length, bits);
  return packedCodes(graph, constants, `${name}/zero_point`, codes, width, layout.parameterShape);
}

/** Scales as float32 of `layout.parameterShape`; where each parameter has several, they are along one more axis. */
function unpackedScales({ graph, constants, name, matrix, layout }: Target, each?: number): Value {
  const { scheme, factors } = matrix;
  const last = each === undefined ? [] : [each];
  return scaleValue(graph, constants, `${name}/scale`, {
    scheme,
    scales: layout.parameters(matrix.scales),
    shape: [...layout.parameterShape, ...last],
    ...(factors
      ? {
          factors: factors.length === 1 ? factors : layout.parameters(factors),
          factorShape: factors.length === 1 ? [] : [...layout.rowShape, ...last.map(() => 1)],
        }
      : {}),
  });
}

/** Signs times scales, added up in order: bits less one half, times twice the scale, are exactly that. */
function signSum(target: Target): Value {
  const { graph, constants, name, matrix, layout } = target;
  const { bits: order } = formatOf(matrix.scheme.format) as ResidualFormat;
  const codes = unsignedCodes(layout.codes(matrix.codes), 0);
  const half = constants.get('zero_point_0.5', () => Tensor.float32([], [0.5]));
  const two = constants.get('two', () => Tensor.float32([], [2]));
  const doubled = op(graph, 'Mul', [unpackedScales(target, order), two], inner);
  let sum: Value | undefined;
  for (let m = 0; m < order; m++) {
    const plane = codes.map((code) => (code >> m) & 1);
    const bits = packedCodes(graph, constants, `${name}/sign${m}`, plane, 1, layout.shape);
    const index = constants.get(`index_${m}`, () => Tensor.int64([], [m]));
    const axis = layout.parameterShape.length;
    const scale = layout.spread(op(graph, 'Gather', [doubled, index], inner, { axis }));
    const term = op(graph, 'Mul', [op(graph, 'Sub', [bits, half], inner), scale], inner);
    sum = sum ? op(graph, 'Add', [sum, term], inner) : term;
  }
  if (!sum) throw new HalftoneError('internal', `"${name}": expected at least one sign`);
  return sum;
}

/** Packing fewer zero points than this into less than a byte each would cost more in nodes than it saves. */
const fewZeroPoints = 1024;

function zeroPointBits(count: number, bits: number): number {
  return bits < 8 && count < fewZeroPoints ? 8 : bits;
}

/**
 * Bytes of the initializers that `lowerFoldAtLoad` writes for a matrix with `parameters` blocks; nodes, and constants that
 * all weights share, come on top. Zero points that turn out to be all the same take none.
 */
export function foldAtLoadBytes(
  rows: number,
  columns: number,
  parameters: number,
  { scheme }: Pick<QuantizedMatrix, 'scheme'>,
): number {
  const format = formatOf(scheme.format);
  const each = format.kind === 'residual' ? format.bits : 1;
  const scales = hasScales(scheme) ? scaleBytes(scheme, parameters * each, rows) : 0;
  const zeroPointBytes =
    scheme.zeroPointType === 'float' ? scales : packedBytes(parameters, zeroPointBits(parameters, format.bits));
  const zeroPoints = scheme.symmetric || parameters === 1 ? 0 : zeroPointBytes;
  return codeBytes(format, rows * columns) + scales + zeroPoints + codebookBytes(scheme, rows);
}
/** About what nodes and their names take in the file (measured, for names of 14 letters). */
const nodeBytes = {
  scaled: 150,
  /** Sub, Gather, or Reshape. */
  more: 45,
  firstPlane: 170,
  furtherPlane: 360,
  sign: 385,
  blocks: 120,
  zeroPoints: 90,
  /** Scales that are more than cast. */
  scales: 90,
  codebook: { scaled: 70, alone: -30 },
} as const;

/** About what the nodes of one weight take in the file, names included. */
export function foldAtLoadNodeBytes(scheme: Scheme): number {
  const format = formatOf(scheme.format);
  const planes = planeCount(format.bits);
  let bytes: number = nodeBytes.scaled;
  if (format.kind === 'residual') bytes += format.bits * nodeBytes.sign;
  else if (format.kind === 'int' && format.least !== undefined) bytes += 2 * nodeBytes.more;
  else if (planes > 0) bytes += nodeBytes.more + nodeBytes.firstPlane + (planes - 1) * nodeBytes.furtherPlane;
  else if (!nativeType(format) && !(format.kind === 'int' && format.signed)) bytes += nodeBytes.more;
  if (format.kind === 'codebook') bytes += nodeBytes.codebook[hasScales(scheme) ? 'scaled' : 'alone'];
  if (scheme.granularity.kind === 'block' || hasRowTables(scheme)) bytes += nodeBytes.blocks;
  if (!scheme.symmetric) bytes += nodeBytes.zeroPoints;
  if (scheme.scaleType !== 'float32' && scheme.scaleType !== 'float16') bytes += nodeBytes.scales;
  return bytes;
}
