/** Q2_K to Q6_K: 256 elements in sub-blocks, whose small integer scales share a float16 one (ggml-quants.c). */
import { blockType, halfAt } from './block-type.ts';

const { fround } = Math;
const blockSize = 256;

/**
 * 84 bytes: 16 bytes of scale (low nibble) and minimum (high) of 16 sub-blocks of 16, 64 bytes of 2-bit codes, d, dmin.
 * Values d·scale·q − dmin·minimum. In each half of 128, byte l has elements l, l + 32, l + 64 and l + 96.
 */
export const Q2_K = blockType({
  id: 'Q2_K',
  ggmlType: 10,
  blockSize,
  byteLength: 84,
  decodeBlock(bytes, at, values, first) {
    const shared = halfAt(bytes, at + 80);
    const sharedMinimum = halfAt(bytes, at + 82);
    for (let sub = 0; sub < 16; sub++) {
      const scale = fround(shared * (bytes[at + sub] & 15));
      const minimum = fround(sharedMinimum * (bytes[at + sub] >> 4));
      const low = at + 16 + 32 * (sub >> 3) + 16 * (sub & 1);
      const shift = sub & 6;
      for (let i = 0; i < 16; i++) {
        values[first + 16 * sub + i] = fround(scale * ((bytes[low + i] >> shift) & 3)) - minimum;
      }
    }
  },
});

/**
 * 110 bytes: 32 bytes of third bits, 64 bytes of low 2 bits laid out as in Q2_K, 12 bytes of 16 6-bit scales, d. Values
 * d·(scale − 32)·(q − 4). Bit k of byte l of the third bits is element 32k + l.
 */
export const Q3_K = blockType({
  id: 'Q3_K',
  ggmlType: 11,
  blockSize,
  byteLength: 110,
  decodeBlock(bytes, at, values, first) {
    const shared = halfAt(bytes, at + 108);
    const scales = at + 96;
    for (let sub = 0; sub < 16; sub++) {
      const lowScale = (bytes[scales + (sub & 7)] >> (sub < 8 ? 0 : 4)) & 15;
      const highScale = (bytes[scales + 8 + (sub & 3)] >> (2 * (sub >> 2))) & 3;
      const scale = fround(shared * ((lowScale | (highScale << 4)) - 32));
      const high = at + 16 * (sub & 1);
      const low = at + 32 + 32 * (sub >> 3) + 16 * (sub & 1);
      const shift = sub & 6;
      for (let i = 0; i < 16; i++) {
        const code = ((bytes[low + i] >> shift) & 3) | (((bytes[high + i] >> (sub >> 1)) & 1) << 2);
        values[first + 16 * sub + i] = scale * (code - 4);
      }
    }
  },
});

/** The 6-bit scale of sub-block 0 to 7 from the 12 bytes that Q4_K and Q5_K keep scales and minimums in. */
function scaleOf(bytes: Uint8Array, scales: number, sub: number): number {
  if (sub < 4) return bytes[scales + sub] & 63;
  return (bytes[scales + sub + 4] & 15) | ((bytes[scales + sub - 4] >> 6) << 4);
}

/** The 6-bit minimum that goes with it. */
function minimumOf(bytes: Uint8Array, scales: number, sub: number): number {
  if (sub < 4) return bytes[scales + sub + 4] & 63;
  return (bytes[scales + sub + 4] >> 4) | ((bytes[scales + sub] >> 6) << 4);
}

/**
 * 144 bytes: d, dmin, 12 bytes of scales and minimums of 8 sub-blocks of 32, 128 bytes of nibbles. Values
 * d·scale·q − dmin·minimum. In each 64 elements the low nibbles of 32 bytes are the first 32, the high ones the rest.
 */
export const Q4_K = blockType({
  id: 'Q4_K',
  ggmlType: 12,
  blockSize,
  byteLength: 144,
  decodeBlock(bytes, at, values, first) {
    const shared = halfAt(bytes, at);
    const sharedMinimum = halfAt(bytes, at + 2);
    for (let sub = 0; sub < 8; sub++) {
      const scale = fround(shared * scaleOf(bytes, at + 4, sub));
      const minimum = fround(sharedMinimum * minimumOf(bytes, at + 4, sub));
      const low = at + 16 + 32 * (sub >> 1);
      const shift = 4 * (sub & 1);
      for (let i = 0; i < 32; i++) {
        values[first + 32 * sub + i] = fround(scale * ((bytes[low + i] >> shift) & 15)) - minimum;
      }
    }
  },
});

/**
 * 176 bytes: Q4_K with 32 bytes of fifth bits before the nibbles. Bit k of byte l of them is element 32k + l.
 */
export const Q5_K = blockType({
  id: 'Q5_K',
  ggmlType: 13,
  blockSize,
  byteLength: 176,
  decodeBlock(bytes, at, values, first) {
    const shared = halfAt(bytes, at);
    const sharedMinimum = halfAt(bytes, at + 2);
    for (let sub = 0; sub < 8; sub++) {
      const scale = fround(shared * scaleOf(bytes, at + 4, sub));
      const minimum = fround(sharedMinimum * minimumOf(bytes, at + 4, sub));
      const high = at + 16;
      const low = at + 48 + 32 * (sub >> 1);
      const shift = 4 * (sub & 1);
      for (let i = 0; i < 32; i++) {
        const code = ((bytes[low + i] >> shift) & 15) | (((bytes[high + i] >> sub) & 1) << 4);
        values[first + 32 * sub + i] = fround(scale * code) - minimum;
      }
    }
  },
});

/**
 * 210 bytes: 128 bytes of low nibbles, 64 bytes of high 2 bits, 16 signed bytes of scale, d. Values d·scale·(q − 32).
 * In each half of 128, elements 32r + l have their low bits in byte 32·(r mod 2) + l and their high bits in byte l.
 */
export const Q6_K = blockType({
  id: 'Q6_K',
  ggmlType: 14,
  blockSize,
  byteLength: 210,
  decodeBlock(bytes, at, values, first) {
    const shared = halfAt(bytes, at + 208);
    for (let sub = 0; sub < 16; sub++) {
      const scale = fround(shared * ((bytes[at + 192 + sub] << 24) >> 24));
      const half = sub >> 3;
      const row = (sub >> 1) & 3;
      const low = at + 64 * half + 32 * (row & 1) + 16 * (sub & 1);
      const high = at + 128 + 32 * half + 16 * (sub & 1);
      for (let i = 0; i < 16; i++) {
        const code = ((bytes[low + i] >> (4 * (row >> 1))) & 15) | (((bytes[high + i] >> (2 * row)) & 3) << 4);
        values[first + 16 * sub + i] = scale * (code - 32);
      }
    }
  },
});
