/**
 * SmoothQuant: moves the difficulty of activations with outlying channels into weights, where it costs less (Xiao et al.
 * 2022, arXiv 2211.10438, equation 4): s_j = max|X_j|^α / max|W_j|^(1−α), X is divided by it and W multiplied.
 */
import type { Model } from '../graph/model.ts';
import { findGroups, type Group, readingOf, type Slot } from './groups.ts';
import { type ChannelRanges, type NoiseOptions, noiseOf } from './noise.ts';
import { describeScaling, magnitudes, type ScaledGroup, scaleGroup } from './scale.ts';

export interface SmoothOptions {
  /** Of what layers read, by the name of the value. */
  readonly statistics: ReadonlyMap<string, ChannelRanges>;
  /** The migration strength α, 0 to 1; or `search`, for each group the one whose noise is least. Default 0.5, the paper's. */
  readonly strength?: number | 'search';
  /** What is going to be quantized, for `search`. Default: weights to 8 bits a channel, activations to 8. */
  readonly noise?: Omit<NoiseOptions, 'statistics'>;
}

export interface SmoothedGroup extends ScaledGroup {
  /** The α that was taken; undefined where the search found nothing better than leaving the group as it is. */
  readonly strength: number | undefined;
}

/** The strengths that are tried (ALGORITHMS.md §3.8: 0.3 to 0.9). */
const strengths = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/** Factors below this would blow weights up (§3.8). */
const smallestFactor = 1e-5;

/**
 * Smooths, in place, all groups without clips that matrix products read: behind normalizations, from v to the projection of
 * an attention, from up to down in gated layers.
 */
export function smooth(model: Model, options: SmoothOptions): SmoothedGroup[] {
  const { statistics, strength = 0.5 } = options;
  const noise = { weightBits: 8, perChannel: true, activationBits: 8, ...options.noise, statistics };
  const done: SmoothedGroup[] = [];
  for (const group of productGroups(model)) {
    const peaks = peaksOf(group, statistics);
    if (!peaks) continue;
    const weights = weightPeaks(group);
    const factorsAt = (alpha: number) => smoothing(peaks, weights, alpha);
    let chosen: number | undefined = strength === 'search' ? undefined : strength;
    let factors = chosen === undefined ? new Float64Array(group.channels).fill(1) : factorsAt(chosen);
    if (strength === 'search') {
      let least = noiseOf(group, noise, factors);
      for (const alpha of strengths) {
        const candidate = factorsAt(alpha);
        const loss = noiseOf(group, noise, candidate);
        if (loss === undefined || least === undefined || loss >= least) continue;
        [least, chosen, factors] = [loss, alpha, candidate];
      }
    }
    scaleGroup(group, factors);
    done.push({ ...describeScaling(group, factors), strength: chosen });
  }
  return done;
}

/** Groups that only matrix products with weights read, and no clip limits. */
export function productGroups(model: Model): Group[] {
  return findGroups(model.graph).groups.filter(
    ({ consumers, limits }) =>
      limits.length === 0 && consumers.every(({ node, kind }) => kind === 'weight' && node.is('MatMul', 'Gemm')),
  );
}

/** For each channel the largest number that any place of it has in what consumers read. */
export function readStatistic(
  { consumers, channels }: Group,
  numbersOf: (name: string) => ArrayLike<number> | undefined,
): Float64Array | undefined {
  const result = new Float64Array(channels);
  for (const slot of consumers) {
    const numbers = numbersOf(readingOf(slot).value.name);
    if (numbers?.length !== slot.channels.length) return undefined;
    for (const [place, channel] of slot.channels.entries()) {
      if (channel >= 0) result[channel] = Math.max(result[channel], numbers[place]);
    }
  }
  return result;
}

function peaksOf(group: Group, statistics: SmoothOptions['statistics']): Float64Array | undefined {
  return readStatistic(group, (name) => {
    const seen = statistics.get(name);
    return seen && Float64Array.from(seen.most, (most, channel) => Math.max(most, -seen.least[channel]));
  });
}

function weightPeaks({ consumers, channels }: Group): Float64Array {
  const all = consumers.map((slot: Slot) => magnitudes(slot, slot.node.input(slot.input).tensor!.floats(), channels));
  return all[0].map((_, channel) => Math.max(...all.map((own) => own[channel])));
}

function smoothing(peaks: Float64Array, weights: Float64Array, alpha: number): Float64Array {
  return peaks.map((peak, channel) => {
    if (!(peak > 0) || !(weights[channel] > 0)) return 1;
    return Math.max(peak ** alpha / weights[channel] ** (1 - alpha), smallestFactor);
  });
}
