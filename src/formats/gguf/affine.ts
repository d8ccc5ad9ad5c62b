/** Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 with one float16 scale, some with a float16 minimum (ggml-quants.c). */
import {
  bitsAt,
  blockType,
  type EncodingGgufType,
  halfAt,
  inverse,
  largestMagnitude,
  roundHalfAway,
  setHalf,
} from './block-type.ts';

const { fround } = Math;
const blockSize = 32;
const codes = new Uint8Array(blockSize);

interface Nibbles<Id extends string> {
  readonly id: Id;
  readonly ggmlType: number;
  /** Bits of a code; the fifth ones of a block lie together in 4 bytes before the nibbles. */
  readonly bits: 4 | 5;
}

/** Scale (and minimum), fifth bits, 16 bytes whose low nibbles are elements 0 to 15 and whose high ones 16 to 31. */
function setCodes(bytes: Uint8Array, nibbles: number, bits: 4 | 5): void {
  let fifth = 0;
  for (let j = 0; j < 16; j++) {
    bytes[nibbles + j] = (codes[j] & 15) | ((codes[j + 16] & 15) << 4);
    fifth |= ((codes[j] >> 4) << j) | ((codes[j + 16] >> 4) << (j + 16));
  }
  if (bits === 5) for (let j = 0; j < 4; j++) bytes[nibbles - 4 + j] = fifth >>> (8 * j);
}

function readCodes(bytes: Uint8Array, nibbles: number, bits: 4 | 5): void {
  const fifth = bits === 5 ? bitsAt(bytes, nibbles - 4) : 0;
  for (let j = 0; j < 16; j++) {
    const byte = bytes[nibbles + j];
    codes[j] = (byte & 15) | (((fifth >>> j) & 1) << 4);
    codes[j + 16] = (byte >> 4) | (((fifth >>> (j + 16)) & 1) << 4);
  }
}

/** The integer part, at most `maxCode`. What the overflowing inverse of a tiny scale made infinite or NaN is 0, as there. */
function codeOf(position: number, maxCode: number): number {
  return Math.min(position & 0xff, maxCode);
}

/** Values d·(q − 2^(bits−1)). The value of largest magnitude gets the code 0 of either sign, so d may be negative. */
function symmetric<Id extends string>({ id, ggmlType, bits }: Nibbles<Id>): EncodingGgufType<Id> {
  const zero = 2 ** (bits - 1);
  const nibbles = bits === 5 ? 6 : 2;
  return blockType({
    id,
    ggmlType,
    blockSize,
    byteLength: nibbles + 16,
    decodeBlock(bytes, at, values, first) {
      const scale = halfAt(bytes, at);
      readCodes(bytes, at + nibbles, bits);
      for (let i = 0; i < blockSize; i++) values[first + i] = scale * (codes[i] - zero);
    },
    encodeBlock(values, first, bytes, at) {
      let extreme = values[first];
      for (let i = first + 1; i < first + blockSize; i++) {
        if (Math.abs(values[i]) > Math.abs(extreme)) extreme = values[i];
      }
      const scale = fround(extreme / -zero);
      const factor = inverse(scale);
      for (let i = 0; i < blockSize; i++) {
        codes[i] = codeOf(fround(fround(values[first + i] * factor) + (zero + 0.5)), 2 * zero - 1);
      }
      setHalf(bytes, at, scale);
      setCodes(bytes, at + nibbles, bits);
    },
  });
}

/** Values d·q + m, m the smallest value of the block. */
function withMinimum<Id extends string>({ id, ggmlType, bits }: Nibbles<Id>): EncodingGgufType<Id> {
  const maxCode = 2 ** bits - 1;
  const nibbles = bits === 5 ? 8 : 4;
  return blockType({
    id,
    ggmlType,
    blockSize,
    byteLength: nibbles + 16,
    decodeBlock(bytes, at, values, first) {
      const scale = halfAt(bytes, at);
      const minimum = halfAt(bytes, at + 2);
      readCodes(bytes, at + nibbles, bits);
      for (let i = 0; i < blockSize; i++) values[first + i] = fround(scale * codes[i]) + minimum;
    },
    encodeBlock(values, first, bytes, at) {
      let minimum = values[first];
      let maximum = values[first];
      for (let i = first + 1; i < first + blockSize; i++) {
        if (values[i] < minimum) minimum = values[i];
        if (values[i] > maximum) maximum = values[i];
      }
      const scale = fround(fround(maximum - minimum) / maxCode);
      const factor = inverse(scale);
      for (let i = 0; i < blockSize; i++) {
        const position = fround(fround(values[first + i] - minimum) * factor);
        codes[i] = codeOf(fround(position + 0.5), maxCode);
      }
      setHalf(bytes, at, scale);
      setHalf(bytes, at + 2, minimum);
      setCodes(bytes, at + nibbles, bits);
    },
  });
}

/** 18 bytes: d, 4-bit codes; d·(q − 8). */
export const Q4_0 = symmetric({ id: 'Q4_0', ggmlType: 2, bits: 4 });

/** 20 bytes: d, m, 4-bit codes; d·q + m. */
export const Q4_1 = withMinimum({ id: 'Q4_1', ggmlType: 3, bits: 4 });

/** 22 bytes: d, fifth bits, nibbles; d·(q − 16). */
export const Q5_0 = symmetric({ id: 'Q5_0', ggmlType: 6, bits: 5 });

/** 24 bytes: d, m, fifth bits, nibbles; d·q + m. */
export const Q5_1 = withMinimum({ id: 'Q5_1', ggmlType: 7, bits: 5 });

/** 34 bytes: d, signed bytes; d·q. */
export const Q8_0 = blockType({
  id: 'Q8_0',
  ggmlType: 8,
  blockSize,
  byteLength: 34,
  decodeBlock(bytes, at, values, first) {
    const scale = halfAt(bytes, at);
    for (let i = 0; i < blockSize; i++) values[first + i] = scale * ((bytes[at + 2 + i] << 24) >> 24);
  },
  encodeBlock(values, first, bytes, at) {
    const scale = fround(largestMagnitude(values, first, blockSize) / 127);
    const factor = inverse(scale);
    setHalf(bytes, at, scale);
    for (let i = 0; i < blockSize; i++) bytes[at + 2 + i] = roundHalfAway(fround(values[first + i] * factor));
  },
});
