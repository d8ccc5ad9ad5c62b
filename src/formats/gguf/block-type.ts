/** What an entry of the family of GGUF element types is, and the walk over blocks that all of them share. */
import { HalftoneError } from '../../base/errors.ts';
import { floatToHalf, halfToFloat } from '../../tensor/half.ts';

/**
 * An element type of GGUF (ggml_type in ggml.h): how some number of consecutive elements becomes some number of bytes.
 * A row of a tensor is a whole number of blocks, so a tensor is one run of blocks.
 */
export interface GgufType<Id extends string = string> {
  /** The name that ggml and gguf-py give it, such as `Q4_0`. */
  readonly id: Id;
  /** The number that stands for it in a file (ggml_type). */
  readonly ggmlType: number;
  /** Elements of one block. */
  readonly blockSize: number;
  /** Bytes of one block. */
  readonly byteLength: number;
  /**
   * The elements of whole blocks, each computed in float32 as gguf-py's `dequantize` does, so equal to the bit. NaN
   * stays NaN; its payload may change.
   * @param bytes any number of blocks.
   * @param values where the elements go; as many as the blocks have.
   * @throws HalftoneError `invalid-file` for a part of a block, `usage` where `values` has another length.
   */
  decode(bytes: Uint8Array, values: Float32Array): void;
  /**
   * The blocks of these elements, byte for byte as `quantize` of gguf-py 0.19 makes them; absent where that has none.
   * Scales that float16 cannot hold become infinite or zero, as they do there.
   * @param values any number of whole blocks.
   * @param bytes where the blocks go; as many as the values need.
   * @throws HalftoneError `usage` for lengths that do not fit. For types with scales also `invalid-file` for NaN and
   * infinities, which no scale can cover.
   */
  encode?(values: Float32Array, bytes: Uint8Array): void;
}

/** A type that can also be written. */
export type EncodingGgufType<Id extends string = string> = Required<GgufType<Id>>;

type Size = Pick<GgufType, 'id' | 'blockSize' | 'byteLength'>;

/** Checks that `bytes` are whole blocks and that `values` has room for them. */
export function checkDecoding({ id, blockSize, byteLength }: Size, bytes: Uint8Array, values: Float32Array): void {
  if (bytes.length % byteLength !== 0) {
    throw new HalftoneError(
      'invalid-file',
      `${id}: expected blocks of ${byteLength} bytes, got ${bytes.length} bytes; give whole blocks`,
    );
  }
  const expected = (bytes.length / byteLength) * blockSize;
  if (values.length !== expected) {
    throw new HalftoneError(
      'usage',
      `${id}: expected room for ${expected} values, got ${values.length}; a block has ${blockSize}`,
    );
  }
}

/** Checks that `values` are whole blocks and that `bytes` has room for them. */
export function checkEncoding({ id, blockSize, byteLength }: Size, values: Float32Array, bytes: Uint8Array): void {
  if (values.length % blockSize !== 0) {
    throw new HalftoneError(
      'usage',
      `${id}: expected a multiple of ${blockSize} values, got ${values.length}; choose a type with smaller blocks`,
    );
  }
  const expected = (values.length / blockSize) * byteLength;
  if (bytes.length !== expected) {
    throw new HalftoneError(
      'usage',
      `${id}: expected room for ${expected} bytes, got ${bytes.length}; a block has ${byteLength}`,
    );
  }
}

/** Reads the block that starts at byte `at` into the elements from `first` on. */
export type DecodeBlock = (bytes: Uint8Array, at: number, values: Float32Array, first: number) => void;

/** Writes the elements from `first` on as the block that starts at byte `at`, all of whose bytes it sets. */
export type EncodeBlock = (values: Float32Array, first: number, bytes: Uint8Array, at: number) => void;

interface Layout<Id extends string> {
  readonly id: Id;
  readonly ggmlType: number;
  readonly blockSize: number;
  readonly byteLength: number;
  readonly decodeBlock: DecodeBlock;
}

/** The type whose blocks these functions read and write. */
export function blockType<Id extends string>(
  layout: Layout<Id> & { readonly encodeBlock: EncodeBlock },
): EncodingGgufType<Id>;
export function blockType<Id extends string>(layout: Layout<Id>): GgufType<Id>;
export function blockType<Id extends string>(layout: Layout<Id> & { encodeBlock?: EncodeBlock }): GgufType<Id> {
  const { id, ggmlType, blockSize, byteLength, decodeBlock, encodeBlock } = layout;
  const type: GgufType<Id> = {
    id,
    ggmlType,
    blockSize,
    byteLength,
    decode(bytes, values) {
      checkDecoding(type, bytes, values);
      for (let at = 0, first = 0; at < bytes.length; at += byteLength, first += blockSize) {
        decodeBlock(bytes, at, values, first);
      }
    },
  };
  if (!encodeBlock) return type;
  return {
    ...type,
    encode(values, bytes) {
      checkEncoding(type, values, bytes);
      checkFinite(id, values);
      for (let at = 0, first = 0; first < values.length; at += byteLength, first += blockSize) {
        encodeBlock(values, first, bytes, at);
      }
    },
  };
}

function checkFinite(id: string, values: Float32Array): void {
  const wrong = values.findIndex((value) => !Number.isFinite(value));
  if (wrong >= 0) {
    throw new HalftoneError(
      'invalid-file',
      `${id}: expected finite numbers, got ${values[wrong]} at ${wrong}; keep the tensor in F32, F16 or BF16`,
      { fields: { index: wrong } },
    );
  }
}

/** The float16 at byte `at`, little-endian. */
export function halfAt(bytes: Uint8Array, at: number): number {
  return halfToFloat(bytes[at] | (bytes[at + 1] << 8));
}

/** Writes a number as float16 at byte `at`, little-endian. */
export function setHalf(bytes: Uint8Array, at: number, value: number): void {
  const code = floatToHalf(value);
  bytes[at] = code & 0xff;
  bytes[at + 1] = code >>> 8;
}

/** The 16-bit unsigned integer at byte `at`, little-endian. */
export function uint16At(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8);
}

/** The 32 bits at byte `at`, little-endian, as the signed integer that bit operations give. */
export function bitsAt(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
}

/** 1 / scale in float32, and 0 for the scale of a block of zeros. */
export function inverse(scale: number): number {
  return scale === 0 ? 0 : Math.fround(1 / scale);
}

/** The largest magnitude among `count` values from `first` on. */
export function largestMagnitude(values: Float32Array, first: number, count: number): number {
  let largest = 0;
  for (let i = first; i < first + count; i++) largest = Math.max(largest, Math.abs(values[i]));
  return largest;
}

/** The nearest integer, halves away from zero (C's roundf), of a float32. */
export function roundHalfAway(value: number): number {
  return Math.sign(value) * Math.floor(Math.abs(value) + 0.5);
}
