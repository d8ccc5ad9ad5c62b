/**
 * Cross-layer equalization: channels of neighbouring layers get weights of like ranges, so that one scale serves a whole
 * tensor (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721,
 * section 4.1). A layer between two others belongs to two groups; going round the groups until nothing changes gives what
 * the paper's closed forms give for pairs and, with a depthwise layer between, for triples.
 */
import type { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { type ChannelPeaks, type ClipChoice, clipChanges, refusalOfShared, sharedBounds } from './clips.ts';

export type { ChannelPeaks, ClipChoice } from './clips.ts';

import { findGroups, type Group, type Refusal, readingOf, type Slot } from './groups.ts';
import { type NoiseOptions, quietSteps } from './noise.ts';
import { describeScaling, magnitudes, multiply, namesOf, type ScaledGroup, scaleGroup } from './scale.ts';

export interface CrossLayerOptions {
  /** What to do with groups that have clips between, see `ClipChoice`. Default `exact`. */
  readonly clips?: ClipChoice;
  /** Peaks of activations: of what clips read, and of what consumers read where `activationShare` is not 0. */
  readonly peaks?: ChannelPeaks;
  /**
   * 0 balances the weights of producers and consumers, as the paper does; 1 the activations between them and the weights
   * of consumers; between, the geometric mean of both. Activations with one scale a tensor gain from more. Default 0.
   */
  readonly activationShare?: number;
  /**
   * Chooses factors by the noise that they cause in place of ranges, see `NoiseOptions`; then also for groups that a
   * normalization makes, as SmoothQuant does.
   */
  readonly noise?: NoiseOptions;
  /** Rounds over all groups. Default 20; 3 with `noise`, where every round is a descent. */
  readonly maxIterations?: number;
  /** Factors stay between 1/limit and limit. Default 1024. */
  readonly limit?: number;
}

export interface CrossLayerResult {
  readonly scaled: readonly ScaledGroup[];
  /** Groups that could have been scaled, and layers that could not, with the reason. */
  readonly refused: readonly Refusal[];
  readonly iterations: number;
  /** Clips that have gone, or have a bound for each channel now. */
  readonly clips: { readonly removed: number; readonly perChannel: number };
}

/** Rounds go on while a factor changes by more than this (ALGORITHMS.md §3.2). */
const smallestChange = 1e-3;

/** Channels whose range is below this share of their tensor's hold nothing that a scale could lose. */
const deadShare = 1e-9;

/** Equalizes `model`'s main graph in place. */
export function equalizeCrossLayers(model: Model, options: CrossLayerOptions = {}): CrossLayerResult {
  const { clips = 'exact', peaks, maxIterations = options.noise ? 3 : 20, limit = 1024 } = options;
  const { groups, refused } = chosenGroups(model.graph, options);
  const weights = new Map<Value, Float32Array>();
  const factors = new Map(groups.map((group) => [group, new Float64Array(group.channels).fill(1)]));
  for (const slot of groups.flatMap(weightSlots)) weights.set(weightOf(slot), copied(slot));
  let iterations = 0;
  for (let change = Number.POSITIVE_INFINITY; change > smallestChange && iterations < maxIterations; iterations++) {
    change = 0;
    for (const group of groups) {
      const all = factors.get(group)!;
      const bounded = (steps: Float64Array) => {
        const wanted = steps.map((step, channel) => Math.min(Math.max(all[channel] * step, 1 / limit), limit));
        return clips === 'shared' ? sharedBounds(group, wanted, peaks) : wanted;
      };
      const quiet =
        options.noise &&
        quietSteps(group, weights, factors, options.noise, (steps) =>
          bounded(steps).map((factor, channel) => factor / all[channel]),
        );
      if (options.noise && !quiet) continue;
      const next = bounded(quiet ?? balancing(group, weights, all, options));
      const steps = next.map((factor, channel) => factor / all[channel]);
      for (const slot of weightSlots(group)) multiply(slot, weights.get(weightOf(slot))!, steps);
      for (const step of steps) change = Math.max(change, Math.abs(step - 1));
      all.set(next);
    }
  }
  const counts = { removed: 0, perChannel: 0 };
  for (const [group, all] of factors) {
    scaleGroup(group, all, (clip) => clipChanges(clip, all, clips, peaks, counts));
  }
  return {
    scaled: groups.map((group) => describeScaling(group, factors.get(group)!)),
    refused,
    iterations,
    clips: counts,
  };
}

const weightSlots = ({ producers, consumers }: Group) =>
  [...producers, ...consumers].filter(({ kind }) => kind === 'weight');
const weightOf = ({ node, input }: Slot) => node.input(input);
const copied = (slot: Slot) => Float32Array.from(weightOf(slot).tensor!.floats());

function chosenGroups(graph: Graph, options: CrossLayerOptions) {
  const found = findGroups(graph);
  const refused: Refusal[] = [...found.refused];
  const groups = found.groups.filter((group) => {
    const reason = refusalOf(group, options);
    if (reason) refused.push(...namesOf(group.producers).map((node) => ({ node, reason })));
    return reason === undefined;
  });
  return { groups, refused };
}

function refusalOf(group: Group, { clips = 'exact', peaks, noise }: CrossLayerOptions): string | undefined {
  const { producers, consumers, limits } = group;
  if (!noise && !producers.some(({ kind }) => kind === 'weight')) return 'no layer makes its input';
  if (!consumers.some(({ kind }) => kind === 'weight')) return 'no layer reads its result';
  if (limits.length === 0) return undefined;
  if (clips === 'keep') return `${limits[0].node.label} does not scale with its input`;
  return clips === 'shared' ? refusalOfShared(group, peaks) : undefined;
}

/** Factors that make the ranges of each channel alike before and behind: s = √(r₁/r₂), section 4.1, equation 11. */
function balancing(
  group: Group,
  weights: ReadonlyMap<Value, Float32Array>,
  factors: Float64Array,
  { peaks, activationShare = 0 }: CrossLayerOptions,
): Float64Array {
  const { producers, consumers, channels } = group;
  const ranges = (slots: readonly Slot[]) =>
    joint(
      slots
        .filter(({ kind }) => kind === 'weight')
        .map((slot) => magnitudes(slot, weights.get(weightOf(slot))!, channels)),
    );
  const before = ranges(producers);
  const behind = ranges(consumers);
  const seen = activationShare > 0 && peaks ? activationPeaks(group, factors, peaks) : undefined;
  const [scale, seenScale] = [largest(before), seen ? largest(seen) : 0];
  return Float64Array.from({ length: channels }, (_, channel) => {
    let made = before[channel];
    if (seen && seenScale > 0) {
      made = scale * (made / scale) ** (1 - activationShare) * (seen[channel] / seenScale) ** activationShare;
    }
    const isDead = !(made > deadShare * scale) || !(behind[channel] > deadShare * largest(behind));
    return isDead ? 1 : Math.sqrt(made / behind[channel]);
  });
}

/**
 * Ranges over several tensors. Each has its own scale, so what counts is a range's share of its tensor's; the common size
 * is the geometric mean. One tensor's ranges are left as they are.
 */
function joint(ranges: readonly Float64Array[]): Float64Array {
  if (ranges.length === 1) return ranges[0];
  const sizes = ranges.map((own) => largest(own) || 1);
  const common = Math.exp(sizes.reduce((sum, size) => sum + Math.log(size), 0) / sizes.length);
  return ranges[0].map((_, channel) => common * Math.max(...ranges.map((own, index) => own[channel] / sizes[index])));
}

function largest(values: Float64Array): number {
  return values.reduce((a, b) => Math.max(a, b), 0);
}

/** The peaks of what consumers read, as the factors so far leave them. */
function activationPeaks(
  { consumers, channels }: Group,
  factors: Float64Array,
  peaks: ChannelPeaks,
): Float64Array | undefined {
  const result = new Float64Array(channels);
  let isSeen = false;
  for (const slot of consumers) {
    if (slot.kind !== 'weight') continue;
    const seen = peaks.get(readingOf(slot).value.name);
    if (seen?.length !== slot.channels.length) continue;
    isSeen = true;
    for (const [position, channel] of slot.channels.entries()) {
      if (channel >= 0) result[channel] = Math.max(result[channel], seen[position] / factors[channel]);
    }
  }
  return isSeen ? result : undefined;
}
