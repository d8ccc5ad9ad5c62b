/** TQ1_0 and TQ2_0: 256 elements of −1, 0 and 1 times a float16 scale, the largest magnitude (ggml-quants.c). */
import { blockType, halfAt, inverse, largestMagnitude, roundHalfAway, setHalf } from './block-type.ts';

const { fround } = Math;
const blockSize = 256;

/** Codes 0, 1 and 2 of the elements from `first` on; returns the scale. */
function ternaryCodes(values: Float32Array, first: number, codes: Uint8Array): number {
  const scale = largestMagnitude(values, first, blockSize);
  const factor = inverse(scale);
  // A scale whose inverse overflows gives no numbers; code 1, a zero, is what gguf-py makes of them.
  const finite = Number.isFinite(factor);
  for (let i = 0; i < blockSize; i++) codes[i] = finite ? roundHalfAway(fround(values[first + i] * factor)) + 1 : 1;
  return scale;
}

const codes = new Uint8Array(blockSize);

/** Bytes that hold one ternary digit of each of so many consecutive elements, most significant digit first. */
const digitRuns = [
  { byte: 0, bytes: 32, element: 0, digits: 5 },
  { byte: 32, bytes: 16, element: 160, digits: 5 },
  { byte: 48, bytes: 4, element: 240, digits: 4 },
] as const;

const powers = [1, 3, 9, 27, 81] as const;

/**
 * 54 bytes: 52 of ternary digits, d. A byte is a fraction of 256 whose first digits in base 3 are those of its elements:
 * ceil(256·n / 243) for the number n of 5 digits, so that multiplying by 3 carries digit after digit out of it.
 */
export const TQ1_0 = blockType({
  id: 'TQ1_0',
  ggmlType: 34,
  blockSize,
  byteLength: 54,
  decodeBlock(bytes, at, values, first) {
    const scale = halfAt(bytes, at + 52);
    for (const run of digitRuns) {
      for (let digit = 0; digit < run.digits; digit++) {
        const from = first + run.element + digit * run.bytes;
        for (let i = 0; i < run.bytes; i++) {
          const rest = (bytes[at + run.byte + i] * powers[digit]) & 0xff;
          values[from + i] = scale * (((rest * 3) >> 8) - 1);
        }
      }
    }
  },
  encodeBlock(values, first, bytes, at) {
    const scale = ternaryCodes(values, first, codes);
    for (const run of digitRuns) {
      for (let i = 0; i < run.bytes; i++) {
        let number = 0;
        for (let digit = 0; digit < run.digits; digit++) {
          number += codes[run.element + digit * run.bytes + i] * powers[4 - digit];
        }
        bytes[at + run.byte + i] = Math.ceil((256 * number) / 243);
      }
    }
    setHalf(bytes, at + 52, scale);
  },
});

/** 66 bytes: 64 of 2-bit codes, d. In each half of 128, byte l has elements l, l + 32, l + 64 and l + 96. */
export const TQ2_0 = blockType({
  id: 'TQ2_0',
  ggmlType: 35,
  blockSize,
  byteLength: 66,
  decodeBlock(bytes, at, values, first) {
    const scale = halfAt(bytes, at + 64);
    for (let i = 0; i < blockSize; i++) {
      const byte = bytes[at + 32 * (i >> 7) + (i & 31)];
      values[first + i] = scale * (((byte >> (2 * ((i >> 5) & 3))) & 3) - 1);
    }
  },
  encodeBlock(values, first, bytes, at) {
    const scale = ternaryCodes(values, first, codes);
    for (let byte = 0; byte < 64; byte++) {
      const from = 128 * (byte >> 5) + (byte & 31);
      bytes[at + byte] = codes[from] | (codes[from + 32] << 2) | (codes[from + 64] << 4) | (codes[from + 96] << 6);
    }
    setHalf(bytes, at + 64, scale);
  },
});
