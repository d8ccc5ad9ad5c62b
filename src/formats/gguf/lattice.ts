/** IQ1_S to IQ3_S: 256 elements as indexes into grids of 4 or 8 numbers, signs and small scales (ggml-quants.c). */

import { halfToFloat } from '../../tensor/half.ts';
import { bitsAt, blockType, halfAt, uint16At } from './block-type.ts';
import { iq1Grid, iq2sGrid, iq2xsGrid, iq2xxsGrid, iq3sGrid, iq3xxsGrid } from './grids.ts';

const { fround } = Math;
const blockSize = 256;

/** Seven sign bits and the eighth that makes their number even (ksigns_iq2xs, ggml-common.h). */
const evenSigns = Uint8Array.from({ length: 128 }, (_, bits) => {
  let parity = bits;
  for (const shift of [4, 2, 1]) parity ^= parity >> shift;
  return bits | ((parity & 1) << 7);
});

/** Writes scale·grid, negative where a bit of `signs` is set, for `count` numbers of the grid from `from` on. */
function setSigned(
  values: Float32Array,
  first: number,
  grid: Int8Array,
  from: number,
  count: number,
  scale: number,
  signs: number,
): void {
  for (let i = 0; i < count; i++) {
    const value = scale * grid[from + i];
    values[first + i] = (signs >> i) & 1 ? -value : value;
  }
}

/** Nibble `index` of the bytes from `at` on, low ones first. */
function nibbleAt(bytes: Uint8Array, at: number, index: number): number {
  return (bytes[at + (index >> 1)] >> (4 * (index & 1))) & 15;
}

/**
 * 66 bytes: d, then for each 32 elements 4 indexes and 32 bits: four times 7 signs, a 4-bit scale on top. Values
 * ±d·(0.5 + scale)/4·grid.
 */
export const IQ2_XXS = blockType({
  id: 'IQ2_XXS',
  ggmlType: 16,
  blockSize,
  byteLength: 66,
  decodeBlock(bytes, at, values, first) {
    const grid = iq2xxsGrid();
    const shared = halfAt(bytes, at);
    for (let sub = 0; sub < 8; sub++) {
      const indexes = at + 2 + 8 * sub;
      const bits = bitsAt(bytes, indexes + 4);
      const scale = fround(shared * (0.5 + (bits >>> 28))) * 0.25;
      for (let i = 0; i < 4; i++) {
        const signs = evenSigns[(bits >>> (7 * i)) & 127];
        setSigned(values, first + 32 * sub + 8 * i, grid, 8 * bytes[indexes + i], 8, scale, signs);
      }
    }
  },
});

/** 74 bytes: d, 32 words of 9 bits of index and 7 signs, 16 4-bit scales. Values ±d·(0.5 + scale)/4·grid. */
export const IQ2_XS = blockType({
  id: 'IQ2_XS',
  ggmlType: 17,
  blockSize,
  byteLength: 74,
  decodeBlock(bytes, at, values, first) {
    const grid = iq2xsGrid();
    const shared = halfAt(bytes, at);
    for (let i = 0; i < 32; i++) {
      const word = uint16At(bytes, at + 2 + 2 * i);
      const scale = fround(shared * (0.5 + nibbleAt(bytes, at + 66, i >> 1))) * 0.25;
      setSigned(values, first + 8 * i, grid, 8 * (word & 511), 8, scale, evenSigns[word >> 9]);
    }
  },
});

/**
 * 82 bytes: d, 32 low bytes of indexes, 32 bytes of signs, 8 bytes of the indexes' high 2 bits, 16 4-bit scales. Values
 * ±d·(0.5 + scale)/4·grid.
 */
export const IQ2_S = blockType({
  id: 'IQ2_S',
  ggmlType: 22,
  blockSize,
  byteLength: 82,
  decodeBlock(bytes, at, values, first) {
    const grid = iq2sGrid();
    const shared = halfAt(bytes, at);
    for (let i = 0; i < 32; i++) {
      const index = bytes[at + 2 + i] | (((bytes[at + 66 + (i >> 2)] >> (2 * (i & 3))) & 3) << 8);
      const scale = fround(shared * (0.5 + nibbleAt(bytes, at + 74, i >> 1))) * 0.25;
      setSigned(values, first + 8 * i, grid, 8 * index, 8, scale, bytes[at + 34 + i]);
    }
  },
});

/**
 * 98 bytes: d, 64 indexes, then for each 32 elements 32 bits: four times 7 signs, a 4-bit scale on top. Values
 * ±d·(0.5 + scale)/2·grid, 4 elements an index.
 */
export const IQ3_XXS = blockType({
  id: 'IQ3_XXS',
  ggmlType: 18,
  blockSize,
  byteLength: 98,
  decodeBlock(bytes, at, values, first) {
    const grid = iq3xxsGrid();
    const shared = halfAt(bytes, at);
    for (let i = 0; i < 64; i++) {
      const bits = bitsAt(bytes, at + 66 + 4 * (i >> 3));
      const scale = fround(shared * (0.5 + (bits >>> 28))) * 0.5;
      const signs = evenSigns[(bits >>> (7 * ((i >> 1) & 3))) & 127] >> (4 * (i & 1));
      setSigned(values, first + 4 * i, grid, 4 * bytes[at + 2 + i], 4, scale, signs);
    }
  },
});

/**
 * 110 bytes: d, 64 low bytes of indexes, 8 bytes of their ninth bits, 32 bytes of signs, 8 4-bit scales. Values
 * ±d·(1 + 2·scale)·grid, 4 elements an index.
 */
export const IQ3_S = blockType({
  id: 'IQ3_S',
  ggmlType: 21,
  blockSize,
  byteLength: 110,
  decodeBlock(bytes, at, values, first) {
    const grid = iq3sGrid();
    const shared = halfAt(bytes, at);
    for (let i = 0; i < 64; i++) {
      const index = bytes[at + 2 + i] | (((bytes[at + 66 + (i >> 3)] >> (i & 7)) & 1) << 8);
      const scale = fround(shared * (1 + 2 * nibbleAt(bytes, at + 106, i >> 3)));
      const signs = bytes[at + 74 + (i >> 1)] >> (4 * (i & 1));
      setSigned(values, first + 4 * i, grid, 4 * index, 4, scale, signs);
    }
  },
});

/** What IQ1 types move a grid of −1, 0 and 1 by, up or down (IQ1S_DELTA and IQ1M_DELTA, ggml-common.h). */
const delta = 0.125;

function setShifted(values: Float32Array, first: number, grid: Int8Array, index: number, scale: number, by: number) {
  for (let i = 0; i < 8; i++) values[first + i] = scale * (grid[8 * index + i] + by);
}

/**
 * 50 bytes: d, 32 low bytes of indexes, then for each 32 elements a word: four times 3 high bits of an index, a 3-bit
 * scale, and the sign of delta. Values d·(2·scale + 1)·(grid ± delta).
 */
export const IQ1_S = blockType({
  id: 'IQ1_S',
  ggmlType: 19,
  blockSize,
  byteLength: 50,
  decodeBlock(bytes, at, values, first) {
    const grid = iq1Grid();
    const shared = halfAt(bytes, at);
    for (let i = 0; i < 32; i++) {
      const word = uint16At(bytes, at + 34 + 2 * (i >> 2));
      const scale = fround(shared * (2 * ((word >> 12) & 7) + 1));
      const index = bytes[at + 2 + i] | (((word >> (3 * (i & 3))) & 7) << 8);
      setShifted(values, first + 8 * i, grid, index, scale, word & 0x8000 ? -delta : delta);
    }
  },
});

/**
 * 56 bytes: 32 low bytes of indexes, 32 nibbles of 3 high bits and the sign of delta, 4 words of four 3-bit scales of 16
 * elements each. The words' top nibbles together are d, lowest first. Values d·(2·scale + 1)·(grid ± delta).
 */
export const IQ1_M = blockType({
  id: 'IQ1_M',
  ggmlType: 29,
  blockSize,
  byteLength: 56,
  decodeBlock(bytes, at, values, first) {
    const grid = iq1Grid();
    let half = 0;
    for (let i = 0; i < 4; i++) half |= (uint16At(bytes, at + 48 + 2 * i) >> 12) << (4 * i);
    const shared = halfToFloat(half);
    for (let i = 0; i < 32; i++) {
      const word = uint16At(bytes, at + 48 + 2 * (i >> 3));
      const scale = fround(shared * (2 * ((word >> (3 * ((i >> 1) & 3))) & 7) + 1));
      const nibble = nibbleAt(bytes, at + 32, i);
      const index = bytes[at + i] | ((nibble & 7) << 8);
      setShifted(values, first + 8 * i, grid, index, scale, nibble & 8 ? -delta : delta);
    }
  },
});
