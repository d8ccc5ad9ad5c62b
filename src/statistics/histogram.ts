/**
 * `histogram`: counts in bins whose width is a power of two, so that narrow bins add up to wide ones exactly. The bin
 * width depends on the smallest and largest value alone, hence any split of the data, in any order, merges to the
 * same histogram.
 */
import { bestKernel } from '../kernel/best.ts';
import { type Accumulator, type HistogramState, mismatch, type Statistic } from './statistic.ts';

/** Most bins of a histogram; 4096 or more are in use once values differ. */
export const maxBins = 8192;

const maxBinsExponent = 13;

/** floor(log2(magnitude)), corrected where the logarithm rounded across an integer. */
function floorLog2(magnitude: number): number {
  const exponent = Math.floor(Math.log2(magnitude));
  if (2 ** exponent > magnitude) return exponent - 1;
  return 2 ** (exponent + 1) <= magnitude ? exponent + 1 : exponent;
}

/** The smallest exponent at which values from `min` to `max`, and zero, need at most `maxBins` bins. */
function exponentFor(min: number, max: number): number {
  const low = Math.min(min, 0);
  const high = Math.max(max, 0);
  let exponent = floorLog2(Math.max(-low, high)) + 1 - maxBinsExponent;
  for (;;) {
    const first = Math.floor(low * 2 ** -exponent);
    const last = high > 0 ? Math.floor(high * 2 ** -exponent) : -1;
    if (last - first + 1 <= maxBins) return exponent;
    exponent++;
  }
}

/** All bins between zero and the extremes, while counting. */
interface Bins {
  readonly exponent: number;
  readonly first: number;
  readonly counts: Float64Array;
}

const noBins: Bins = { exponent: 0, first: 0, counts: new Float64Array(0) };

/** Empty bins for values from `min` to `max`; the bin of zero is always among them. */
function binsFor(min: number, max: number): Bins {
  if (min === 0 && max === 0) return noBins;
  const exponent = exponentFor(min, max);
  const first = Math.floor(Math.min(min, 0) * 2 ** -exponent);
  const last = Math.max(Math.floor(max * 2 ** -exponent), 0);
  return { exponent, first, counts: new Float64Array(last - first + 1) };
}

/** Adds counts of bins at most as wide as the target's. */
function addBins(target: Bins, exponent: number, first: number, counts: ArrayLike<number>): void {
  const ratio = 2 ** (exponent - target.exponent);
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] > 0) target.counts[Math.floor((first + i) * ratio) - target.first] += counts[i];
  }
}

export const histogram: Statistic<'histogram'> = {
  id: 'histogram',
  summary: 'histogram with power-of-two bins, from which every range can be chosen',
  perChannel: false,
  create({ kernel = bestKernel() } = {}): Accumulator {
    let bins = noBins;
    let count = 0;
    let zeros = 0;
    let nan = 0;
    let positiveInfinity = 0;
    let negativeInfinity = 0;
    let min = 0;
    let max = 0;
    const widen = (otherMin: number, otherMax: number) => {
      const nextMin = count === 0 ? otherMin : Math.min(min, otherMin);
      const nextMax = count === 0 ? otherMax : Math.max(max, otherMax);
      if (count === 0 || Math.min(nextMin, 0) < Math.min(min, 0) || Math.max(nextMax, 0) > Math.max(max, 0)) {
        const next = binsFor(nextMin, nextMax);
        addBins(next, bins.exponent, bins.first, bins.counts);
        bins = next;
      }
      min = nextMin;
      max = nextMax;
    };
    return {
      observe(values) {
        const extent = kernel.extent(values);
        nan += extent.nan;
        positiveInfinity += extent.positiveInfinity;
        negativeInfinity += extent.negativeInfinity;
        if (extent.finite === 0) return;
        widen(extent.min, extent.max);
        count += extent.finite;
        zeros += extent.zeros;
        if (bins.counts.length === 0) return;
        const finite = extent.finite === values.length ? values : values.filter(Number.isFinite);
        kernel.countBins(finite, 2 ** -bins.exponent, bins.first, bins.counts);
        bins.counts[-bins.first] -= extent.zeros;
      },
      merge(state) {
        if (state.statistic !== 'histogram') throw mismatch('histogram', state.statistic);
        nan += state.nan;
        positiveInfinity += state.positiveInfinity;
        negativeInfinity += state.negativeInfinity;
        if (state.count === 0) return;
        widen(state.min, state.max);
        count += state.count;
        zeros += state.zeros;
        addBins(bins, state.exponent, state.first, state.counts);
      },
      state(): HistogramState {
        const { counts, exponent } = bins;
        let start = 0;
        let end = counts.length;
        while (start < end && counts[start] === 0) start++;
        while (end > start && counts[end - 1] === 0) end--;
        return {
          statistic: 'histogram',
          count,
          zeros,
          nan,
          positiveInfinity,
          negativeInfinity,
          min,
          max,
          exponent,
          first: start === end ? 0 : bins.first + start,
          counts: Array.from(counts.subarray(start, end)),
        };
      },
    };
  },
};
