/** What equalizing passes need to know of the float model's activations: the channels of each, measured on samples. */
import { HalftoneError } from '../base/errors.ts';
import { type AwqOptions, type WeighedGroup, weighByActivations } from '../equalization/awq.ts';
import { dividedStatistics } from '../equalization/batch-norm-statistics.ts';
import { type AbsorbedGroup, absorbBiases } from '../equalization/bias-absorption.ts';
import type { ClipChoice } from '../equalization/clips.ts';
import { type CrossLayerResult, equalizeCrossLayers } from '../equalization/cross-layer.ts';
import { findGroups, readingOf } from '../equalization/groups.ts';
import type { NoiseOptions } from '../equalization/noise.ts';
import { productGroups } from '../equalization/smooth.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { findWeights } from '../lowerings/weight.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { channelLayout, expectedBytes, slicesOf } from './calibrate.ts';
import { collectMoments } from './moments.ts';
import { runnableBytes } from './runnable.ts';
import { subModel } from './sub-model.ts';

/** One number for each channel. Values that are not finite are left out. */
export interface ChannelStatistics {
  /** Smallest and largest number, or 0. */
  readonly least: Float64Array;
  readonly most: Float64Array;
  /** Largest magnitude. */
  readonly peak: Float64Array;
  /** Mean of the magnitudes. */
  readonly magnitude: Float64Array;
  readonly mean: Float64Array;
  /** Standard deviation. */
  readonly deviation: Float64Array;
}

export interface ChannelOptions {
  /** Bytes of the activations of one run; more are watched in several passes over the samples. Default 256 MiB. */
  readonly maxBytes?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** A value of the main graph, and the axis that counts its channels; negative ones count from the end. */
export interface Watched {
  readonly value: Value;
  readonly axis: number;
}

/** What `equalizeCrossLayers`, `smooth` and `absorbBiases` ask for: readings, clips, results. */
export function equalizationNeeds(model: Model): Watched[] {
  const found = new Map<Value, Watched>();
  const add = (value: Value, axis: number) => {
    if (value.producer && !found.has(value)) found.set(value, { value, axis });
  };
  for (const { producers, consumers, limits } of findGroups(model.graph).groups) {
    for (const slot of consumers) {
      if (slot.kind !== 'weight') continue;
      const { value, axis } = readingOf(slot);
      add(value, axis);
    }
    for (const { node, axis } of limits) add(node.input(0), axis);
    for (const { node, kind, input } of producers) {
      if (kind === 'weight')
        add(node.output(), node.is('Conv', 'ConvTranspose') ? 1 - node.input(input).tensor!.shape.length : -1);
    }
  }
  return [...found.values()];
}

/**
 * Measures channels of activations of the float model.
 * @returns statistics by the name of the value
 * @throws HalftoneError `runtime` when the model does not run on a sample; the signal's reason when aborted.
 */
export async function measureChannels(
  model: Model,
  watched: readonly Watched[],
  samples: Samples,
  runtime: Runtime,
  options: ChannelOptions = {},
): Promise<Map<string, ChannelStatistics>> {
  const result = new Map<string, ChannelStatistics>();
  if (watched.length === 0) return result;
  const settings = options.threads ? { threads: options.threads } : {};
  const open = (some: readonly Watched[]) =>
    runtime.open(
      runnableBytes(
        subModel(
          model,
          some.map(({ value }) => value),
        ),
      ),
      settings,
    );
  const byName = new Map(watched.map((one) => [one.value.name, one]));
  const first = await open(watched);
  const sizes = new Map(first.outputs.map((output) => [output.name, expectedBytes(output, new Map())]));
  await first.close();
  for (const slice of slicesOf([...byName.keys()], sizes, options.maxBytes ?? 256 * 2 ** 20)) {
    const part = slice.map((name) => byName.get(name) as Watched);
    const sums = new Map(part.map(({ value }) => [value.name, channelSums(value.name)]));
    const session = await open(part);
    try {
      for await (const feeds of samples) {
        options.signal?.throwIfAborted();
        const results: Feeds = await session.run(feeds);
        for (const { value, axis } of part) sums.get(value.name)?.add(results[value.name], axis);
      }
    } finally {
      await session.close();
    }
    for (const [name, sum] of sums) result.set(name, sum.finish());
  }
  return result;
}

/** The peaks alone, as cross-layer equalization takes them. */
export function peaksOf(statistics: ReadonlyMap<string, ChannelStatistics>): Map<string, Float64Array> {
  return new Map([...statistics].map(([name, { peak }]) => [name, peak]));
}

export interface OnSamplesOptions extends ChannelOptions {
  /** What is going to be quantized. */
  readonly noise: Omit<NoiseOptions, 'statistics'>;
  /** See `ClipChoice`. Default `shared`: nothing is added to the graph. */
  readonly clips?: ClipChoice;
}

/**
 * Equalizes `model` in place by the noise that quantization is going to make, which covers what cross-layer equalization
 * and SmoothQuant do, and absorbs biases that lie above what Relu cuts off. Not always for the better: keep it only where
 * held-out samples come out better quantized.
 * @throws HalftoneError as `measureChannels`
 */
export async function equalizeOnSamples(
  model: Model,
  samples: Samples,
  runtime: Runtime,
  { noise, clips = 'shared', ...options }: OnSamplesOptions,
): Promise<CrossLayerResult & { readonly absorbed: readonly AbsorbedGroup[] }> {
  const statistics = await measureChannels(model, equalizationNeeds(model), samples, runtime, options);
  const result = equalizeCrossLayers(model, { clips, peaks: peaksOf(statistics), noise: { ...noise, statistics } });
  return { ...result, absorbed: absorbBiases(model, dividedStatistics(statistics, result.scaled)) };
}

/**
 * AWQ on samples: measures what it needs, and scales `model` in place.
 * @throws HalftoneError as `measureChannels`
 */
export async function weighOnSamples(
  model: Model,
  schemeOf: AwqOptions['schemeOf'],
  samples: Samples,
  runtime: Runtime,
  options: ChannelOptions = {},
): Promise<WeighedGroup[]> {
  const groups = productGroups(model);
  const slots = groups.flatMap(({ consumers }) => consumers).filter(({ node }) => schemeOf(node.input(1).name));
  const statistics = await measureChannels(model, slots.map(readingOf), samples, runtime, options);
  const weights = new Map(findWeights(model).map((weight) => [weight.value, weight]));
  const targets = slots.flatMap(({ node }) => {
    const weight = weights.get(node.input(1));
    return weight ? [{ weight, node }] : [];
  });
  const moments = await collectMoments(model, targets, samples, runtime, options);
  return weighByActivations(model, {
    schemeOf,
    magnitudes: new Map([...statistics].map(([name, { magnitude }]) => [name, magnitude])),
    moments: new Map([...moments].flatMap(([name, [first]]) => (first ? [[name, first.moment] as const] : []))),
  });
}

function channelSums(name: string) {
  let counts = new Float64Array(0);
  let least = counts;
  let most = counts;
  let magnitudes = counts;
  let sums = counts;
  let squares = counts;
  return {
    add(tensor: Tensor, axis: number): void {
      const { outer, channels, inner } = channelLayout(tensor, axis);
      if (counts.length === 0) {
        [counts, least, most, magnitudes, sums, squares] = Array.from({ length: 6 }, () => new Float64Array(channels));
      }
      if (counts.length !== channels) {
        throw new HalftoneError('internal', `"${name}": expected ${counts.length} channels, got ${channels}`);
      }
      const values = tensor.floats();
      for (let row = 0, index = 0; row < outer; row++) {
        for (let channel = 0; channel < channels; channel++) {
          let [count, low, high, magnitude, sum, square] = [0, least[channel], most[channel], 0, 0, 0];
          for (let i = 0; i < inner; i++) {
            const value = values[index++];
            const size = Math.abs(value);
            if (!(size < Number.POSITIVE_INFINITY)) continue;
            count++;
            if (value > high) high = value;
            if (value < low) low = value;
            magnitude += size;
            sum += value;
            square += value * value;
          }
          counts[channel] += count;
          least[channel] = low;
          most[channel] = high;
          magnitudes[channel] += magnitude;
          sums[channel] += sum;
          squares[channel] += square;
        }
      }
    },
    finish(): ChannelStatistics {
      const mean = sums.map((sum, channel) => sum / Math.max(counts[channel], 1));
      return {
        least,
        most,
        peak: most.map((high, channel) => Math.max(high, -least[channel])),
        magnitude: magnitudes.map((sum, channel) => sum / Math.max(counts[channel], 1)),
        mean,
        deviation: squares.map((sum, channel) =>
          Math.sqrt(Math.max(0, sum / Math.max(counts[channel], 1) - mean[channel] ** 2)),
        ),
      };
    },
  };
}
