/**
 * A tensor as ONNX stores it: element type, shape, and little-endian bytes (sub-byte elements packed, low bits first), in
 * memory or read when they are asked for.
 */
import { HalftoneError } from '../base/errors.ts';
import { byteLengthOf, type DType, isFloat } from './dtype.ts';
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from './half.ts';
import type { ByteSource } from './source.ts';

export type Shape = readonly number[];

/** The number of elements of a shape; 1 for a scalar. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const dimension of shape) size *= dimension;
  return size;
}

const hostIsLittleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
if (!hostIsLittleEndian) {
  throw new HalftoneError('unsupported', 'host: expected a little-endian machine, as every supported platform is');
}

/** The bytes behind any typed array, without copying. */
export function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** A copy whose buffer starts at a multiple of 16, so that any typed array can look at it. */
function aligned(bytes: Uint8Array, width: number): Uint8Array {
  return bytes.byteOffset % width === 0 ? bytes : bytes.slice();
}

export class Tensor {
  readonly dtype: DType;
  readonly shape: Shape;
  /** Length of the element bytes; 0 for text. */
  readonly byteLength: number;
  /** The elements of a `string` tensor. */
  readonly strings: readonly Uint8Array[] | undefined;
  private readonly data: Uint8Array | ByteSource;

  /**
   * @param data little-endian element bytes, or where they can be read; empty for text
   * @throws HalftoneError `invalid-file` when the bytes do not fit the shape.
   */
  constructor(dtype: DType, shape: Shape, data: Uint8Array | ByteSource, strings?: readonly Uint8Array[]) {
    const size = sizeOf(shape);
    const expected = dtype === 'string' ? 0 : byteLengthOf(dtype, size);
    const found = dtype === 'string' ? (strings?.length ?? 0) : data.byteLength;
    if (dtype === 'string' ? found !== size : found !== expected) {
      throw new HalftoneError(
        'invalid-file',
        `tensor ${dtype}[${shape.join(',')}]: expected ${dtype === 'string' ? `${size} strings` : `${expected} bytes`}, got ${found}`,
      );
    }
    this.dtype = dtype;
    this.shape = shape;
    this.byteLength = expected;
    // A Buffer of Node would share its memory where `slice` must copy.
    this.data = data instanceof Uint8Array && data.constructor !== Uint8Array ? bytesOf(data) : data;
    this.strings = strings;
  }

  /**
   * Little-endian element bytes; empty for text. Where the tensor has a source they are read at each access and not
   * kept: take them once.
   */
  get bytes(): Uint8Array {
    return this.data instanceof Uint8Array ? this.data : this.data.read();
  }

  /** Where the bytes come from when they are not in memory. */
  get source(): ByteSource | undefined {
    return this.data instanceof Uint8Array ? undefined : this.data;
  }

  /** A part of the bytes; a view of those in memory. */
  bytesAt(start: number, end: number): Uint8Array {
    return this.data instanceof Uint8Array ? this.data.subarray(start, end) : this.data.read(start, end);
  }

  get size(): number {
    return sizeOf(this.shape);
  }

  static float32(shape: Shape, values: ArrayLike<number>): Tensor {
    return new Tensor('float32', shape, bytesOf(values instanceof Float32Array ? values : Float32Array.from(values)));
  }

  static float16(shape: Shape, values: ArrayLike<number>): Tensor {
    return new Tensor('float16', shape, bytesOf(Uint16Array.from(values, floatToHalf)));
  }

  static int64(shape: Shape, values: readonly (number | bigint)[]): Tensor {
    return new Tensor('int64', shape, bytesOf(BigInt64Array.from(values, BigInt)));
  }

  static int32(shape: Shape, values: ArrayLike<number>): Tensor {
    return new Tensor('int32', shape, bytesOf(values instanceof Int32Array ? values : Int32Array.from(values)));
  }

  static uint8(shape: Shape, values: ArrayLike<number>): Tensor {
    return new Tensor('uint8', shape, values instanceof Uint8Array ? values : Uint8Array.from(values));
  }

  /** The same bytes under another shape of the same size. */
  reshaped(shape: Shape): Tensor {
    return new Tensor(this.dtype, shape, this.data, this.strings);
  }

  /**
   * The elements as float32; a view for float32 tensors (do not write to it), a conversion for the other real types.
   * @throws HalftoneError `unsupported` for types that hold no real numbers, packed types and 64-bit integers.
   */
  floats(): Float32Array {
    const { bytes, dtype } = this;
    switch (dtype) {
      case 'float32': {
        const data = aligned(bytes, 4);
        return new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
      }
      case 'float64':
        return Float32Array.from(new Float64Array(bytes.slice().buffer));
      case 'float16':
        return Float32Array.from(this.words(), halfToFloat);
      case 'bfloat16':
        return Float32Array.from(this.words(), bfloatToFloat);
      case 'uint8':
      case 'bool':
        return Float32Array.from(bytes);
      case 'int8':
        return Float32Array.from(new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
      case 'uint16':
        return Float32Array.from(this.words());
      case 'int16':
        return Float32Array.from(new Int16Array(bytes.slice().buffer));
      case 'int32':
        return Float32Array.from(new Int32Array(bytes.slice().buffer));
      case 'int64':
        return Float32Array.from(this.bigints(), Number);
      default:
        throw new HalftoneError('unsupported', `tensor: expected real numbers, got ${dtype}[${this.shape.join(',')}]`);
    }
  }

  /** The 16-bit words of a 16-bit tensor. */
  words(): Uint16Array {
    const data = aligned(this.bytes, 2);
    return new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
  }

  /** The elements of an int64 or uint64 tensor. */
  bigints(): BigInt64Array | BigUint64Array {
    const data = aligned(this.bytes, 8);
    return this.dtype === 'uint64'
      ? new BigUint64Array(data.buffer, data.byteOffset, data.byteLength / 8)
      : new BigInt64Array(data.buffer, data.byteOffset, data.byteLength / 8);
  }

  /** Integers of an int64 or int32 tensor as numbers; values beyond 2^53 lose their last digits. */
  integers(): number[] {
    if (this.dtype === 'int64' || this.dtype === 'uint64') return Array.from(this.bigints(), Number);
    return Array.from(this.floats());
  }

  /** The same numbers as another real type, rounded to nearest even. */
  converted(dtype: 'float32' | 'float16' | 'bfloat16'): Tensor {
    if (dtype === this.dtype) return this;
    const floats = this.floats();
    if (dtype === 'float32') return Tensor.float32(this.shape, floats);
    const encode = dtype === 'float16' ? floatToHalf : floatToBfloat;
    return new Tensor(dtype, this.shape, bytesOf(Uint16Array.from(floats, encode)));
  }

  /** True when element type, shape and bytes are the same. */
  equals(other: Tensor): boolean {
    if (this.dtype !== other.dtype || this.shape.length !== other.shape.length) return false;
    if (this.shape.some((dimension, i) => dimension !== other.shape[i])) return false;
    if (this.strings || other.strings) {
      const [a, b] = [this.strings ?? [], other.strings ?? []];
      return a.length === b.length && a.every((text, i) => equalBytes(text, b[i]));
    }
    if (this.data === other.data) return true;
    for (let start = 0; start < this.byteLength; start += comparedBytes) {
      const end = Math.min(start + comparedBytes, this.byteLength);
      if (!equalBytes(this.bytesAt(start, end), other.bytesAt(start, end))) return false;
    }
    return true;
  }

  get isFloat(): boolean {
    return isFloat(this.dtype);
  }
}

/** Bytes that are compared at a time, so that two large tensors need not be in memory. */
const comparedBytes = 2 ** 20;

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.byteLength !== b.byteLength) return false;
  for (let i = 0; i < a.byteLength; i++) if (a[i] !== b[i]) return false;
  return true;
}
