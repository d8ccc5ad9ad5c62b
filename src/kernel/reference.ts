/** The complete, readable kernels in plain TypeScript. Every faster build is held against them. */
import { HalftoneError } from '../base/errors.ts';
import { roundHalfToEven } from '../base/round.ts';
import type { Codes } from '../formats/quantized.ts';
import { chooseCodes, improveCodes, type Rounder } from './compensation.ts';
import { fit } from './fit.ts';
import { decodeFloats, encodeFloats } from './floats.ts';
import { coverInterval, type Grid, type Parameters } from './grid.ts';
import type { BlockLayout, CodeRange, Elements, Extent, Kernel, Noise, RowGrids } from './kernel.ts';
import { checkLayout, checkMatrix, checkTurned, eachBlock } from './layout.ts';
import { channelSums, countBins, secondMoment, squaredError } from './sums.ts';

/** One code. See `Kernel.quantize`. */
export function quantizeValue(value: number, scale: number, zeroPoint: number, min: number, max: number): number {
  const ratio = Math.fround(value / scale);
  const code = Number.isInteger(zeroPoint) ? roundHalfToEven(ratio) + zeroPoint : roundHalfToEven(ratio + zeroPoint);
  return code > min ? Math.min(code, max) : min;
}

/** One value. See `Kernel.dequantize`. */
export function dequantizeValue(code: number, scale: number, zeroPoint: number): number {
  return Math.fround((code - zeroPoint) * scale);
}

/** The rounding of `Kernel.quantize` with integer zero points. */
function gridRounder({ perRow, scales, zeroPoints, min, max }: RowGrids): Rounder {
  return {
    nearest(row, parameter, number) {
      const index = row * perRow + parameter;
      return quantizeValue(number, scales[index], zeroPoints[index], min, max);
    },
    value(row, parameter, code) {
      const index = row * perRow + parameter;
      return dequantizeValue(code, scales[index], zeroPoints[index]);
    },
  };
}

/** @throws HalftoneError `internal` where packed codes have too much room, or too little. */
export function checkPacked(packed: Uint8Array, count: number, bits: number): void {
  checkBits(bits);
  const needed = Math.ceil((count * bits) / 8);
  if (packed.length !== needed) {
    throw new HalftoneError('internal', `packing: expected room for ${needed} bytes, got ${packed.length}`);
  }
}

export function checkBits(bits: number): void {
  if (!Number.isInteger(bits) || bits < 1 || bits > 8) {
    throw new HalftoneError('internal', `packing: expected 1 to 8 bits, got ${bits}`);
  }
}

/**
 * Integers in the order of the floats they stand for: a float's bits, the magnitude inverted below zero. Comparing
 * them is more than twice as fast as comparing floats. −infinity has the key ~infinityKey, NaN lies beyond both.
 */
const infinityKey = 0x7f800000;
const keyWord = new Int32Array(1);
const keyFloat = new Float32Array(keyWord.buffer);

/** The float of a key; −0 becomes 0. */
function valueOfKey(key: number): number {
  keyWord[0] = key ^ ((key >> 31) & 0x7fffffff);
  return keyFloat[0] + 0;
}

/** The side of the square tiles that `transpose` works in, so that both matrices stay in the cache. */
const tile = 32;

export const reference: Kernel = {
  id: 'reference',

  room: (bytes: number) => new Uint8Array(bytes),
  desk: (bytes: number) => new Uint8Array(bytes),

  extent(values: Float32Array): Extent {
    const { length } = values;
    const words = new Int32Array(values.buffer, values.byteOffset, length);
    let low = 0x7fffffff;
    let high = -0x80000000;
    let nonZeros = 0;
    for (let i = 0; i < length; i++) {
      const word = words[i];
      const key = word ^ ((word >> 31) & 0x7fffffff);
      if (key < low) low = key;
      if (key > high) high = key;
      const magnitude = word << 1;
      nonZeros = (nonZeros + ((magnitude | -magnitude) >>> 31)) | 0;
    }
    const zeros = length - nonZeros;
    if (length === 0 || high >= infinityKey || low <= ~infinityKey) return slowExtent(values, zeros);
    const min = valueOfKey(low);
    const max = valueOfKey(high);
    return { min, max, finite: length, zeros, nan: 0, positiveInfinity: 0, negativeInfinity: 0 };
  },

  blockExtents(values: Float32Array, layout: BlockLayout, minima: Float32Array, maxima: Float32Array): void {
    checkLayout(values.length, layout, minima, maxima);
    eachBlock(layout, (start, end, parameter) => {
      const { min, max } = reference.extent(values.subarray(start, end));
      minima[parameter] = min;
      maxima[parameter] = max;
    });
  },

  cover(values: Float32Array, layout: BlockLayout, grid: Grid, scales: Float32Array, zeroPoints: Float32Array): void {
    checkLayout(values.length, layout, scales, zeroPoints);
    const found: Parameters = { scale: 1, zeroPoint: 0 };
    eachBlock(layout, (start, end, parameter) => {
      const { min, max, finite } = reference.extent(values.subarray(start, end));
      coverInterval(min, max, grid, found);
      scales[parameter] = finite === end - start ? found.scale : Number.NaN;
      zeroPoints[parameter] = finite === end - start ? found.zeroPoint : 0;
    });
  },

  fit,

  quantize(
    values: Float32Array,
    layout: BlockLayout,
    scales: Float32Array,
    zeroPoints: Float32Array,
    min: number,
    max: number,
    codes: Codes,
  ): void {
    checkLayout(values.length, layout, scales, zeroPoints);
    checkMatrix(layout.rows, layout.columns, codes);
    eachBlock(layout, (start, end, parameter) => {
      const scale = scales[parameter];
      const zeroPoint = zeroPoints[parameter];
      for (let i = start; i < end; i++) codes[i] = quantizeValue(values[i], scale, zeroPoint, min, max);
    });
  },

  dequantize(
    codes: Codes,
    layout: BlockLayout,
    scales: Float32Array,
    zeroPoints: Float32Array,
    values: Float32Array,
  ): void {
    checkLayout(codes.length, layout, scales, zeroPoints);
    checkMatrix(layout.rows, layout.columns, values);
    eachBlock(layout, (start, end, parameter) => {
      const scale = scales[parameter];
      const zeroPoint = zeroPoints[parameter];
      for (let i = start; i < end; i++) values[i] = (codes[i] - zeroPoint) * scale;
    });
  },

  noise(
    values: Float32Array,
    codes: Codes,
    layout: BlockLayout,
    scales: Float32Array,
    zeroPoints: Float32Array,
  ): Noise {
    checkMatrix(layout.rows, layout.columns, values);
    const quantized = new Float32Array(values.length);
    reference.dequantize(codes, layout, scales, zeroPoints, quantized);
    return { signal: squaredError(values, new Float32Array(values.length)), error: squaredError(values, quantized) };
  },

  pack(codes: ArrayLike<number>, bits: number, lowest = 0): Uint8Array {
    checkBits(bits);
    const bytes = new Uint8Array(Math.ceil((codes.length * bits) / 8));
    const mask = (1 << bits) - 1;
    for (let i = 0, position = 0; i < codes.length; i++, position += bits) {
      const byte = Math.floor(position / 8);
      const shifted = ((codes[i] - lowest) & mask) << (position % 8);
      bytes[byte] |= shifted;
      if (shifted > 255) bytes[byte + 1] = shifted >> 8;
    }
    return bytes;
  },

  encode(
    values: Float32Array,
    layout: BlockLayout,
    scales: Float32Array,
    zeroPoints: Float32Array,
    { min, max, bits, lowest }: CodeRange,
    packed: Uint8Array,
  ): Noise {
    checkPacked(packed, values.length, bits);
    const codes = new Int16Array(values.length);
    reference.quantize(values, layout, scales, zeroPoints, min, max, codes);
    packed.set(reference.pack(codes, bits, lowest));
    return reference.noise(values, codes, layout, scales, zeroPoints);
  },

  unpack(bytes: Uint8Array, bits: number, signed: boolean, count: number): Int8Array | Uint8Array {
    checkBits(bits);
    const needed = Math.ceil((count * bits) / 8);
    if (bytes.length < needed) {
      throw new HalftoneError('invalid-file', `packed codes: expected ${needed} bytes, got ${bytes.length}`);
    }
    const codes = signed ? new Int8Array(count) : new Uint8Array(count);
    const mask = (1 << bits) - 1;
    const unused = 32 - bits;
    for (let i = 0, position = 0; i < count; i++, position += bits) {
      const byte = Math.floor(position / 8);
      const pair = bytes[byte] | ((bytes[byte + 1] ?? 0) << 8);
      const code = (pair >> (position % 8)) & mask;
      codes[i] = signed ? (code << unused) >> unused : code;
    }
    return codes;
  },

  transpose<T extends Elements>(values: T, rows: number, columns: number, out: T, first = 0): void {
    const count = checkTurned(values, rows, columns, out, first);
    for (let top = 0; top < rows; top += tile) {
      const bottom = Math.min(top + tile, rows);
      for (let left = 0; left < count; left += tile) {
        const right = Math.min(left + tile, count);
        for (let column = left; column < right; column++) {
          for (let row = top; row < bottom; row++) out[column * rows + row] = values[row * columns + first + column];
        }
      }
    }
  },

  encodeFloats,
  decodeFloats,
  squaredError,
  countBins,
  channelSums,
  secondMoment,
  chooseCodes: (block, grids, feed, upper, pivots) => chooseCodes(block, gridRounder(grids), feed, upper, pivots),
  improveCodes: (block, grids, gradients, curvature) => improveCodes(block, gridRounder(grids), gradients, curvature),
};

/** The extent of a batch with values that are not finite, or with none at all. */
function slowExtent(values: Float32Array, zeros: number): Extent {
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  let finite = 0;
  let nan = 0;
  let positiveInfinity = 0;
  let negativeInfinity = 0;
  for (const value of values) {
    if (Number.isFinite(value)) {
      finite++;
      if (value < min) min = value;
      if (value > max) max = value;
    } else if (Number.isNaN(value)) nan++;
    else if (value > 0) positiveInfinity++;
    else negativeInfinity++;
  }
  if (finite === 0) {
    min = 0;
    max = 0;
  }
  return { min: min + 0, max: max + 0, finite, zeros, nan, positiveInfinity, negativeInfinity };
}
