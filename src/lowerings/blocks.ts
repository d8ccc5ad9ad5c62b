/**
 * Block-quantized matrices as MatMulNBits and GatherBlockQuantized read them: unsigned codes of 2, 4 or 8 bits, packed row
 * by row. Codes of other widths are stored as narrow as they are, and widened when the file is loaded.
 */
import { HalftoneError } from '../base/errors.ts';
import { formatOf, intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { isAffine, type Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { reference } from '../kernel/index.ts';
import { type DType, dtypes } from '../tensor/dtype.ts';
import type { ByteSource } from '../tensor/source.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import {
  cast,
  firstOf,
  inner,
  op,
  packedBytes,
  plainScaleType,
  reshape,
  scaleBytes,
  scaleOpset,
  scaleValue,
  sharedZeroPoint,
  unsignedCodes,
  unsignedZeroPoints,
} from './codes.ts';
import { tritBytes, tritValue } from './levels.ts';
import type { SharedConstants } from './weight.ts';

/** Blocks of a row; the last may be short. */
export function blocksPerRow(matrix: QuantizedMatrix): number {
  return Math.ceil(matrix.columns / matrix.blockSize);
}

/** The width of codes in the operators that run a scheme: 2, 4 or 8 bits; undefined where they have none for it. */
export function kernelBits({ format: id }: Scheme): 2 | 4 | 8 | undefined {
  const format = formatOf(id);
  if (format.kind !== 'int' || format.bits > 8) return undefined;
  if (format.bits <= 2) return 2;
  return format.bits <= 4 ? 4 : 8;
}

/** The opset of the ONNX domain that codes and scales of a scheme need to become what the operators read. */
export function blocksOpset(scheme: Scheme): number {
  const { bits, least } = intFormatOf(scheme.format);
  const stored = bits !== kernelBits(scheme) || least !== undefined ? 11 : 7;
  return Math.max(stored, scaleOpset(scheme));
}

/** How a file's unsigned codes become those of the operator: code · step + offset, in `bits` bits. */
interface Widening {
  readonly bits: 2 | 4 | 8;
  readonly step: 1 | 2;
  readonly offset: number;
}

/**
 * A zero point that all blocks share becomes the middle code, which the operators assume when none is given. Two levels
 * around zero become the codes 1 and 3 of 2 bits, with half the scale.
 */
function wideningOf(matrix: QuantizedMatrix): Widening {
  const { bits: stored, min } = intFormatOf(matrix.scheme.format);
  const bits = kernelBits(matrix.scheme) ?? 8;
  if (hasHalfZeroPoint(matrix)) return { bits, step: 2, offset: 1 };
  if (bits === stored) return { bits, step: 1, offset: 0 };
  const shared = matrix.scheme.zeroPointType === 'integer' ? sharedZeroPoint(matrix) : undefined;
  return { bits, step: 1, offset: shared === undefined ? 0 : middleCode(bits) - (shared - min) };
}

/** Whether codes are the two signs of one bit. */
function hasHalfZeroPoint(matrix: QuantizedMatrix): boolean {
  return intFormatOf(matrix.scheme.format).bits === 1 && sharedZeroPoint(matrix) === 0.5;
}

function middleCode(bits: number): number {
  return 2 ** (bits - 1);
}

/**
 * The codes of a matrix as the operators read them: uint8 of `shape`, low bits first, each row filled up to
 * `paddedColumns`. Where the operators have the format's width that is an initializer, else what folds to one.
 */
export function blockCodes(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  matrix: QuantizedMatrix,
  paddedColumns: number,
  shape: Shape,
): Value {
  const { bits, min } = intFormatOf(matrix.scheme.format);
  const widening = wideningOf(matrix);
  const isTrits = storesTrits(matrix.scheme, matrix.rows * paddedColumns);
  if (bits === widening.bits && !isTrits) {
    return graph.addInitializer(`${name}/codes`, new Tensor('uint8', shape, packedMatrix(matrix, paddedColumns)));
  }
  const codes = unsignedMatrix(matrix, paddedColumns);
  const bytes = isTrits
    ? widenedTrits(graph, constants, name, signedCodes(codes, min), widening.bits)
    : widenedPlanes(graph, constants, name, codes, bits, widening);
  return reshape(graph, constants, bytes, shape, `${name}/widened`);
}

/**
 * Codes as bytes of the operator, stored in planes of 4, 2 and 1 of their bits. A table tells what each stored byte adds to
 * the bytes it is part of: no operator sees single codes, which takes a third of the time for 3 bits and a fifth for 1
 * (measured, onnxruntime 1.30).
 */
function widenedPlanes(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  codes: Uint8Array,
  bits: number,
  widening: Widening,
): Value {
  const length = (codes.length * widening.bits) / 8;
  const planes = [4, 2, 1].filter((plane) => (bits & plane) !== 0);
  let sum: Value | undefined;
  let lowest = 0;
  for (const plane of planes) {
    const part = reference.pack(
      codes.map((code) => (code >> lowest) & (2 ** plane - 1)),
      plane,
    );
    const stored = graph.addInitializer(`${name}/codes${lowest || ''}`, Tensor.uint8([part.length], part));
    const table = planeTable(constants, plane, lowest, widening);
    const perByte = table.tensor!.shape[1];
    const found = op(graph, 'Gather', [table, cast(graph, stored, 'int32', inner)], inner);
    const flat = reshape(graph, constants, found, [part.length * perByte], inner);
    const whole = part.length * perByte === length ? flat : firstOf(graph, constants, flat, length);
    if (planes.length === 1) return whole;
    const floats = cast(graph, whole, 'float32', inner);
    sum = sum ? op(graph, 'Add', [sum, floats], inner) : floats;
    lowest += plane;
  }
  if (!sum) throw new HalftoneError('internal', `"${name}": expected at least one plane of bits`);
  return cast(graph, sum, 'uint8', inner);
}

/** What a byte of codes' bits `lowest` … `lowest` + `plane` − 1 adds to bytes of the operator: uint8 [256, their number]. */
function planeTable(
  constants: SharedConstants,
  plane: number,
  lowest: number,
  { bits, step, offset }: Widening,
): Value {
  const lanes = 8 / bits;
  const perByte = 8 / plane / lanes;
  // The plane of the lowest bits brings the offset.
  const base = lowest === 0 ? offset : 0;
  return constants.get(`plane_${plane}_${lowest}_${bits}_${step}_${base}`, () =>
    Tensor.uint8(
      [256, perByte],
      Array.from({ length: 256 * perByte }, (_, index) => {
        const first = (index % perByte) * lanes;
        let sum = 0;
        for (let lane = 0; lane < lanes; lane++) {
          const part = (Math.floor(index / perByte) >> ((first + lane) * plane)) & (2 ** plane - 1);
          sum += ((part << lowest) * step + base) << (bits * lane);
        }
        return sum;
      }),
    ),
  );
}

/** Codes −1, 0 and 1 as bytes of the operator, where the middle code stands for 0. */
function widenedTrits(graph: Graph, constants: SharedConstants, name: string, codes: Int8Array, bits: number): Value {
  const lanes = 8 / bits;
  const digits = tritValue(graph, constants, name, codesByLane(codes, lanes), [lanes, codes.length / lanes]);
  const places = Array.from({ length: lanes }, (_, lane) => 2 ** (bits * lane));
  const middle = places.reduce((sum, place) => sum + place * middleCode(bits), 0);
  const factors = constants.get(`lanes_${lanes}`, () => Tensor.float32([1, lanes], places));
  const zero = constants.get(`byte_${middle}`, () => Tensor.float32([], [middle]));
  const bytes = op(graph, 'Add', [op(graph, 'MatMul', [factors, digits], inner), zero], inner);
  return cast(graph, bytes, 'uint8', inner);
}

/** Codes packed as they are: rows·paddedColumns·bits/8 bytes. */
function packedMatrix(matrix: QuantizedMatrix, paddedColumns: number): Uint8Array | ByteSource {
  if (matrix.stored && paddedColumns === matrix.columns) return matrix.stored.codes;
  return reference.pack(unsignedMatrix(matrix, paddedColumns), intFormatOf(matrix.scheme.format).bits);
}

/**
 * Codes counted from the lowest, each row filled up to `paddedColumns` with its last block's zero point, which stands for
 * 0 whatever it is multiplied with.
 */
function unsignedMatrix(matrix: QuantizedMatrix, paddedColumns: number): Uint8Array {
  const { min, max } = intFormatOf(matrix.scheme.format);
  const { rows, columns } = matrix;
  const codes = unsignedCodes(matrix.codes, min) as Uint8Array;
  if (paddedColumns === columns) return codes;
  const padded = new Uint8Array(rows * paddedColumns);
  const blocks = blocksPerRow(matrix);
  const { zeroPoints } = matrix;
  for (let row = 0; row < rows; row++) {
    padded.set(codes.subarray(row * columns, (row + 1) * columns), row * paddedColumns);
    const zeroPoint = Math.round(zeroPoints[(row + 1) * blocks - 1]);
    const fill = Math.min(Math.max(zeroPoint, min), max) - min;
    padded.fill(fill, row * paddedColumns + columns, (row + 1) * paddedColumns);
  }
  return padded;
}

/** The inverse of `unsignedCodes`. */
function signedCodes(codes: Uint8Array, min: number): Int8Array {
  const signed = new Int8Array(codes.length);
  for (let i = 0; i < codes.length; i++) signed[i] = codes[i] + min;
  return signed;
}

/** Codes that will share a byte, `lanes` neighbours, one after the other in rows: all first ones, all second ones … */
function codesByLane(codes: Int8Array, lanes: number): Int8Array {
  const apart = new Int8Array(codes.length);
  const perLane = codes.length / lanes;
  for (let lane = 0, to = 0; lane < lanes; lane++) {
    for (let from = lane; to < perLane * (lane + 1); from += lanes) apart[to++] = codes[from];
  }
  return apart;
}

/** Fewer codes than this would save less, five to a byte, than the table and the nodes that unpack them take. */
const fewTrits = 2 ** 15;

/** Whether codes of −1, 0 and 1 are stored five to a byte. */
function storesTrits(scheme: Scheme, count: number): boolean {
  return intFormatOf(scheme.format).least !== undefined && count >= fewTrits;
}

/** Bytes of one row of packed zero points. */
function zeroPointBytes(blocks: number, bits: number): number {
  return Math.ceil((blocks * bits) / 8);
}

/**
 * The zero points of blocks: floats of shape [rows, blocks], or integers as uint8 [rows, ceil(blocks·bits / 8)], each row
 * filled up to a whole byte; undefined when all of them are the middle code, which the operators assume.
 */
export function blockZeroPoints(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  matrix: QuantizedMatrix,
  dtype: 'float32' | 'float16',
): Value | undefined {
  if (hasHalfZeroPoint(matrix)) return undefined;
  if (matrix.scheme.zeroPointType === 'float') return floatZeroPoints(graph, constants, name, matrix, dtype);
  const { min } = intFormatOf(matrix.scheme.format);
  const { bits, offset } = wideningOf(matrix);
  const shared = sharedZeroPoint(matrix);
  if (shared !== undefined && shared - min + offset === middleCode(bits)) return undefined;
  const blocks = blocksPerRow(matrix);
  const width = zeroPointBytes(blocks, bits);
  const perRow = (width * 8) / bits;
  const padded = new Uint8Array(matrix.rows * perRow);
  const unsigned = unsignedZeroPoints(matrix);
  for (let row = 0; row < matrix.rows; row++) {
    padded.set(unsigned.subarray(row * blocks, (row + 1) * blocks), row * perRow);
  }
  return graph.addInitializer(name, Tensor.uint8([matrix.rows, width], reference.pack(padded, bits)));
}

/** Halved, a float16 scale below this loses a digit. */
const smallestHalvedScale = 2 ** -13;

/** The type that a weight's operator computes in: float16 where the weight and its scales are. */
export function blocksDtype(weight: DType, matrix: QuantizedMatrix): 'float32' | 'float16' {
  if (weight !== 'float16' || matrix.scheme.scaleType !== 'float16') return 'float32';
  const isExact = !hasHalfZeroPoint(matrix) || matrix.scales.every((scale) => Math.abs(scale) >= smallestHalvedScale);
  return isExact ? 'float16' : 'float32';
}

/** Scales of shape [rows, blocks] as `dtype`; stored as the scheme says, cast when the file is loaded. */
export function blockScales(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  matrix: QuantizedMatrix,
  dtype: 'float32' | 'float16',
): Value {
  const { scheme, rows, factors } = matrix;
  const shape = [rows, blocksPerRow(matrix)];
  const { step } = wideningOf(matrix);
  if (isAffine(scheme) && step === 1) {
    const scaleType = plainScaleType(scheme);
    const scales = matrix.stored
      ? new Tensor(scaleType, shape, matrix.stored.scales)
      : Tensor.float32(shape, matrix.scales).converted(scaleType);
    return castTo(graph, graph.addInitializer(name, scales), dtype);
  }
  const more = factors ? { factors, factorShape: factors.length === 1 ? [] : [rows, 1] } : {};
  let scales = scaleValue(graph, constants, name, { scheme, scales: matrix.scales, shape, ...more });
  if (step !== 1) {
    const part = constants.get('half', () => Tensor.float32([], [1 / step]));
    scales = op(graph, 'Mul', [scales, part], inner);
  }
  return dtype === 'float32' ? scales : cast(graph, scales, dtype, `${name}/${dtype}`);
}

/** Float zero points of shape [rows, blocks], counted from the smallest code when the file is loaded. */
function floatZeroPoints(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  matrix: QuantizedMatrix,
  dtype: 'float32' | 'float16',
): Value {
  const { min } = intFormatOf(matrix.scheme.format);
  const shape = [matrix.rows, blocksPerRow(matrix)];
  const zeroPoints = Tensor.float32(shape, matrix.zeroPoints).converted(plainScaleType(matrix.scheme));
  const value = castTo(graph, graph.addInitializer(name, zeroPoints), dtype);
  if (min === 0) return value;
  const offset = constants.get(`offset_${-min}_${dtype}`, () => Tensor.float32([], [-min]).converted(dtype));
  return op(graph, 'Add', [value, offset], `${name}/unsigned`);
}

function castTo(graph: Graph, value: Value, dtype: DType): Value {
  if (value.tensor?.dtype === dtype) return value;
  return op(graph, 'Cast', [value], `${value.name}/${dtype}`, { to: dtypes[dtype].onnx });
}

/** Bytes of codes, scales and zero points of a block-quantized matrix whose rows hold `paddedColumns` codes. */
export function blockBytes(
  rows: number,
  paddedColumns: number,
  parameters: number,
  { scheme }: Pick<QuantizedMatrix, 'scheme'>,
): number {
  const count = rows * paddedColumns;
  const codes = storesTrits(scheme, count) ? tritBytes(count) : packedBytes(count, intFormatOf(scheme.format).bits);
  const scales = scaleBytes(scheme, parameters, rows);
  return codes + scales + allZeroPointBytes(rows, parameters, scheme, scales);
}

/** Bytes of the same matrix in memory when the file is loaded: codes as the operators read them, float32 scales. */
export function blockLoadedBytes(
  rows: number,
  paddedColumns: number,
  parameters: number,
  { scheme }: Pick<QuantizedMatrix, 'scheme'>,
): number {
  const codes = (rows * paddedColumns * (kernelBits(scheme) ?? 8)) / 8;
  return codes + parameters * 4 + allZeroPointBytes(rows, parameters, scheme, parameters * 4);
}

function allZeroPointBytes(rows: number, parameters: number, scheme: Scheme, asFloats: number): number {
  if (scheme.symmetric) return 0;
  if (scheme.zeroPointType === 'float') return asFloats;
  return rows * zeroPointBytes(parameters / rows, kernelBits(scheme) ?? 8);
}
