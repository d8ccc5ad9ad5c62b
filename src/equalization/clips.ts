/**
 * Clips between equalized layers. A Relu6 is not homogeneous: min(s·x, 6) = s·min(x, 6/s), so a channel that is divided by
 * s needs a bound that is divided by s, too.
 */
import type { Group, Limit } from './groups.ts';
import type { ClipChange } from './scale.ts';

/**
 * - `keep`: groups with clips are left as they are.
 * - `exact`: a bound for each channel: Relu and Min with [C, 1, 1]. Where peaks are known, and no channel ever came to its
 *   bound, Relu alone. Integer kernels fuse no Min: it runs in float.
 * - `unbounded`: Relu alone, as AIMET does. Not exact where values come to the bound; nothing is added to the graph.
 * - `shared`: the clip keeps one bound for all channels. Those that were seen to come to it share one factor, the others
 *   get no larger than it. Needs peaks, and is as exact as they are. The clip stays in the saturation of quantized results.
 */
export type ClipChoice = 'keep' | 'exact' | 'unbounded' | 'shared';

/** Largest magnitude of each channel that an activation was seen to have, by the name of the value. */
export type ChannelPeaks = ReadonlyMap<string, ArrayLike<number>>;

/** How many times the peak that was seen a value may be without coming to a bound: samples do not show every peak. */
const margin = 2;

/** What becomes of a clip; counts the changes. */
export function clipChanges(
  limit: Limit,
  factors: Float64Array,
  choice: ClipChoice,
  peaks: ChannelPeaks | undefined,
  counts: { removed: number; perChannel: number },
): ClipChange {
  const own = Array.from(limit.channels, (channel) => (channel < 0 ? 1 : factors[channel]));
  const reached = choice === 'unbounded' ? [] : reachedPlaces(limit, peaks);
  if (reached.length === 0) {
    counts.removed++;
    return 'unbounded';
  }
  if (choice === 'shared') return own[reached[0]];
  if (own.some((factor) => factor !== own[0])) counts.perChannel++;
  return 'exact';
}

/** Where values come to the bound, or may; all places where nothing was measured. */
function reachedPlaces({ node, channels, high }: Limit, peaks: ChannelPeaks | undefined): number[] {
  const seen = peaks?.get(node.input(0).name);
  return [...channels.keys()].filter((place) => channels[place] < 0 || !seen || seen[place] * margin >= high);
}

/** Why the clips of a group can not keep one bound, or undefined where they can. */
export function refusalOfShared({ limits }: Group, peaks: ChannelPeaks | undefined): string | undefined {
  for (const { node, low } of limits) {
    if (!peaks?.has(node.input(0).name)) return `what ${node.label} reads was not measured`;
    if (low < 0 && Number.isFinite(low)) return `${node.label} has a bound below zero`;
  }
  return undefined;
}

/** The factors nearest to the wanted ones with which each clip of the group can keep one bound. */
export function sharedBounds({ limits }: Group, wanted: Float64Array, peaks: ChannelPeaks | undefined): Float64Array {
  const factors = wanted.slice();
  for (const limit of limits) {
    const { node, channels, high } = limit;
    const reached = new Set(reachedPlaces(limit, peaks));
    if (reached.size === 0) continue;
    const factorOf = (place: number) => (channels[place] < 0 ? 1 : factors[channels[place]]);
    const isPinned = channels.includes(-1);
    const common = isPinned
      ? 1
      : Math.exp([...reached].reduce((sum, place) => sum + Math.log(factorOf(place)), 0) / reached.size);
    const seen = peaks?.get(node.input(0).name);
    for (const [place, channel] of channels.entries()) {
      if (channel < 0) continue;
      const least = (common * (seen?.[place] ?? high) * margin) / high;
      factors[channel] = reached.has(place) ? common : Math.max(factors[channel], least);
    }
  }
  return factors;
}
