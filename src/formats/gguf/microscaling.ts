/** MXFP4 and NVFP4: floats of 4 bits (e2m1) in short blocks with a scale of one byte (ggml-quants.c, ggml-impl.h). */
import { blockType, largestMagnitude } from './block-type.ts';

const { fround } = Math;

/** Twice the values of e2m1 (OCP Microscaling Formats 1.0, section 5.3.3), so integers; scales are halved to make up. */
const doubled = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

/** The e2m1 code nearest to `value` in units of `scale`, halved as above; of two equally near the smaller magnitude. */
function nearestCode(value: number, scale: number): number {
  const magnitude = Math.abs(value);
  let best = 0;
  let smallest = magnitude;
  for (let code = 1; code < 8; code++) {
    const error = Math.abs(fround(fround(scale * doubled[code]) - magnitude));
    if (error >= smallest) continue;
    smallest = error;
    best = code;
  }
  return best > 0 && value < 0 ? best | 8 : best;
}

/**
 * 17 bytes: exponent e, 16 bytes whose low nibbles are elements 0 to 15 and whose high ones 16 to 31. Values
 * 2^(e − 127)·e2m1. Where all values are below 2^−125, e is 0; gguf-py has an undefined cast there.
 */
export const MXFP4 = blockType({
  id: 'MXFP4',
  ggmlType: 39,
  blockSize: 32,
  byteLength: 17,
  decodeBlock(bytes, at, values, first) {
    const scale = 2 ** (bytes[at] - 128);
    for (let i = 0; i < 16; i++) {
      const byte = bytes[at + 1 + i];
      values[first + i] = scale * doubled[byte & 15];
      values[first + 16 + i] = scale * doubled[byte >> 4];
    }
  },
  encodeBlock(values, first, bytes, at) {
    const largest = largestMagnitude(values, first, 32);
    // The logarithm is a float32 in ggml: just below a power of two it is that of the power.
    const exponent = Math.max(0, Math.floor(fround(Math.log2(largest))) - 2 + 127);
    const scale = 2 ** (exponent - 128);
    bytes[at] = exponent;
    for (let i = 0; i < 16; i++) {
      bytes[at + 1 + i] = nearestCode(values[first + i], scale) | (nearestCode(values[first + 16 + i], scale) << 4);
    }
  },
});

/** Half of an unsigned e4m3 scale. 0x7f is 0 in ggml; the sign bit counts for nothing. */
function halfOfScale(code: number): number {
  if (code === 0x7f) return 0;
  const exponent = (code >> 3) & 15;
  const fraction = code & 7;
  return exponent === 0 ? fraction * 2 ** -10 : (8 + fraction) * 2 ** (exponent - 11);
}

/**
 * 36 bytes: 4 scales, unsigned e4m3, of 16 elements each, then for each of them 8 bytes whose low nibbles are its first
 * 8 elements and whose high ones the others. Values scale·e2m1.
 */
export const NVFP4 = blockType({
  id: 'NVFP4',
  ggmlType: 40,
  blockSize: 64,
  byteLength: 36,
  decodeBlock(bytes, at, values, first) {
    for (let sub = 0; sub < 4; sub++) {
      const scale = halfOfScale(bytes[at + sub]);
      for (let i = 0; i < 8; i++) {
        const byte = bytes[at + 4 + 8 * sub + i];
        values[first + 16 * sub + i] = scale * doubled[byte & 15];
        values[first + 16 * sub + 8 + i] = scale * doubled[byte >> 4];
      }
    }
  },
});
