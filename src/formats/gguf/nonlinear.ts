/** IQ4_NL and IQ4_XS: 4-bit codes for 16 unevenly spaced levels, times a scale (ggml-quants.c). */
import { blockType, halfAt, uint16At } from './block-type.ts';

/** The levels of both types (kvalues_iq4nl, ggml-common.h). */
const levels = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

function decodeLevels(bytes: Uint8Array, nibbles: number, scale: number, values: Float32Array, first: number): void {
  for (let i = 0; i < 16; i++) {
    values[first + i] = scale * levels[bytes[nibbles + i] & 15];
    values[first + 16 + i] = scale * levels[bytes[nibbles + i] >> 4];
  }
}

/** 18 bytes: d, 16 bytes whose low nibbles are elements 0 to 15 and whose high ones 16 to 31; d·level. */
export const IQ4_NL = blockType({
  id: 'IQ4_NL',
  ggmlType: 20,
  blockSize: 32,
  byteLength: 18,
  decodeBlock(bytes, at, values, first) {
    decodeLevels(bytes, at + 2, halfAt(bytes, at), values, first);
  },
});

/**
 * 136 bytes: d, high 2 bits of 8 scales, their low nibbles, 128 bytes of nibbles: 8 sub-blocks of 32, each laid out as in
 * IQ4_NL. Values d·(scale − 32)·level.
 */
export const IQ4_XS = blockType({
  id: 'IQ4_XS',
  ggmlType: 23,
  blockSize: 256,
  byteLength: 136,
  decodeBlock(bytes, at, values, first) {
    const shared = halfAt(bytes, at);
    const highScales = uint16At(bytes, at + 2);
    for (let sub = 0; sub < 8; sub++) {
      const low = (bytes[at + 4 + (sub >> 1)] >> (4 * (sub & 1))) & 15;
      const high = (highScales >> (2 * sub)) & 3;
      const scale = Math.fround(shared * ((low | (high << 4)) - 32));
      decodeLevels(bytes, at + 8 + 16 * sub, scale, values, first + 32 * sub);
    }
  },
});
