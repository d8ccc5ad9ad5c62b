/** Extents, covering grids and codes of blocks. */
import type { Codes } from '../../formats/quantized.ts';
import { coverInterval, type Grid, type Parameters } from '../grid.ts';
import type { BlockLayout, CodeRange, Extent, Kernel, Noise } from '../kernel.ts';
import { checkLayout, checkMatrix, eachBlock, windows } from '../layout.ts';
import { checkPacked, reference } from '../reference.ts';
import { type Arena, windowLimit } from './arena.ts';
import { type Exports, flag } from './exports.ts';

/** How assembly/quantize.ts calls the type of codes. */
export function kindOf(codes: Codes): number {
  if (codes instanceof Int8Array) return 0;
  if (codes instanceof Uint8Array) return 1;
  return codes instanceof Int16Array ? 2 : 3;
}

/** Whether blocks are longer than a window, so that they are looked at piece by piece. */
export function isLong({ columns, blockSize }: BlockLayout): boolean {
  return Math.min(columns, blockSize) > windowLimit;
}

type Methods = Pick<Kernel, 'extent' | 'blockExtents' | 'cover' | 'quantize' | 'dequantize' | 'encode'>;

export function blockMethods(wasm: Exports, arena: Arena): Methods {
  const pair = new Float32Array(2);

  const methods: Methods = {
    extent(values: Float32Array): Extent {
      let min = Number.POSITIVE_INFINITY;
      let max = Number.NEGATIVE_INFINITY;
      let zeros = 0;
      const { length } = values;
      for (let start = 0; start < length; start += windowLimit) {
        const count = Math.min(windowLimit, length - start);
        const address = arena.input(values, start, count);
        const result = arena.output(pair, 0, 2);
        const found = wasm.extent(address, count, result);
        arena.deliver();
        if (found < 0) return reference.extent(values);
        zeros += found;
        min = Math.min(min, pair[0]);
        max = Math.max(max, pair[1]);
      }
      if (length === 0) return reference.extent(values);
      return { min, max, finite: length, zeros, nan: 0, positiveInfinity: 0, negativeInfinity: 0 };
    },

    blockExtents(values: Float32Array, layout: BlockLayout, minima: Float32Array, maxima: Float32Array): void {
      checkLayout(values.length, layout, minima, maxima);
      if (isLong(layout)) {
        eachBlock(layout, (start, end, parameter) => {
          const { min, max } = methods.extent(values.subarray(start, end));
          minima[parameter] = min;
          maxima[parameter] = max;
        });
        return;
      }
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const lows = arena.output(minima, parameter, parameters);
        const highs = arena.output(maxima, parameter, parameters);
        wasm.blockExtents(arena.input(values, start, count), rows, columns, blockSize, lows, highs);
        arena.deliver();
      }
    },

    cover(values: Float32Array, layout: BlockLayout, grid: Grid, scales: Float32Array, zeroPoints: Float32Array): void {
      checkLayout(values.length, layout, scales, zeroPoints);
      if (isLong(layout)) {
        const found: Parameters = { scale: 1, zeroPoint: 0 };
        eachBlock(layout, (start, end, parameter) => {
          const { min, max, finite } = methods.extent(values.subarray(start, end));
          coverInterval(min, max, grid, found);
          scales[parameter] = finite === end - start ? found.scale : Number.NaN;
          zeroPoints[parameter] = finite === end - start ? found.zeroPoint : 0;
        });
        return;
      }
      const { min, max, zeroPoint, symmetric, floatZeroPoint, scaleType } = grid;
      const flags = [flag(symmetric), flag(floatZeroPoint), flag(scaleType === 'float16')] as const;
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const scale = arena.output(scales, parameter, parameters);
        const zero = arena.output(zeroPoints, parameter, parameters);
        const address = arena.input(values, start, count);
        wasm.cover(address, rows, columns, blockSize, min, max, zeroPoint, ...flags, scale, zero);
        arena.deliver();
      }
    },

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
      const kind = kindOf(codes);
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const address = arena.input(values, start, count);
        const scale = arena.input(scales, parameter, parameters);
        const zero = arena.input(zeroPoints, parameter, parameters);
        const out = arena.output(codes, start, count);
        wasm.quantize(address, rows, columns, blockSize, scale, zero, min, max, out, kind);
        arena.deliver();
      }
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
      const kind = kindOf(codes);
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const address = arena.input(codes, start, count);
        const scale = arena.input(scales, parameter, parameters);
        const zero = arena.input(zeroPoints, parameter, parameters);
        const out = arena.output(values, start, count);
        wasm.dequantize(address, rows, columns, blockSize, scale, zero, out, kind);
        arena.deliver();
      }
    },

    encode(
      values: Float32Array,
      layout: BlockLayout,
      scales: Float32Array,
      zeroPoints: Float32Array,
      { min, max, bits, lowest }: CodeRange,
      packed: Uint8Array,
    ): Noise {
      checkLayout(values.length, layout, scales, zeroPoints);
      checkPacked(packed, values.length, bits);
      // Windows of other sizes end within bytes.
      if (layout.columns % 8 !== 0 && values.length > windowLimit) {
        return reference.encode(values, layout, scales, zeroPoints, { min, max, bits, lowest }, packed);
      }
      const kind = min < 0 ? 0 : 1;
      let signal = 0;
      let error = 0;
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const address = arena.input(values, start, count);
        const scale = arena.input(scales, parameter, parameters);
        const zero = arena.input(zeroPoints, parameter, parameters);
        const out = arena.output(packed, (start / 8) * bits, Math.ceil((count * bits) / 8));
        const codes = arena.reserve(count);
        const sums = arena.zeros(16);
        wasm.quantizeNoise(address, rows, columns, blockSize, scale, zero, min, max, codes, kind, sums);
        // What lies behind the last codes must become zeros.
        if (count % 8 !== 0) arena.fill(codes + count, 8 - (count % 8), lowest);
        wasm.pack(codes, count, bits, lowest, out);
        const [own, lost] = arena.doubles(sums, 2);
        signal += own;
        error += lost;
        arena.deliver();
      }
      return { signal, error };
    },
  };
  return methods;
}
