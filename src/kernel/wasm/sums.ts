/** Sums over many values. */
import type { Codes } from '../../formats/quantized.ts';
import type { BlockLayout, ChannelLayout, Kernel, Noise } from '../kernel.ts';
import { checkLayout, checkMatrix, windows } from '../layout.ts';
import { checkChannels, checkLengths, checkMoment, countBins } from '../sums.ts';
import { type Arena, windowLimit } from './arena.ts';
import { kindOf } from './blocks.ts';
import type { Exports } from './exports.ts';

type Methods = Pick<Kernel, 'squaredError' | 'noise' | 'countBins' | 'channelSums' | 'secondMoment'>;

/** The side of a tile of assembly/sums.ts, and the rows that are multiplied at a time. */
const side = 64;
const mostRows = 128;

/** Elements of the rows that are multiplied at a time, and of all channels' sums: larger ones are taken in parts. */
const bandLimit = 2 ** 19;

/** With fewer values than this for each bin, clearing the tables takes longer than they save. */
const valuesPerBin = 8;

const total = (lanes: Float64Array) => lanes[0] + lanes[1] + (lanes[2] + lanes[3]);

export function sumMethods(wasm: Exports, arena: Arena): Methods {
  /** Σ value and Σ value² of runs that are longer than a window. */
  function longRuns(values: Float32Array, layout: ChannelLayout, sums: Float64Array, squares: Float64Array): void {
    const { outer, channels, inner } = layout;
    for (let run = 0; run < outer * channels; run++) {
      const lanes = arena.zeros(64);
      const mark = arena.next;
      for (let start = 0; start < inner; start += windowLimit) {
        const count = Math.min(windowLimit, inner - start);
        wasm.runSums(arena.input(values, run * inner + start, count), count, lanes);
        arena.reset(mark);
      }
      sums[run % channels] += total(arena.doubles(lanes, 4));
      squares[run % channels] += total(arena.doubles(lanes + 32, 4));
      arena.reset();
    }
  }

  return {
    squaredError(a: Float32Array, b: Float32Array): number {
      checkLengths(a, b);
      const lanes = arena.zeros(32);
      const mark = arena.next;
      for (let start = 0; start < a.length; start += windowLimit) {
        const count = Math.min(windowLimit, a.length - start);
        wasm.squaredError(arena.input(a, start, count), arena.input(b, start, count), count, lanes);
        arena.reset(mark);
      }
      arena.reset();
      return total(arena.doubles(lanes, 4));
    },

    noise(
      values: Float32Array,
      codes: Codes,
      layout: BlockLayout,
      scales: Float32Array,
      zeroPoints: Float32Array,
    ): Noise {
      checkLayout(codes.length, layout, scales, zeroPoints);
      checkMatrix(layout.rows, layout.columns, values);
      const kind = kindOf(codes);
      const sums = arena.zeros(16);
      const mark = arena.next;
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const address = arena.input(values, start, count);
        const code = arena.input(codes, start, count);
        const scale = arena.input(scales, parameter, parameters);
        const zero = arena.input(zeroPoints, parameter, parameters);
        wasm.noise(address, rows, columns, blockSize, scale, zero, code, kind, sums);
        arena.reset(mark);
      }
      arena.reset();
      const [signal, error] = arena.doubles(sums, 2);
      return { signal, error };
    },

    countBins(values: Float32Array, inverseStride: number, first: number, counts: Float64Array): void {
      const { length } = values;
      const bins = counts.length;
      if (length < bins * valuesPerBin || bins >= windowLimit) {
        countBins(values, inverseStride, first, counts);
        return;
      }
      const tables = arena.zeros(16 * (bins + 1));
      const mark = arena.next;
      for (let start = 0; start < length; start += windowLimit) {
        const count = Math.min(windowLimit, length - start);
        wasm.countBins(arena.input(values, start, count), count, inverseStride, first, bins, tables);
        arena.reset(mark);
      }
      const counters = arena.counters(tables, 4 * (bins + 1));
      for (let table = 0; table < 4; table++) {
        const offset = table * (bins + 1);
        for (let bin = 0; bin < bins; bin++) counts[bin] += counters[offset + bin];
      }
      arena.reset();
    },

    channelSums(values: Float32Array, layout: ChannelLayout, sums: Float64Array, squares: Float64Array): void {
      checkChannels(values, layout, sums, squares);
      const { outer, channels, inner } = layout;
      if (inner > windowLimit) {
        longRuns(values, layout, sums, squares);
        return;
      }
      // Channels in parts whose sums stay in the memory, of a row as long as they all are, or of whole rows.
      const part = Math.min(channels, windowLimit);
      for (let channel = 0; channel < channels; channel += part) {
        const own = Math.min(part, channels - channel);
        const sum = arena.copy(sums, channel, own);
        const square = arena.copy(squares, channel, own);
        const mark = arena.next;
        const runs = Math.max(1, Math.floor(windowLimit / Math.max(inner, 1)));
        const rowRuns = own === channels ? outer * channels : own;
        for (let row = 0; row < (own === channels ? 1 : outer); row++) {
          const begin = row * channels + channel;
          const step = inner === 1 ? Math.max(own, runs - (runs % own)) : runs;
          for (let run = 0; run < rowRuns; run += step) {
            const count = Math.min(step, rowRuns - run);
            const address = arena.input(values, (begin + run) * inner, count * inner);
            if (inner === 1) wasm.columnSums(address, count / own, own, sum, square);
            else wasm.channelSums(address, count, inner, run % own, own, sum, square);
            arena.reset(mark);
          }
        }
        arena.fetch(sum, sums, channel, own);
        arena.fetch(square, squares, channel, own);
        arena.reset();
      }
    },

    secondMoment(values: Float32Array, rows: number, columns: number, sums: Float64Array): void {
      checkMoment(values, rows, columns, sums);
      const band = Math.max(1, Math.min(mostRows, Math.floor(bandLimit / columns)));
      for (let row = 0; row < rows; row += band) {
        const height = Math.min(band, rows - row);
        const address = arena.input(values, row * columns, height * columns);
        const out = arena.reserve(side * side * 4);
        const products = arena.floats(out, side * side);
        for (let top = 0; top < columns; top += side) {
          for (let left = top; left < columns; left += side) {
            wasm.products(address, height, columns, top, left, out);
            addTile(products, columns, top, left, sums);
          }
        }
        arena.reset();
      }
    },
  };
}

/** Adds a tile of products to the upper triangle. */
function addTile(products: Float32Array, columns: number, top: number, left: number, sums: Float64Array): void {
  const height = Math.min(side, columns - top);
  const width = Math.min(side, columns - left);
  for (let i = 0; i < height; i++) {
    const target = (top + i) * columns + left;
    for (let j = top === left ? i : 0; j < width; j++) sums[target + j] += products[i * side + j];
  }
}
