/** Reading statistic states: the interval they saw, and histograms as weighted points. */
import { HalftoneError } from '../base/errors.ts';
import { reference } from '../kernel/reference.ts';
import type { HistogramState, StatisticState } from '../statistics/index.ts';
import type { Interval } from './range.ts';

/** What was observed at the extremes. */
export function observed(state: StatisticState): Interval {
  if (state.statistic === 'moments') throw unreadable('min-max or histogram', state);
  return { min: state.min, max: state.max };
}

/** The smallest and largest finite value; 0 … 0 when there is none. */
export function observedIn(values: Float32Array): Interval {
  const { min, max } = reference.extent(values);
  return { min, max };
}

/** @throws HalftoneError `internal` when the state is not a histogram. */
export function histogramIn(state: StatisticState): HistogramState {
  if (state.statistic !== 'histogram') throw unreadable('histogram', state);
  return state;
}

function unreadable(expected: string, state: StatisticState): HalftoneError {
  return new HalftoneError('internal', `range: expected a ${expected} state, got ${state.statistic}`);
}

/** Numbers with weights. */
export interface Points {
  readonly values: Float64Array;
  readonly weights: Float64Array;
}

/** Neighbouring bins merged 2:1 until at most `limit` remain; bin `first + i` is `stride` wide. */
export interface CoarseBins {
  readonly first: number;
  readonly stride: number;
  readonly counts: Float64Array;
}

export function coarseBins(state: HistogramState, limit: number): CoarseBins {
  let { first, exponent } = state;
  let counts = Float64Array.from(state.counts);
  while (counts.length > limit) {
    const nextFirst = Math.floor(first / 2);
    const next = new Float64Array(Math.floor((first + counts.length - 1) / 2) - nextFirst + 1);
    for (let i = 0; i < counts.length; i++) next[Math.floor((first + i) / 2) - nextFirst] += counts[i];
    first = nextFirst;
    counts = next;
    exponent++;
  }
  return { first, stride: 2 ** exponent, counts };
}

/**
 * The centres of non-empty bins, at most `limit` of them, and the extremes themselves: the outermost bins count at the
 * observed minimum and maximum. Zeros are left out: every affine grid represents them exactly.
 */
export function pointsOf(state: HistogramState, limit: number): Points {
  const { first, stride, counts } = coarseBins(state, limit);
  const filled: number[] = [];
  for (let i = 0; i < counts.length; i++) if (counts[i] > 0) filled.push(i);
  const values = Float64Array.from(filled, (i) => Math.min(Math.max((first + i + 0.5) * stride, state.min), state.max));
  return { values, weights: Float64Array.from(filled, (i) => counts[i]) };
}

/** The finite non-zero values, each with weight 1. */
export function pointsIn(values: Float32Array): Points {
  const used = values.filter((value) => value !== 0 && Number.isFinite(value));
  return { values: Float64Array.from(used), weights: new Float64Array(used.length).fill(1) };
}
