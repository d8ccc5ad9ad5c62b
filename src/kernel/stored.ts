/** Quantized matrices as bytes, packed as tightly as files are, and back. */
import { intFormatOf } from '../formats/index.ts';
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
}

/** Codes, scales and zero points as bytes. */
export function matrixBytes(matrix: QuantizedMatrix): MatrixBytes {
  const { zeroPoints, scales, scheme } = matrix;
  const first = zeroPoints[0];
  const same = scheme.symmetric || zeroPoints.every((zeroPoint) => zeroPoint === first);
  return {
    codes: packUnsigned(matrix.codes, scheme),
    scales: scaleBytes(scales, scheme.scaleType),
    zeroPoints: same ? first : bytesOf(zeroPoints.slice()),
  };
}

function scaleBytes(scales: Float32Array, type: Scheme['scaleType']): Uint8Array {
  if (type === 'float32') return bytesOf(scales.slice());
  const halves = new Uint16Array(scales.length);
  bestKernel().encodeFloats('float16', scales, halves);
  return bytesOf(halves);
}

/** One float32 zero point for each scale. */
export function zeroPointBytes({ scales, zeroPoints }: MatrixBytes, scaleType: Scheme['scaleType']): Uint8Array {
  if (typeof zeroPoints !== 'number') return zeroPoints;
  const count = scales.byteLength / byteLengthOf(scaleType, 1);
  return bytesOf(new Float32Array(count).fill(zeroPoints));
}

/** The highest bit of each code in a byte of packed codes: flipping it counts signed codes from the lowest. */
function highBits(bits: number): number {
  let mask = 0;
  for (let bit = bits - 1; bit < 8; bit += bits) mask |= 1 << bit;
  return mask;
}

function packUnsigned(codes: Codes, { format }: Scheme): Uint8Array {
  const { bits, min } = intFormatOf(format);
  const kernel = bestKernel();
  if (bits > 8) return bytesOf(Uint16Array.from(codes, (code) => code - min));
  if (min === 0) return kernel.pack(codes, bits);
  if (8 % bits !== 0)
    return kernel.pack(
      Uint8Array.from(codes, (code) => code - min),
      bits,
    );
  const packed = kernel.pack(codes, bits);
  const flip = highBits(bits);
  const words = new Uint32Array(packed.buffer, 0, packed.length >> 2);
  for (let i = 0; i < words.length; i++) words[i] ^= flip * 0x01010101;
  for (let i = words.length * 4; i < packed.length; i++) packed[i] ^= flip;
  const unused = packed.length * 8 - codes.length * bits;
  if (unused > 0) packed[packed.length - 1] &= 255 >> unused;
  return packed;
}

function unpackUnsigned(bytes: Uint8Array, { format }: Scheme, count: number): Codes {
  const { bits, min, signed } = intFormatOf(format);
  if (bits > 8) {
    const words = new Uint16Array(bytes.slice().buffer);
    return signed ? Int16Array.from(words, (word) => word + min) : words;
  }
  const codes = bestKernel().unpack(bytes, bits, false, count);
  if (min === 0) return codes;
  const shifted = createCodes(intFormatOf(format), count);
  for (let i = 0; i < count; i++) shifted[i] = codes[i] + min;
  return shifted;
}

/** A matrix that reads its numbers from where they lie whenever they are asked for. */
export function storedMatrix(scheme: Scheme, rows: number, columns: number, stored: StoredMatrix): QuantizedMatrix {
  const { blockSize, count } = parameterLayout(scheme, rows, columns);
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
    get codes() {
      return unpackUnsigned(stored.codes.read(), scheme, sizeOf([rows, columns]));
    },
    get scales() {
      return floats(scheme.scaleType, stored.scales);
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
}: QuantizedMatrix): QuantizedMatrix {
  return { scheme, rows, columns, blockSize, codes, scales, zeroPoints };
}
