/**
 * Refines ranges of activations by what they do to the outputs: each tensor's range is made a little narrower and a
 * little wider, and the changes that bring the outputs closest are taken, as far as they go together. The divergence of the
 * outputs judges, so that a tensor that matters little may be cut as it likes; noise must not grow by it, because the
 * divergence of a few samples is little and easily fitted to.
 */
import type { Model } from '../graph/model.ts';
import type { Interval } from '../ranges/index.ts';
import { type Candidate, planOf, tryCandidate } from './candidate.ts';
import type { Judge, Verdict } from './judge.ts';
import type { Recipe } from './recipe.ts';

export interface RefineOptions {
  readonly recipe: Recipe;
  /** Of samples that may be fitted to. */
  readonly judge: Judge;
  /** Of a few of them: which ranges are worth a closer look. */
  readonly screen: Judge;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Factors that are tried on every range first, and on those that gained from then on; then smaller ones on the latter. */
const factors = [0.85, 1.15];
const fineFactors = [0.94, 1.06];
/** Ranges that are gone on with: those that gain most. */
const mostRefined = 10;
/** Changes below this share of the divergence are noise. */
const leastGain = 1e-3;

/** @returns the intervals that replace those of the candidate's plan, by group; empty where none is better */
export async function refineRanges(candidate: Candidate, options: RefineOptions): Promise<Map<string, Interval>> {
  const { recipe, judge, screen, signal, onProgress } = options;
  const intervals = new Map<string, Interval>();
  for (const { group, interval } of planOf(candidate, recipe).plan.activations)
    if (interval) intervals.set(group, interval);
  const modelWith = (changed: ReadonlyMap<string, Interval>): Model =>
    tryCandidate({ ...candidate, intervals: new Map([...candidate.intervals, ...changed]) }, recipe).simulation.model;
  const verdictOf = async (changed: ReadonlyMap<string, Interval>, by = judge) => {
    signal?.throwIfAborted();
    return by(modelWith(changed));
  };

  const found = new Map<string, Interval>();
  const start = await verdictOf(found, screen);
  const total = intervals.size * factors.length;
  let done = 0;
  const gains: { readonly group: string; readonly factor: number; readonly divergence: number }[] = [];
  for (const [group, interval] of intervals) {
    for (const factor of factors) {
      const verdict = await verdictOf(new Map([[group, scaled(interval, factor)]]), screen);
      if (isBetter(verdict, start)) gains.push({ group, factor, divergence: verdict.divergence });
      onProgress?.(++done, total);
    }
  }
  if (gains.length === 0) return found;
  let best = await verdictOf(found);
  /** Goes on with a range as long as it gains; true if it did. */
  const follow = async (group: string, factor: number): Promise<boolean> => {
    const interval = found.get(group) ?? (intervals.get(group) as Interval);
    const next = scaled(interval, factor);
    const verdict = await verdictOf(new Map([...found, [group, next]]));
    if (!isBetter(verdict, best)) return false;
    best = verdict;
    found.set(group, next);
    await follow(group, factor);
    return true;
  };
  gains.sort((a, b) => a.divergence - b.divergence);
  // Of both directions the better one comes first.
  for (const { group, factor } of gains.slice(0, mostRefined)) if (!found.has(group)) await follow(group, factor);
  for (const group of [...found.keys()]) {
    for (const factor of fineFactors) if (await follow(group, factor)) break;
  }
  return found;
}

function isBetter(verdict: Verdict, than: Verdict): boolean {
  return verdict.divergence < than.divergence * (1 - leastGain) && verdict.sqnr >= than.sqnr;
}

function scaled({ min, max }: Interval, factor: number): Interval {
  return { min: min * factor, max: max * factor };
}
