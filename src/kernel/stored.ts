/** Quantized matrices as bytes, packed as tightly as files are, and back. */
import { type Format, formatOf } from '../formats/index.ts';
import {
  type Codes,
  createCodes,
  parameterLayout,
  type QuantizedMatrix,
  type StoredMatrix,
} from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { byteLengthOf } from '../tensor/dtype.ts';
import type { ByteSource } from '../tensor/source.ts';
import { bytesOf, sizeOf, Tensor } from '../tensor/tensor.ts';
import { bestKernel } from './best.ts';

/** What `StoredMatrix` is made of, in memory. */
export interface MatrixBytes {
  readonly codes: Uint8Array;
  readonly scales: Uint8Array;
  readonly zeroPoints: number | Uint8Array;
  /** Float32 numbers, where the matrix has some. */
  readonly factors?: Uint8Array;
  readonly codebook?: Uint8Array;
}

/** Codes, scales and zero points as bytes. */
export function matrixBytes(matrix: QuantizedMatrix): MatrixBytes {
  return { codes: packUnsigned(matrix.codes, matrix.scheme), ...parameterBytes(matrix) };
}

/** All but the codes as bytes. */
export function parameterBytes({
  scheme,
  scales,
  zeroPoints,
  factors,
  codebook,
}: MatrixParameters): Omit<MatrixBytes, 'codes'> {
  const first = zeroPoints[0];
  const same = scheme.symmetric || zeroPoints.every((zeroPoint) => zeroPoint === first);
  return {
    scales: scaleBytes(scales, scheme.scaleType),
    zeroPoints: same ? first : bytesOf(zeroPoints.slice()),
    ...(factors ? { factors: bytesOf(factors.slice()) } : {}),
    ...(codebook ? { codebook: bytesOf(codebook.slice()) } : {}),
  };
}

/** What turns codes into numbers. */
export type MatrixParameters = Pick<QuantizedMatrix, 'scheme' | 'scales' | 'zeroPoints' | 'factors' | 'codebook'>;

/** The type that stored scales have: scales of other types are float32 numbers here, already rounded as they will be. */
function storedScaleType(type: Scheme['scaleType']): 'float16' | 'float32' {
  return type === 'float16' ? 'float16' : 'float32';
}

function scaleBytes(scales: Float32Array, type: Scheme['scaleType']): Uint8Array {
  if (storedScaleType(type) === 'float32') return bytesOf(scales.slice());
  const halves = new Uint16Array(scales.length);
  bestKernel().encodeFloats('float16', scales, halves);
  return bytesOf(halves);
}

/** One float32 zero point for each scale. */
export function zeroPointBytes(
  { scales, zeroPoints }: Omit<MatrixBytes, 'codes'>,
  scaleType: Scheme['scaleType'],
): Uint8Array {
  if (typeof zeroPoints !== 'number') return zeroPoints;
  const count = scales.byteLength / byteLengthOf(storedScaleType(scaleType), 1);
  return bytesOf(new Float32Array(count).fill(zeroPoints));
}

/** The code that is stored as 0. */
function lowestOf(format: Format): number {
  return format.kind === 'int' ? format.min : 0;
}

function packUnsigned(codes: Codes, scheme: Scheme): Uint8Array {
  const format = formatOf(scheme.format);
  const { bits } = format;
  const min = lowestOf(format);
  if (bits > 8) return bytesOf(Uint16Array.from(codes, (code) => code - min));
  return bestKernel().pack(codes, bits, min);
}

function unpackUnsigned(bytes: Uint8Array, scheme: Scheme, count: number): Codes {
  const format = formatOf(scheme.format);
  const { bits } = format;
  const min = lowestOf(format);
  const signed = min < 0;
  if (bits > 8) {
    const words = new Uint16Array(bytes.slice().buffer);
    return signed ? Int16Array.from(words, (word) => word + min) : words;
  }
  if (bits === 8) return signed ? flipped(bytes) : bytes;
  const codes = bestKernel().unpack(bytes, bits, false, count);
  if (min === 0) return codes;
  const shifted = createCodes(format, count);
  for (let i = 0; i < count; i++) shifted[i] = codes[i] + min;
  return shifted;
}

/** Bytes counted from the lowest as signed ones. */
function flipped(bytes: Uint8Array): Int8Array {
  const codes = new Int8Array(bytes);
  const words = new Int32Array(codes.buffer, 0, codes.length >> 2);
  for (let i = 0; i < words.length; i++) words[i] ^= 0x80808080;
  for (let i = words.length * 4; i < codes.length; i++) codes[i] ^= 128;
  return codes;
}

/** A matrix that reads its numbers from where they lie whenever they are asked for. */
export function storedMatrix(scheme: Scheme, rows: number, columns: number, stored: StoredMatrix): QuantizedMatrix {
  const { blockSize, count: groups } = parameterLayout(scheme, rows, columns);
  const format = formatOf(scheme.format);
  const count = format.kind === 'residual' ? groups * format.bits : groups;
  const floats = (dtype: 'float32' | 'float16', source: ByteSource) => {
    const tensor = new Tensor(dtype, [count], source);
    if (dtype === 'float32') return tensor.floats();
    const values = new Float32Array(count);
    bestKernel().decodeFloats('float16', tensor.words(), values);
    return values;
  };
  return {
    scheme,
    rows,
    columns,
    blockSize,
    stored,
    ...(stored.factors ? { factors: stored.factors } : {}),
    ...(stored.codebook ? { codebook: stored.codebook } : {}),
    get codes() {
      return unpackUnsigned(stored.codes.read(), scheme, sizeOf([rows, columns]));
    },
    get scales() {
      return floats(storedScaleType(scheme.scaleType), stored.scales);
    },
    get zeroPoints() {
      const { zeroPoints } = stored;
      return typeof zeroPoints === 'number' ? new Float32Array(count).fill(zeroPoints) : floats('float32', zeroPoints);
    },
  };
}

/** The matrix in memory. */
export function loadedMatrix({
  scheme,
  rows,
  columns,
  blockSize,
  codes,
  scales,
  zeroPoints,
  factors,
  codebook,
}: QuantizedMatrix): QuantizedMatrix {
  const more = { ...(factors ? { factors } : {}), ...(codebook ? { codebook } : {}) };
  return { scheme, rows, columns, blockSize, codes, scales, zeroPoints, ...more };
}
