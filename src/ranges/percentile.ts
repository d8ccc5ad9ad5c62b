/** `percentile`: the interval that holds a given percentage of the values. */
import { HalftoneError } from '../base/errors.ts';
import type { HistogramState } from '../statistics/index.ts';
import type { Interval, Range, RangeOptions } from './range.ts';
import { histogramIn, observed } from './states.ts';

/** ONNX Runtime's default (onnxruntime/quantization/calibrate.py, PercentileCalibrater). */
const defaultPercentile = 99.999;

/** The fraction of values to cut off, in total. */
function cutOf({ percentile = defaultPercentile }: RangeOptions): number {
  if (!(percentile > 0 && percentile <= 100)) {
    throw new HalftoneError('usage', `percentile: expected a number above 0 and up to 100, got ${percentile}`);
  }
  return (100 - percentile) / 100;
}

/** Masses in ascending order of position, each spread evenly over [start, end]. */
interface Mass {
  readonly start: number;
  readonly end: number;
  readonly count: number;
}

/** The largest position with at most `cut` mass beyond it, interpolated within masses. */
function upperQuantile(masses: readonly Mass[], cut: number): number {
  let beyond = 0;
  for (let i = masses.length - 1; i >= 0; i--) {
    const { start, end, count } = masses[i];
    if (beyond + count > cut) return end - (end - start) * ((cut - beyond) / count);
    beyond += count;
  }
  return masses.length === 0 ? 0 : masses[0].start;
}

function mirrored(masses: readonly Mass[]): Mass[] {
  return masses.map(({ start, end, count }) => ({ start: -end, end: -start, count })).reverse();
}

function massesOf({ first, exponent, counts, zeros }: HistogramState): Mass[] {
  const stride = 2 ** exponent;
  const masses: Mass[] = [];
  const zero = { start: 0, end: 0, count: zeros };
  for (let i = 0; i < counts.length; i++) {
    if (first + i === 0 && zeros > 0) masses.push(zero);
    if (counts[i] > 0) masses.push({ start: (first + i) * stride, end: (first + i + 1) * stride, count: counts[i] });
  }
  if (zeros > 0 && !masses.includes(zero)) {
    if (first > 0) masses.unshift(zero);
    else masses.push(zero);
  }
  return masses;
}

function within(masses: readonly Mass[], seen: Interval, count: number, options: RangeOptions): Interval {
  const cut = cutOf(options) * count;
  if (options.symmetric) {
    const folded = [...masses, ...mirrored(masses)].sort((a, b) => a.start - b.start || a.end - b.end);
    const bound = Math.min(upperQuantile(folded, cut), Math.max(-seen.min, seen.max, 0));
    return { min: -Math.max(bound, 0), max: Math.max(bound, 0) };
  }
  const max = Math.min(upperQuantile(masses, cut / 2), seen.max);
  const min = Math.max(-upperQuantile(mirrored(masses), cut / 2), seen.min);
  return min <= max ? { min, max } : { min: seen.min, max: seen.max };
}

export const percentile: Range<'percentile'> = {
  id: 'percentile',
  summary: 'the given percentage of the values; half of the rest is cut on each side',
  needs: 'histogram',
  choose(state, options) {
    const histogram = histogramIn(state);
    return within(massesOf(histogram), observed(histogram), histogram.count, options);
  },
  chooseFrom(values, options) {
    const used = values.filter(Number.isFinite);
    const { length } = used;
    if (length === 0) return { min: 0, max: 0 };
    const cut = cutOf(options) * length;
    if (options.symmetric) {
      const magnitudes = used.map(Math.abs).sort();
      const bound = magnitudes[Math.max(0, length - 1 - Math.floor(cut))];
      return { min: -bound, max: bound };
    }
    used.sort();
    const skipped = Math.min(Math.floor(cut / 2), Math.floor((length - 1) / 2));
    return { min: used[skipped], max: used[length - 1 - skipped] };
  },
};
