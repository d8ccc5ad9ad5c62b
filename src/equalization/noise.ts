/**
 * Factors that make quantization noise least, by a model of it: rounding adds step²/12 to the mean square of whatever is
 * rounded, and a step is the largest range among those that share it. In a group, weights of producers and activations
 * lose where factors are large (their noise is multiplied on the way), weights of consumers where they are small:
 *
 *   J(s) = Σ_p Δ_p² Σ_i λ_i·s_i²·B_p,i + Σ_x Δ_x² Σ_i λ_i·s_i² + Σ_c Δ_c² Σ_i D_c,i·E[x_i²]/s_i²
 *
 * with Δ_p = max r_i/s_i, Δ_x = max a_i/s_i, Δ_c = max s_i·w_i over channels i; B the energy that producers read, λ and D how
 * much noise counts in the results of consumers, relative to their energy. With maxima as p-norms this is a geometric
 * program, convex in log s, and gradient descent finds its minimum. Where a layer's result is rounded before its activation
 * function as well, x stands for both. Cross-layer equalization (s = √(r/w)) is blind to
 * activations, SmoothQuant to the producers' weights; both matter where one scale serves a tensor.
 */
import type { Value } from '../graph/value.ts';
import { type ActivationFunction, functionBehind } from './activation-functions.ts';
import type { Group, Slot } from './groups.ts';
import { readingOf } from './groups.ts';
import { layerAxes } from './layers.ts';
import { energies, magnitudes } from './scale.ts';

/** One number for each channel of an activation. */
export interface ChannelRanges {
  readonly least: ArrayLike<number>;
  readonly most: ArrayLike<number>;
  readonly mean: ArrayLike<number>;
  readonly deviation: ArrayLike<number>;
}

export interface NoiseOptions {
  /** Of what layers read and make, by the name of the value. */
  readonly statistics: ReadonlyMap<string, ChannelRanges>;
  /** Of weights: 8 for int8. */
  readonly weightBits: number;
  /** True where each output channel has a scale of its own: then producers' weights do not mind factors. */
  readonly perChannel: boolean;
  /** Undefined where activations stay float. */
  readonly activationBits: number | undefined;
  /** Names of values that are rounded. What layers read is, where activations are not float; results only if they are here. */
  readonly rounded?: ReadonlySet<string>;
}

/** What minimizing needs to know: terms Δ²·Σ, each a largest ratio and a weighted sum of squares, in opposite powers of s. */
interface Term {
  /** Ranges that share a step, which is max range_i·s_i^power. */
  readonly ranges: Float64Array;
  readonly power: 1 | -1;
  /** Σ weight_i·s_i^(−2·power). */
  readonly weights: Float64Array;
}

/** The working copies of weights, as the factors so far leave them. */
export type Weights = ReadonlyMap<Value, Float32Array>;

/**
 * The steps from the factors so far to better ones, one for each channel; undefined where an activation was not measured.
 * @param project moves factors, in place of what they would be without limits, to allowed ones
 */
export function quietSteps(
  group: Group,
  weights: Weights,
  factorsOf: ReadonlyMap<Group, Float64Array>,
  options: NoiseOptions,
  project: (steps: Float64Array) => Float64Array,
): Float64Array | undefined {
  const terms = termsOf(group, weights, factorsOf, options);
  return terms && minimized(terms, group.channels, project);
}

/** J of the group under factors for its present weights; undefined where an activation was not measured. */
export function noiseOf(group: Group, options: NoiseOptions, factors: Float64Array): number | undefined {
  const slots = [...group.producers, ...group.consumers].filter(({ kind }) => kind === 'weight');
  const weights = new Map(slots.map(({ node, input }) => [node.input(input), node.input(input).tensor!.floats()]));
  const terms = termsOf(group, weights, new Map(), options);
  return terms?.reduce((sum, { ranges, power, weights: own }) => {
    const step = ranges.reduce((most, range, i) => Math.max(most, range * factors[i] ** power), 0);
    return sum + step ** 2 * own.reduce((all, weight, i) => all + weight * factors[i] ** (-2 * power), 0);
  }, 0);
}

function termsOf(
  group: Group,
  weights: Weights,
  factorsOf: ReadonlyMap<Group, Float64Array>,
  options: NoiseOptions,
): Term[] | undefined {
  const { channels, producers, consumers } = group;
  const { statistics, weightBits, activationBits, perChannel } = options;
  const own = factorsOf.get(group) ?? new Float64Array(channels).fill(1);
  const terms: Term[] = [];
  const loudness = new Float64Array(channels);
  const weightSteps = (slot: Slot) => {
    const values = weights.get(slot.node.input(slot.input)) as Float32Array;
    return magnitudes(slot, values, channels).map((range) => range / (2 ** (weightBits - 1) - 1));
  };
  const readings = new Map<Value, Float64Array>();
  for (const slot of consumers.filter(({ kind }) => kind === 'weight')) {
    const { value } = readingOf(slot);
    const seen = statistics.get(value.name);
    if (seen?.mean.length !== slot.channels.length) return undefined;
    const noise = outputNoise(slot, weights, factorsOf, options);
    if (!noise) return undefined;
    const { perInput, gain } = noise;
    const energy = new Float64Array(channels);
    const heard = readings.get(value) ?? new Float64Array(channels);
    readings.set(value, heard);
    for (const [place, channel] of slot.channels.entries()) {
      if (channel < 0) continue;
      loudness[channel] += gain[place];
      heard[channel] += gain[place];
      energy[channel] += (perInput[place] * (seen.mean[place] ** 2 + seen.deviation[place] ** 2)) / own[channel] ** 2;
    }
    // Where each channel has a scale of its own, a depthwise layer does not mind factors.
    if (perChannel && isDepthwise(slot)) continue;
    terms.push({ ranges: weightSteps(slot), power: 1, weights: energy });
  }
  for (const slot of producers.filter(({ kind }) => kind === 'weight')) {
    if (slot.node.is('Gather')) {
      // The channels of a row share its scale.
      terms.push({ ranges: weightSteps(slot), power: -1, weights: loudness });
      continue;
    }
    const energy = perChannel ? undefined : inputEnergy(slot, factorsOf, statistics);
    if (!energy) continue;
    const counted = loudness.slice();
    for (const [place, channel] of slot.channels.entries()) if (channel >= 0) counted[channel] *= energy[place];
    terms.push({ ranges: weightSteps(slot), power: -1, weights: counted });
  }
  if (activationBits !== undefined) {
    const rounding = (value: Value, slot: Slot, heard: Float64Array) => {
      const seen = statistics.get(value.name);
      if (seen?.mean.length !== slot.channels.length) return;
      const isSigned = Array.from(seen.least).some((least) => least < 0);
      const ranges = new Float64Array(channels);
      for (const [place, channel] of slot.channels.entries()) {
        if (channel < 0) continue;
        const peak = Math.max(seen.most[place], -seen.least[place]) * (isSigned ? 2 : 1);
        ranges[channel] = Math.max(ranges[channel], peak / own[channel] / (2 ** activationBits - 1));
      }
      terms.push({ ranges, power: -1, weights: heard });
    };
    for (const [value, heard] of readings) {
      rounding(value, consumers.find((one) => readingOf(one).value === value)!, heard);
    }
    for (const slot of producers.filter(({ kind }) => kind === 'weight')) {
      const value = slot.node.output();
      if (options.rounded?.has(value.name) && !readings.has(value))
        rounding(value, slot, passed(slot, loudness, options));
    }
  }
  return terms.filter(({ ranges }) => ranges.some((range) => range > 0));
}

/** How much noise in a layer's result counts, by what it counts behind the layer's activation function. */
function passed(slot: Slot, loudness: Float64Array, { statistics }: NoiseOptions): Float64Array {
  const value = slot.node.output();
  const [behind, seen] = [functionBehind(value), statistics.get(value.name)];
  const counted = loudness.slice();
  if (!behind || !seen) return counted;
  for (const [place, channel] of slot.channels.entries()) {
    if (channel >= 0) counted[channel] *= meanSquareSlope(behind, seen.mean[place], seen.deviation[place]);
  }
  return counted;
}

/** Of a normal variable's slope, at places that are as likely as each other. */
function meanSquareSlope({ slope }: ActivationFunction, mean: number, deviation: number): number {
  return quantiles.reduce((sum, x) => sum + slope(mean + deviation * x) ** 2, 0) / quantiles.length;
}

/** Of the standard normal distribution, at 1/16, 3/16, … 15/16. */
const quantiles = [-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887, 1.534];

interface OutputNoise {
  /** For each place of the input: how much a unit of noise on it counts. */
  readonly gain: Float64Array;
  /** For each place: what noise of the weights counts, for a unit of energy there. */
  readonly perInput: Float64Array;
}

/** One input and one output channel a group. */
function isDepthwise({ node, channels, blocks }: Slot): boolean {
  const shape = node.input(1).tensor?.shape;
  return node.op === 'Conv' && shape?.[1] === 1 && blocks === channels.length && shape[0] === blocks && blocks > 1;
}

/** Depthwise layers ask the layer behind them; others count noise relative to the energy of their results. */
function outputNoise(
  slot: Slot,
  weights: Weights,
  factorsOf: ReadonlyMap<Group, Float64Array>,
  options: NoiseOptions,
): OutputNoise | undefined {
  const { node } = slot;
  const axes = layerAxes(node);
  const values = weights.get(node.input(slot.input));
  if (!axes || !values) return undefined;
  const places = slot.channels.length;
  const everyPlace = { ...slot, channels: Int32Array.from({ length: places }, (_, place) => place) };
  const squares = energies(everyPlace, values, places);
  const { shape } = axes.weight;
  const outputs = shape[axes.makes.axis] * axes.makes.blocks;
  const taps = values.length / (shape[0] * shape[1]);
  const behind = isDepthwise(slot) ? groupMadeBy(slot, factorsOf) : undefined;
  if (behind) {
    const next = new Float64Array(places);
    for (const consumer of behind.group.consumers.filter(({ kind }) => kind === 'weight')) {
      const noise = outputNoise(consumer, weights, factorsOf, options);
      if (!noise) return undefined;
      const at = new Map([...consumer.channels].map((channel, place) => [channel, place]));
      for (const [place, channel] of behind.slot.channels.entries()) {
        const position = channel < 0 ? undefined : at.get(channel);
        if (position !== undefined) next[place] += noise.gain[position];
      }
    }
    return { gain: squares.map((square, place) => square * next[place]), perInput: next.map((gain) => gain * taps) };
  }
  const energy = outputEnergy(slot, squares, factorsOf, options);
  if (!(energy > 0)) return undefined;
  return {
    gain: squares.map((square) => square / energy),
    perInput: new Float64Array(places).fill((taps * outputs) / slot.blocks / energy),
  };
}

/** Σ over outputs of their mean square, by what the layer reads: as if its inputs were independent. */
function outputEnergy(
  slot: Slot,
  squares: Float64Array,
  factorsOf: ReadonlyMap<Group, Float64Array>,
  { statistics }: NoiseOptions,
): number {
  const energy = inputSquares(slot.node.input(0), slot.channels.length, factorsOf, statistics);
  return energy ? squares.reduce((sum, square, place) => sum + square * energy[place], 0) : 0;
}

/** The energy that each place of a producer's result sums over, for a unit of noise in its weights. */
function inputEnergy(
  slot: Slot,
  factorsOf: ReadonlyMap<Group, Float64Array>,
  statistics: NoiseOptions['statistics'],
): Float64Array | undefined {
  const axes = layerAxes(slot.node);
  if (!axes) return undefined;
  const { shape } = axes.weight;
  const inputs = shape[axes.reads.axis] * axes.reads.blocks;
  const taps = shape.slice(2).reduce((a, b) => a * b, 1);
  const squares = inputSquares(slot.node.input(0), inputs, factorsOf, statistics);
  if (!squares) return new Float64Array(slot.channels.length).fill(inputs * taps);
  const { blocks } = axes.reads;
  const perBlock = inputs / blocks;
  return Float64Array.from({ length: slot.channels.length }, (_, place) => {
    const block = Math.floor((place * blocks) / slot.channels.length);
    let sum = 0;
    for (let i = block * perBlock; i < (block + 1) * perBlock; i++) sum += squares[i];
    return sum * taps;
  });
}

/** E[x²] of each channel of an activation, as the factors so far leave it. */
function inputSquares(
  value: Value,
  places: number,
  factorsOf: ReadonlyMap<Group, Float64Array>,
  statistics: NoiseOptions['statistics'],
): Float64Array | undefined {
  const seen = statistics.get(value.name);
  if (seen?.mean.length !== places) return undefined;
  const squares = Float64Array.from(seen.mean, (mean, place) => mean ** 2 + seen.deviation[place] ** 2);
  for (const [group, factors] of factorsOf) {
    const member = group.values.find((one) => one.value === value);
    member?.channels.forEach((channel, place) => {
      if (channel >= 0) squares[place] /= factors[channel] ** 2;
    });
  }
  return squares;
}

function groupMadeBy({ node }: Slot, factorsOf: ReadonlyMap<Group, Float64Array>) {
  for (const group of factorsOf.keys()) {
    const slot = group.producers.find((producer) => producer.node === node);
    if (slot) return { group, slot };
  }
  return undefined;
}

/** Of the norm that stands for a maximum: differentiable, and at most n^(1/p) too large. */
const norm = 24;
const stepCount = 100;
const learningRate = 0.1;

/** Gradient descent on log s with Adam (Kingma and Ba 2015, arXiv 1412.6980, the paper's β and ε). */
function minimized(
  terms: readonly Term[],
  channels: number,
  project: (steps: Float64Array) => Float64Array,
): Float64Array {
  let logs = new Float64Array(channels);
  const first = new Float64Array(channels);
  const second = new Float64Array(channels);
  for (let step = 1; step <= stepCount; step++) {
    const gradient = gradientOf(terms, logs);
    const rate = learningRate * (1 - (step - 1) / stepCount);
    for (let i = 0; i < channels; i++) {
      first[i] = 0.9 * first[i] + 0.1 * gradient[i];
      second[i] = 0.999 * second[i] + 0.001 * gradient[i] ** 2;
      const size = Math.sqrt(second[i] / (1 - 0.999 ** step)) + 1e-8;
      logs[i] -= (rate * first[i]) / (1 - 0.9 ** step) / size;
    }
    logs = project(logs.map(Math.exp)).map(Math.log);
  }
  // A common factor changes nothing; without one, factors stay within their limits.
  const common = logs.reduce((a, b) => a + b, 0) / channels;
  return project(logs.map((log) => Math.exp(log - common)));
}

function power24(value: number): number {
  const cube = value * value * value;
  const sixth = cube * cube;
  return sixth * sixth * sixth * sixth;
}

/** Of log J, by log s. */
function gradientOf(terms: readonly Term[], logs: Float64Array): Float64Array {
  const gradient = new Float64Array(logs.length);
  let total = 0;
  const factors = logs.map(Math.exp);
  const inverse = factors.map((factor) => 1 / factor);
  for (const { ranges, power, weights } of terms) {
    const [own, other] = power === 1 ? [factors, inverse] : [inverse, factors];
    const scaled = ranges.map((range, i) => range * own[i]);
    const largest = scaled.reduce((a, b) => Math.max(a, b), 0);
    const shares = scaled.map((value) => power24(value / largest));
    const sum = shares.reduce((a, b) => a + b, 0);
    const step = largest * sum ** (1 / norm);
    const parts = weights.map((weight, i) => weight * other[i] * other[i]);
    const all = parts.reduce((a, b) => a + b, 0);
    const value = step ** 2 * all;
    total += value;
    if (!(value > 0)) continue;
    for (let i = 0; i < logs.length; i++) {
      gradient[i] += 2 * power * value * (shares[i] / sum - parts[i] / all);
    }
  }
  return total > 0 ? gradient.map((one) => one / total) : gradient;
}
