/** Block-quantized matrices as MatMulNBits and GatherBlockQuantized read them: unsigned codes, packed row by row. */
import { intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { isAffine } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { reference } from '../kernel/index.ts';
import { type DType, dtypes } from '../tensor/dtype.ts';
import type { ByteSource } from '../tensor/source.ts';
import { Tensor } from '../tensor/tensor.ts';
import {
  op,
  plainScaleType,
  scaleBytes,
  scaleValue,
  sharedZeroPoint,
  unsignedCodes,
  unsignedZeroPoints,
} from './codes.ts';
import type { SharedConstants } from './weight.ts';

/** Blocks of a row; the last may be short. */
export function blocksPerRow(matrix: QuantizedMatrix): number {
  return Math.ceil(matrix.columns / matrix.blockSize);
}

/** The middle of `bits`-bit unsigned codes: the zero point that both operators assume when none is given. */
export function middleCode(bits: number): number {
  return 2 ** (bits - 1);
}

/**
 * Codes packed low bits first, each row filled up to `paddedColumns` with its last block's zero point, which stands
 * for 0 whatever it is multiplied with.
 * @returns rows·paddedColumns·bits/8 bytes
 */
export function packedMatrix(matrix: QuantizedMatrix, paddedColumns: number): Uint8Array | ByteSource {
  const { bits, min, max } = intFormatOf(matrix.scheme.format);
  const { rows, columns, stored } = matrix;
  if (stored && paddedColumns === columns) return stored.codes;
  const codes = unsignedCodes(matrix.codes, min);
  if (paddedColumns === columns) return reference.pack(codes, bits);
  const padded = new Uint8Array(rows * paddedColumns);
  const blocks = blocksPerRow(matrix);
  const { zeroPoints } = matrix;
  for (let row = 0; row < rows; row++) {
    padded.set(codes.subarray(row * columns, (row + 1) * columns), row * paddedColumns);
    const zeroPoint = Math.round(zeroPoints[(row + 1) * blocks - 1]);
    const fill = Math.min(Math.max(zeroPoint, min), max) - min;
    padded.fill(fill, row * paddedColumns + columns, (row + 1) * paddedColumns);
  }
  return reference.pack(padded, bits);
}

/** Bytes of one row of packed zero points. */
function zeroPointBytes(blocks: number, bits: number): number {
  return Math.ceil((blocks * bits) / 8);
}

/**
 * Integer zero points as uint8 [rows, ceil(blocks·bits / 8)], each row filled up to a whole byte; undefined when all of
 * them are the middle code, which the operators assume.
 */
export function packedZeroPoints(graph: Graph, name: string, matrix: QuantizedMatrix): Value | undefined {
  const { bits, min } = intFormatOf(matrix.scheme.format);
  const shared = sharedZeroPoint(matrix);
  if (shared !== undefined && shared - min === middleCode(bits)) return undefined;
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
  if (isAffine(scheme)) {
    const scaleType = plainScaleType(scheme);
    const scales = matrix.stored
      ? new Tensor(scaleType, shape, matrix.stored.scales)
      : Tensor.float32(shape, matrix.scales).converted(scaleType);
    return castTo(graph, graph.addInitializer(name, scales), dtype);
  }
  const more = factors ? { factors, factorShape: factors.length === 1 ? [] : [rows, 1] } : {};
  const scales = scaleValue(graph, constants, name, { scheme, scales: matrix.scales, shape, ...more });
  return dtype === 'float32' ? scales : op(graph, 'Cast', [scales], `${name}/${dtype}`, { to: dtypes[dtype].onnx });
}

/** Float zero points of shape [rows, blocks], counted from the smallest code when the file is loaded. */
export function floatZeroPoints(
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
  const { bits } = intFormatOf(scheme.format);
  const scales = scaleBytes(scheme, parameters, rows);
  const codes = (rows * paddedColumns * bits) / 8;
  if (scheme.symmetric) return codes + scales;
  if (scheme.zeroPointType === 'float') return codes + 2 * scales;
  return codes + scales + rows * zeroPointBytes(parameters / rows, bits);
}
