/**
 * `entropy`: the interval whose quantized distribution loses least information, by Kullback–Leibler divergence
 * (S. Migacz, 8-bit Inference with TensorRT, GTC 2017). Levels may have fractional width, the window may be asymmetric,
 * and exact zeros, which every grid represents, take no part; so there are always many windows to choose from.
 */
import { histogram } from '../statistics/histogram.ts';
import type { HistogramState } from '../statistics/index.ts';
import type { Interval, Range, RangeOptions } from './range.ts';
import { coarseBins, histogramIn, observed } from './states.ts';

/** Bins of the searched histogram (TensorRT slides, page 38: 2048). */
const mostBins = 2048;

/** Windows tried when one end moves, and per round and end when both do. */
const windows = { coupled: 256, perEnd: 96 };

/** Rounds of moving one end, then the other. */
const mostRounds = 4;

/** Share of the quantized distribution spread evenly, so that no probability is zero (smoothing, as in the slides). */
const smoothing = 1e-4;

/** Counts by position, with zero between bins `zero − 1` and `zero`, and what makes windows over them cheap. */
interface Search {
  readonly counts: Float64Array;
  readonly zero: number;
  /** The non-empty bins, ascending. */
  readonly bins: readonly number[];
  /** Counts before each bin. */
  readonly mass: Float64Array;
  /** Non-empty bins before each bin. */
  readonly filled: Float64Array;
}

function createSearch(counts: Float64Array, zero: number): Search {
  const bins: number[] = [];
  const mass = new Float64Array(counts.length + 1);
  const filled = new Float64Array(counts.length + 1);
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] > 0) bins.push(i);
    mass[i + 1] = mass[i] + counts[i];
    filled[i + 1] = bins.length;
  }
  return { counts, zero, bins, mass, filled };
}

/** A running sum at a fractional bin position. */
function at(sums: Float64Array, position: number): number {
  const bin = Math.floor(position);
  if (bin >= sums.length - 1) return sums[sums.length - 1];
  return sums[bin] + (sums[bin + 1] - sums[bin]) * (position - bin);
}

/**
 * The divergence Σ P·log(P / Q) for the window of bins `from` … `to`, at least as many as levels. P is the window with
 * everything outside added to its edges, Q the window without, each level's mass spread over its non-empty bins.
 */
function divergence({ counts, bins, mass, filled }: Search, from: number, to: number, levels: number): number {
  const total = mass[counts.length];
  const inside = mass[to] - mass[from];
  if (inside === 0) return Number.POSITIVE_INFINITY;
  const below = mass[from];
  const above = total - mass[to];
  const width = (to - from) / levels;
  const floor = smoothing / (filled[to] - filled[from] + 2);
  const last = filled[to];
  let level = -1;
  let levelEnd = from;
  let density = 0;
  let sum = 0;
  for (let i = filled[from]; i < last; i++) {
    const bin = bins[i];
    let quantized = 0;
    for (let position = bin; position < bin + 1; ) {
      if (position >= levelEnd && level < levels - 1) {
        level = Math.max(level + 1, Math.min(Math.floor((position - from) / width), levels - 1));
        const start = from + level * width;
        levelEnd = level === levels - 1 ? to : start + width;
        const places = at(filled, levelEnd) - at(filled, start);
        density = places > 0 ? (at(mass, levelEnd) - at(mass, start)) / places : 0;
      }
      const next = Math.min(Math.max(levelEnd, position), bin + 1);
      quantized += (next - position) * density;
      position = next;
    }
    const expected = counts[bin] + (bin === from ? below : 0) + (bin === to - 1 ? above : 0);
    const p = expected / total;
    sum += p * Math.log(p / ((quantized / inside) * (1 - smoothing) + floor));
  }
  if (counts[from] === 0 && below > 0) sum += (below / total) * Math.log(below / total / floor);
  if (counts[to - 1] === 0 && above > 0) sum += (above / total) * Math.log(above / total / floor);
  return sum;
}

/** Candidate positions from `near` (most clipping) to `far` (none), both included, about `count` of them. */
function positions(near: number, far: number, count: number): number[] {
  const steps = Math.min(Math.abs(far - near), count);
  const list = Array.from({ length: steps }, (_, i) => near + Math.round(((far - near) * i) / steps));
  return [...list, far];
}

/** The best number of bins of a window that starts at zero magnitude. */
function bestReach(counts: Float64Array, levels: number): number {
  const search = createSearch(counts, 0);
  let best = counts.length;
  let least = Number.POSITIVE_INFINITY;
  for (const reach of positions(Math.min(levels, counts.length), counts.length, windows.coupled)) {
    const found = divergence(search, 0, reach, levels);
    if (found <= least) {
      least = found;
      best = reach;
    }
  }
  return best;
}

/** The best window around zero, moving one end at a time. */
function bestWindow(search: Search, levels: number): { from: number; to: number } {
  const { counts, zero } = search;
  let [from, to] = [0, counts.length];
  let least = divergence(search, from, to, levels);
  for (let round = 0; round < mostRounds; round++) {
    const before = least;
    for (const candidate of positions(zero, 0, windows.perEnd)) {
      if (to - candidate < levels) continue;
      const found = divergence(search, candidate, to, levels);
      if (found < least) [least, from] = [found, candidate];
    }
    for (const candidate of positions(zero, counts.length, windows.perEnd)) {
      if (candidate - from < levels) continue;
      const found = divergence(search, from, candidate, levels);
      if (found < least) [least, to] = [found, candidate];
    }
    if (least === before) break;
  }
  return { from, to };
}

function choose(state: HistogramState, { format, symmetric }: RangeOptions): Interval {
  const seen = observed(state);
  const { first, stride, counts } = coarseBins(state, mostBins);
  const low = Math.min(first, 0);
  const high = Math.max(first + counts.length, 0);
  const zero = -low;
  const all = new Float64Array(high - low);
  all.set(counts, first - low);
  const levels = format.max - format.min + 1;
  if (!symmetric && zero > 0 && high > 0) {
    if (all.length <= levels) return seen;
    const { from, to } = bestWindow(createSearch(all, zero), levels);
    return { min: Math.max((from - zero) * stride, seen.min), max: Math.min((to - zero) * stride, seen.max) };
  }
  const magnitudes = new Float64Array(Math.max(zero, high));
  for (let i = 0; i < all.length; i++) magnitudes[i < zero ? zero - 1 - i : i - zero] += all[i];
  const sideLevels = symmetric ? Math.max(1, levels / 2) : levels;
  if (magnitudes.length <= sideLevels) return seen;
  const bound = bestReach(magnitudes, sideLevels) * stride;
  return { min: Math.max(-bound, seen.min), max: Math.min(bound, seen.max) };
}

export const entropy: Range<'entropy'> = {
  id: 'entropy',
  summary: 'the interval with the least Kullback–Leibler divergence; for 8 bits',
  needs: 'histogram',
  choose: (state, options) => choose(histogramIn(state), options),
  chooseFrom(values, options) {
    const accumulator = histogram.create();
    accumulator.observe(values);
    return choose(histogramIn(accumulator.state()), options);
  },
};
