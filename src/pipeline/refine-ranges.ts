/**
 * Refines ranges of activations by what they do to the outputs: each tensor's range is made a little narrower and a
 * little wider, and the changes that bring the outputs closest are taken, as far as they go together. The divergence of the
 * outputs judges, so that a tensor that matters little may be cut as it likes.
 */
import type { Model } from '../graph/model.ts';
import type { Interval } from '../ranges/index.ts';
import { type Candidate, planOf, tryCandidate } from './candidate.ts';
import type { Judge } from './judge.ts';
import type { Recipe } from './recipe.ts';

export interface RefineOptions {
  readonly recipe: Recipe;
  /** Of samples that may be fitted to. */
  readonly judge: Judge;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Factors that are tried on every range first, and on those that gained from then on. */
const factors = [0.85, 1.15];
/** Ranges that are gone on with: those that gain most. */
const mostRefined = 10;
/** Changes below this share of the divergence are noise. */
const leastGain = 1e-3;

/** @returns the intervals that replace those of the candidate's plan, by group; empty where none is better */
export async function refineRanges(best: Candidate, options: RefineOptions): Promise<Map<string, Interval>> {
  const { recipe, judge, signal, onProgress } = options;
  const intervals = new Map<string, Interval>();
  for (const { group, interval } of planOf(best, recipe).plan.activations) if (interval) intervals.set(group, interval);
  const modelWith = (changed: ReadonlyMap<string, Interval>): Model =>
    tryCandidate({ ...best, intervals: new Map([...best.intervals, ...changed]) }, recipe).simulation.model;
  const divergenceWith = async (changed: ReadonlyMap<string, Interval>) => {
    signal?.throwIfAborted();
    return (await judge(modelWith(changed))).divergence;
  };

  const found = new Map<string, Interval>();
  let lowest = await divergenceWith(found);
  const total = intervals.size * factors.length;
  let done = 0;
  const gains: { readonly group: string; readonly factor: number; readonly divergence: number }[] = [];
  for (const [group, interval] of intervals) {
    for (const factor of factors) {
      const divergence = await divergenceWith(new Map([[group, scaled(interval, factor)]]));
      if (divergence < lowest * (1 - leastGain)) gains.push({ group, factor, divergence });
      onProgress?.(++done, total);
    }
  }
  gains.sort((a, b) => a.divergence - b.divergence);
  for (const { group, factor } of gains.slice(0, mostRefined)) {
    const interval = found.get(group) ?? intervals.get(group);
    // Of both directions the better one came first.
    if (!interval || found.has(group)) continue;
    for (let next = scaled(interval, factor); ; next = scaled(next, factor)) {
      const divergence = await divergenceWith(new Map([...found, [group, next]]));
      if (!(divergence < lowest * (1 - leastGain))) break;
      lowest = divergence;
      found.set(group, next);
    }
  }
  return found;
}

function scaled({ min, max }: Interval, factor: number): Interval {
  return { min: min * factor, max: max * factor };
}
