/**
 * Corrects what quantization does to the statistics of each layer's output, layer after layer behind the already
 * quantized and corrected part. Every output channel first gets its deviation back (a factor on its scales: rounding
 * that minimises the error shrinks a little, and shrinkage multiplies through a network), then its mean (a shift of its
 * bias): empirical bias correction of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
 * Correction", §4.2, and ALGORITHMS.md §3.1, §3.14 and Appendix C. It costs nothing at run time.
 *
 * The deviation is the float model's where activations are float. Quantized activations add noise that is no fault of
 * the weights, and making up for it would shrink the signal layer after layer: there the deviation is the one that float
 * weights would give on the same inputs. And there the mean that comes back in the end is the one behind the layer's
 * activation function, into which that noise goes as well.
 */
import { roundHalfToEven } from '../base/round.ts';
import type { ActivationFunction } from '../equalization/activation-functions.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { loadedMatrix } from '../kernel/index.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { type ChannelLayout, deviations, type MomentsState, statisticOf } from '../statistics/index.ts';
import { floatToHalf, halfToFloat } from '../tensor/half.ts';
import { channelLayout, type Statistics } from './calibrate.ts';
import {
  type CorrectionTarget,
  type LayerTarget,
  type NormalizationTarget,
  presentBias,
} from './correction-targets.ts';
import { numbered, Prefix } from './prefix.ts';
import type { Simulation } from './simulate.ts';

/** What is changed at one layer: factors on the scales of its rows, and the bias that replaces its own. */
export interface Correction {
  readonly gain: Float64Array | undefined;
  readonly bias: Float32Array | undefined;
}

export interface CorrectionOptions {
  /** Corrected as well: scale and bias of each channel. Default none. */
  readonly normalizations?: readonly NormalizationTarget[];
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
  readonly threads?: number;
  /** Layers that are not corrected, but for which `before` is called as well. Default none. */
  readonly others?: readonly LayerTarget[];
  /** Done to layers of one depth before they are measured. */
  readonly before?: (group: readonly LayerTarget[], way: Way) => Promise<void>;
}

/** How far correction has come. */
export interface Way {
  /** Of the simulation. */
  readonly prefix: Prefix;
  /** Names of the results of all targets that may still change: the group's, and those of later groups. */
  readonly pending: ReadonlySet<string>;
}

/**
 * Corrects the layers of `simulation`, from the inputs to the outputs.
 * @param statistics the `moments` of `correctionNeeds`, over the same samples
 * @returns how many layers had a place for a bias, and the results of those that had none
 */
export async function correctLayers(
  simulation: Simulation,
  targets: readonly CorrectionTarget[],
  statistics: Statistics,
  samples: Samples,
  runtime: Runtime,
  options: CorrectionOptions = {},
): Promise<{ readonly layers: number; readonly left: readonly string[] }> {
  const known = ({ tensor }: { readonly tensor: string }) => statistics.get(tensor)?.has('moments') === true;
  const found = targets.filter(known);
  const normalizations = (options.normalizations ?? []).filter(known);
  const { others = [] } = options;
  const results = new Map<Target | LayerTarget, Value>([
    ...found.map((target) => [target, simulation.resultOf(target)] as const),
    ...normalizations.map((target) => [target, target.node.output()] as const),
    ...others.map((target) => [target, resultOf(target)] as const),
  ]);
  const levels = levelsOf(simulation.model, new Set(results.values()));
  const groups = new Map<number, Group>();
  const groupOf = (target: Target | LayerTarget) => {
    const level = levels.get(results.get(target) as Value) ?? 0;
    const group = groups.get(level) ?? { layers: [], normalizations: [], others: [] };
    groups.set(level, group);
    return group;
  };
  for (const target of found) groupOf(target).layers.push(target);
  for (const target of normalizations) groupOf(target).normalizations.push(target);
  for (const target of others) groupOf(target).others.push(target);
  const wantedOf = ({ tensor }: Target) => momentsAt(statistics, tensor) as MomentsState;
  const prefix = new Prefix(simulation.model, numbered(samples), { runtime, ...options });
  const order = [...groups.keys()].sort((a, b) => a - b).map((level) => groups.get(level) as Group);
  let done = 0;
  for (const [index, group] of order.entries()) {
    const left = order
      .slice(index)
      .flatMap(({ layers, others, normalizations }) => [...layers, ...others, ...normalizations]);
    await prefix.advance(new Set(left.flatMap(changingNodes)));
    const pending = new Set(left.map(({ tensor }) => tensor));
    await options.before?.([...group.layers, ...group.others], { prefix, pending });
    done += group.layers.length + group.normalizations.length + group.others.length;
    options.onProgress?.(done, results.size);
    if (group.layers.length + group.normalizations.length === 0) continue;
    const measured = await measure(simulation, group, prefix, options);
    for (const [index, target] of group.layers.entries()) {
      const correction = correct(target, simulation.hasRowScales(target), wantedOf(target), measured.layers[index]);
      simulation.correct(target, correction);
    }
    await settleBehind(simulation, group.layers, statistics, prefix, options);
    for (const [index, target] of group.normalizations.entries()) {
      simulation.normalize(target, ...renormalized(target, wantedOf(target), measured.normalizations[index]));
    }
  }
  const left = found.filter((target) => !target.bias).map(({ tensor }) => tensor);
  return { layers: found.length - left.length, left };
}

function momentsAt(statistics: Statistics, tensor: string): MomentsState | undefined {
  return statistics.get(tensor)?.get('moments') as MomentsState | undefined;
}

type Target = CorrectionTarget | NormalizationTarget;

/** Targets that do not depend on each other. */
interface Group {
  readonly layers: CorrectionTarget[];
  readonly normalizations: NormalizationTarget[];
  readonly others: LayerTarget[];
}

function resultOf({ node }: LayerTarget): Value {
  return node.outputs.find((output) => output !== undefined) ?? node.output();
}

/** Channels whose deviation changed by more than this carry more noise than signal, and factors would amplify it. */
const gainLimits = { min: 0.5, max: 2 } as const;

function correct(
  target: CorrectionTarget,
  hasRowScales: boolean,
  wanted: MomentsState,
  { result: measured, plain, twin }: Measured,
): Correction {
  const { channels, weight, bias } = target;
  const biasOf = presentBias(target);
  const scalable = hasRowScales && weight.uses.length === 1 && weight.use.view.rows === channels;
  const [before, after] = [deviations(twin ?? wanted), deviations(twin ? plain : measured)];
  const gain = new Float64Array(channels).fill(1);
  if (scalable) {
    for (let channel = 0; channel < channels; channel++) {
      const ratio = before[channel] / after[channel];
      if (Number.isFinite(ratio) && ratio > gainLimits.min && ratio < gainLimits.max) gain[channel] = ratio;
    }
  }
  if (!bias) return { gain: scalable ? gain : undefined, bias: undefined };
  const shifted = new Float32Array(channels);
  for (let channel = 0; channel < channels; channel++) {
    const own = biasOf(channel);
    const mean = gain[channel] * (measured.mean[channel] - own) + own;
    const step = wanted.mean[channel] - mean;
    shifted[channel] = own + (Number.isFinite(step) ? step : 0);
  }
  return { gain: scalable ? gain : undefined, bias: shifted };
}

/** Added to the mean slope of a function: where hardly anything comes through, its mean says little about the bias. */
const leastSlope = 0.02;

/** A step of more than this many deviations goes farther than the slope of a function can tell. */
const largestStep = 0.5;

/**
 * Shifts the biases of layers so that the means behind their activation functions come back, from those that bring back the
 * means before them: one step of Newton's method. Noise that goes into a Relu comes out as a shift, and what lies behind
 * cannot take that back where it goes to several layers, or through another function.
 */
async function settleBehind(
  simulation: Simulation,
  layers: readonly CorrectionTarget[],
  statistics: Statistics,
  prefix: Prefix,
  { signal }: CorrectionOptions,
): Promise<void> {
  if (simulation.hasFloatActivations) return;
  const watched = layers.flatMap((target) => {
    const { behind, channels } = target;
    const wanted = behind && momentsAt(statistics, behind.tensor);
    if (!behind || !wanted) return [];
    const sums = { made: new Float64Array(channels), slopes: new Float64Array(channels) };
    return [{ target, behind, wanted, value: simulation.resultOf(target), ...sums, count: 0 }];
  });
  if (watched.length === 0) return;
  const session = await prefix.open(watched.map(({ value }) => value));
  try {
    for await (const feeds of prefix.samples) {
      signal?.throwIfAborted();
      const results = await session.run(feeds);
      for (const one of watched) {
        const tensor = results[one.value.name];
        one.count += sumBehind(one.behind, tensor.floats(), channelLayout(tensor, one.target.channelAxis), one);
      }
    }
  } finally {
    await session.close();
  }
  for (const { target, wanted, made, slopes, count } of watched) {
    const own = presentBias(target);
    const limits = deviations(momentsAt(statistics, target.tensor) as MomentsState);
    const bias = Float32Array.from(made, (sum, channel) => {
      const step = (wanted.mean[channel] - sum / count) / (slopes[channel] / count + leastSlope);
      const limit = largestStep * limits[channel];
      return own(channel) + (Number.isFinite(step) ? Math.min(Math.max(step, -limit), limit) : 0);
    });
    simulation.correct(target, { gain: undefined, bias });
  }
}

/** Adds what a function makes of the values of each channel, and its slopes there. @returns how many a channel has */
function sumBehind(
  behind: ActivationFunction,
  values: Float32Array,
  { outer, channels, inner }: ChannelLayout,
  { made, slopes }: { readonly made: Float64Array; readonly slopes: Float64Array },
): number {
  for (let row = 0, index = 0; row < outer; row++) {
    for (let channel = 0; channel < channels; channel++) {
      let [sum, slope] = [0, 0];
      for (let i = 0; i < inner; i++, index++) {
        sum += behind.of(values[index]);
        slope += behind.slope(values[index]);
      }
      made[channel] += sum;
      slopes[channel] += slope;
    }
  }
  return outer * inner;
}

/** Scale and bias with which a normalization has the mean and the deviation that are wanted. */
function renormalized(
  { node, channels, ...target }: NormalizationTarget,
  wanted: MomentsState,
  measured: MomentsState,
): [scale: Float32Array, bias: Float32Array | undefined] {
  const present = (input: number | undefined) =>
    (input === undefined ? undefined : node.inputs[input]?.tensor?.floats()) ?? new Float32Array(channels);
  const scale = present(target.scale).slice();
  const bias = present(target.bias).slice();
  const [before, after] = [deviations(wanted), deviations(measured)];
  for (let channel = 0; channel < channels; channel++) {
    const ratio = before[channel] / after[channel];
    const gain = Number.isFinite(ratio) && ratio > gainLimits.min && ratio < gainLimits.max ? ratio : 1;
    const mean = gain * (measured.mean[channel] - bias[channel]);
    scale[channel] *= gain;
    if (Number.isFinite(wanted.mean[channel] - mean)) bias[channel] = wanted.mean[channel] - mean;
  }
  return [scale, target.bias === undefined ? undefined : bias];
}

/** The nodes that read what is changed at a target. */
export function changingNodes(target: LayerTarget | Target): Node[] {
  const bias = 'weight' in target && 'bias' in target ? target.bias : undefined;
  return bias ? [target.node, bias.node] : [target.node];
}

interface Measured {
  /** The layer's result, its bias included. */
  readonly result: MomentsState;
  /** What the node that reads the weight makes, and what it would make of the same input with the float weight. */
  readonly plain: MomentsState;
  readonly twin: MomentsState | undefined;
}

async function measure(
  simulation: Simulation,
  group: Group,
  prefix: Prefix,
  options: CorrectionOptions,
): Promise<{ readonly layers: Measured[]; readonly normalizations: MomentsState[] }> {
  const twins = simulation.hasFloatActivations ? [] : group.layers.map((target) => simulation.addTwin(target));
  const layers = group.layers.map((target, index) => ({
    result: watch(simulation.resultOf(target), target),
    plain: watch(target.node.output(), target),
    twin: simulation.hasFloatActivations ? undefined : watch(twins[index].output(), target),
  }));
  const normalizations = group.normalizations.map((target) => watch(target.node.output(), target));
  const watches = layers.flatMap(({ result, plain, twin }) => (twin ? [result, plain, twin] : [result]));
  watches.push(...normalizations);
  try {
    const values = watches.map(({ value }) => value);
    const session = await prefix.open(values);
    try {
      for await (const feeds of prefix.samples) {
        options.signal?.throwIfAborted();
        const results: Feeds = await session.run(feeds);
        for (const { value, channelAxis, accumulator } of watches) {
          const tensor = results[value.name];
          accumulator.observe(tensor.floats(), channelLayout(tensor, channelAxis));
        }
      }
    } finally {
      await session.close();
    }
  } finally {
    for (const twin of twins) simulation.model.graph.remove(twin);
  }
  const stateOf = (watched: ReturnType<typeof watch>) => watched.accumulator.state() as MomentsState;
  return {
    layers: layers.map(({ result, plain, twin }) => ({
      result: stateOf(result),
      plain: stateOf(plain),
      twin: twin && stateOf(twin),
    })),
    normalizations: normalizations.map(stateOf),
  };
}

function watch(value: Value, { channelAxis }: Target) {
  return { value, channelAxis, accumulator: statisticOf('moments').create() };
}

/** The matrix with the scales of each row multiplied, rounded again to the type they are stored in. */
export function withGain(matrix: QuantizedMatrix, gain: Float64Array): QuantizedMatrix {
  const loaded = loadedMatrix(matrix);
  const { rows, scales, factors, codebook, scheme } = loaded;
  const round = (value: number) => (scheme.scaleType === 'float16' ? halfToFloat(floatToHalf(value)) : value);
  const times = (numbers: Float32Array) => {
    const perRow = numbers.length / rows;
    return numbers.map((number, index) => round(number * gain[Math.floor(index / perRow)]));
  };
  if (codebook && codebook.length > scales.length && scheme.granularity.kind === 'channel') {
    return { ...loaded, codebook: times(codebook) };
  }
  if (!factors) return { ...loaded, scales: times(scales) };
  const scaled = times(factors);
  const perRow = scales.length / rows;
  const multiples = scales.map((scale, index) => {
    const row = Math.floor(index / perRow);
    return roundHalfToEven(scale / factors[row]) * scaled[row];
  });
  return { ...loaded, factors: scaled, scales: multiples };
}

/** Whether every row has scales, or levels, of its own, so that a factor can go into them. */
export function takesGain({ scheme, scales, rows }: QuantizedMatrix): boolean {
  return scales.length >= rows && scheme.scaleType !== 'float8e8m0' && scheme.scaleType !== 'float8e4m3fn';
}

/** How many targets lie before each value, along the longest way: targets of one level do not depend on each other. */
function levelsOf(model: Model, targets: ReadonlySet<Value>): Map<Value, number> {
  const levels = new Map<Value, number>();
  for (const node of model.graph.nodes) {
    let level = 0;
    for (const value of node.reads) level = Math.max(level, (levels.get(value) ?? 0) + (targets.has(value) ? 1 : 0));
    for (const output of node.outputs) if (output) levels.set(output, level);
  }
  return levels;
}
