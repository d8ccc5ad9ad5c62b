/** `mse`: the interval whose grid of codes has the least mean squared error (ALGORITHMS 2.5, p = 2). */
import { roundingMagic } from '../base/round.ts';
import { affineParameters, codeRange } from './affine.ts';
import type { Interval, Range, RangeOptions } from './range.ts';
import { histogramIn, observed, observedIn, type Points, pointsIn, pointsOf } from './states.ts';

/** A constant of this module: loops reach it faster than an imported one under some loaders. */
const magic = roundingMagic;

/** Histogram points looked at: enough for 8-bit grids, few enough for hundreds of candidates. */
const mostPoints = 2048;

/** Factors of the first, coarse search: 1, 2^(−1/3), … down to 2^(−16/3) = 1/40 of the observed bound. */
const coarse = Array.from({ length: 17 }, (_, i) => 2 ** (-i / 3));

/** Rounds of moving one end, then the other. */
const mostRounds = 3;

/** Relative steps of the refinement around the best so far, coarse to fine. */
const refinements = [2 ** (1 / 6), 2 ** (1 / 12), 2 ** (1 / 24), 2 ** (1 / 48)];

/** Σ weight · (value − quantized value)² over the grid that covers the interval. */
function errorOn({ values, weights }: Points, interval: Interval, { format, symmetric }: RangeOptions): number {
  const { scale, zeroPoint } = affineParameters(interval, format, symmetric);
  const { min, max } = codeRange(format, symmetric);
  const low = min - zeroPoint;
  const high = max - zeroPoint;
  const offset = Number.isInteger(zeroPoint) ? 0 : zeroPoint;
  const inverse = 1 / scale;
  const { length } = values;
  let sum = 0;
  for (let i = 0; i < length; i++) {
    const value = values[i];
    let level = value * inverse + offset + magic - magic - offset;
    if (level < low) level = low;
    if (level > high) level = high;
    const error = value - level * scale;
    sum += weights[i] * error * error;
  }
  return sum;
}

/** The best interval by shrinking both ends of `seen` (one end, if symmetric or one-sided) independently. */
function search(points: Points, seen: Interval, options: RangeOptions): Interval {
  const low = Math.min(seen.min, 0);
  const high = Math.max(seen.max, 0);
  const bound = Math.max(-low, high);
  const [start, end] = options.symmetric ? [bound, bound] : [-low, high];
  const intervalOf = (a: number, b: number): Interval => ({ min: -start * a, max: end * b });
  const coupled = options.symmetric || start === 0 || end === 0;
  let best = { a: 1, b: 1, error: errorOn(points, intervalOf(1, 1), options) };
  const consider = (a: number, b: number) => {
    if (a > 1 || b > 1) return;
    const error = errorOn(points, intervalOf(a, b), options);
    if (error < best.error) best = { a, b, error };
  };
  for (const factor of coarse) consider(factor, factor);
  for (
    let round = 0, before = Number.POSITIVE_INFINITY;
    !coupled && round < mostRounds && best.error < before;
    round++
  ) {
    before = best.error;
    for (const a of coarse) consider(a, best.b);
    for (const b of coarse) consider(best.a, b);
  }
  for (const step of refinements) {
    const { a, b } = best;
    for (const factor of [1 / step, step]) {
      if (coupled) consider(a * factor, a * factor);
      else {
        consider(a * factor, b);
        consider(a, b * factor);
        consider(a * factor, b * factor);
        consider(a * factor, b / factor);
      }
    }
  }
  const chosen = intervalOf(best.a, best.b);
  return { min: chosen.min + 0, max: chosen.max };
}

export const mse: Range<'mse'> = {
  id: 'mse',
  summary: 'the interval with the least mean squared quantization error',
  needs: 'histogram',
  choose(state, options) {
    const histogram = histogramIn(state);
    return search(pointsOf(histogram, mostPoints), observed(histogram), options);
  },
  chooseFrom: (values, options) => search(pointsIn(values), observedIn(values), options),
};
