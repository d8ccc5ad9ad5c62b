/**
 * Corrects what quantization does to the statistics of each layer's output, layer after layer behind the already
 * quantized and corrected part. Every output channel first gets its deviation back (a factor on its scales: rounding
 * that minimises the error shrinks a little, and shrinkage multiplies through a network), then its mean (a shift of its
 * bias): empirical bias correction of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
 * Correction", §4.2, and ALGORITHMS.md §3.1, §3.14 and Appendix C. It costs nothing at run time.
 *
 * The deviation is the float model's where activations are float. Quantized activations add noise that is no fault of
 * the weights, and making up for it would shrink the signal layer after layer: there the deviation is the one that float
 * weights would give on the same inputs.
 */

import { HalftoneError } from '../base/errors.ts';
import { roundHalfToEven } from '../base/round.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { isPlainFloat } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { loadedMatrix } from '../kernel/index.ts';
import type { Weight } from '../lowerings/weight.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { deviations, type MomentsState, statisticOf } from '../statistics/index.ts';
import { floatToHalf, halfToFloat } from '../tensor/half.ts';
import { Tensor } from '../tensor/tensor.ts';
import { channelLayout, type Need, type Statistics } from './calibrate.ts';
import type { Planning, WeightPlan } from './plan.ts';
import { runnableBytes } from './runnable.ts';
import type { Simulation } from './simulate.ts';
import { subModel } from './sub-model.ts';

/** A layer whose output can be corrected. Nodes and values belong to the model that was planned. */
export interface CorrectionTarget {
  /** Name of the layer's float result, its bias included. */
  readonly tensor: string;
  readonly channelAxis: number;
  readonly channels: number;
  readonly weight: Weight;
  /** The node that reads the weight. */
  readonly node: Node;
  /** The node that adds the bias, and the input it is read from; undefined where there is no place for one. */
  readonly bias: { readonly node: Node; readonly input: number } | undefined;
}

/** What is changed at one layer: factors on the scales of its rows, and the bias that replaces its own. */
export interface Correction {
  readonly gain: Float64Array | undefined;
  readonly bias: Float32Array | undefined;
}

/** By the name of the layer's float result. */
export type Corrections = ReadonlyMap<string, Correction>;

/** The layers of the main graph whose weights the plan quantizes to integers. */
export function correctionTargets(planning: Planning): CorrectionTarget[] {
  const quantized = new Set(planning.plan.weights.filter(hasCodes).map((plan) => plan.tensor));
  const targets: CorrectionTarget[] = [];
  for (const weight of planning.weights) {
    if (!quantized.has(weight.value.name)) continue;
    for (const use of weight.uses) {
      const target =
        use.input === 1 && planning.model.graph === use.node.graph ? targetOf(weight, use.node, planning) : undefined;
      if (target) targets.push(target);
    }
  }
  return targets;
}

function hasCodes({ quantize }: WeightPlan): boolean {
  return quantize !== undefined && !isPlainFloat(quantize.scheme);
}

function targetOf(weight: Weight, node: Node, planning: Planning): CorrectionTarget | undefined {
  if (node.domain !== '') return undefined;
  const { shape } = weight.tensor;
  const base = { weight, node, tensor: node.outputs[0]?.name ?? '' };
  const ownBias = (channels: number) => (biasFits(node.inputs[2], channels) ? { node, input: 2 } : undefined);
  switch (node.op) {
    case 'Conv':
      return { ...base, channelAxis: 1, channels: shape[0], bias: ownBias(shape[0]) };
    case 'ConvTranspose': {
      const channels = shape[1] * node.int('group', 1);
      return { ...base, channelAxis: 1, channels, bias: ownBias(channels) };
    }
    case 'Gemm': {
      const channels = shape[node.int('transB', 0) ? 0 : 1];
      return { ...base, channelAxis: -1, channels, bias: node.float('beta', 1) === 1 ? ownBias(channels) : undefined };
    }
    case 'MatMul': {
      if (shape.length !== 2) return undefined;
      const channels = shape[1];
      const sum = node.output().soleUser;
      const input = sum?.is('Add')
        ? sum.inputs.findIndex((value) => value?.isConstant && isPerChannel(value, channels))
        : -1;
      // In integer arithmetic the sum has a quantized constant of its own, which holds no correction.
      if (!sum || input < 0 || planning.integer?.units.has(sum))
        return { ...base, channelAxis: -1, channels, bias: undefined };
      return { ...base, tensor: sum.output().name, channelAxis: -1, channels, bias: { node: sum, input } };
    }
    default:
      return undefined;
  }
}

function biasFits(bias: Value | undefined, channels: number): boolean {
  if (!bias) return true;
  return (
    bias.isConstant && bias.tensor?.dtype === 'float32' && (isPerChannel(bias, channels) || bias.tensor.size === 1)
  );
}

/** True for [channels] and [1, channels]; [channels, 1] is as large, but one number a row. */
function isPerChannel({ tensor }: Value, channels: number): boolean {
  return tensor !== undefined && tensor.size === channels && (tensor.shape.at(-1) ?? 1) === channels;
}

/** What calibration must collect of the float model, over the first `samples` samples. */
export function correctionNeeds(targets: readonly CorrectionTarget[], samples: number): Need[] {
  return targets.map(({ tensor, channelAxis }) => ({ tensor, statistic: 'moments', channelAxis, samples }));
}

export interface CorrectionOptions {
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
  readonly threads?: number;
  /** Done to layers of one depth before they are measured. */
  readonly before?: (simulation: Simulation, group: readonly CorrectionTarget[]) => Promise<void>;
}

/**
 * Finds the corrections by running `simulation`, which is changed on the way.
 * @param statistics the `moments` of `correctionNeeds`, over the same samples
 */
export async function findCorrections(
  simulation: Simulation,
  targets: readonly CorrectionTarget[],
  statistics: Statistics,
  samples: Samples,
  runtime: Runtime,
  options: CorrectionOptions = {},
): Promise<Corrections> {
  const corrections = new Map<string, Correction>();
  const found = targets.filter((target) => statistics.get(target.tensor)?.has('moments'));
  const results = new Map(found.map((target) => [target, simulation.resultOf(target)]));
  const levels = levelsOf(simulation.model, new Set(results.values()));
  const groups = new Map<number, CorrectionTarget[]>();
  for (const target of found) {
    const level = levels.get(results.get(target) as Value) ?? 0;
    groups.set(level, [...(groups.get(level) ?? []), target]);
  }
  let done = 0;
  for (const level of [...groups.keys()].sort((a, b) => a - b)) {
    const group = groups.get(level) ?? [];
    await options.before?.(simulation, group);
    const measured = await measure(simulation, group, samples, runtime, options);
    for (const [index, target] of group.entries()) {
      const wanted = statistics.get(target.tensor)?.get('moments') as MomentsState;
      const correction = correct(target, simulation.hasRowScales(target), wanted, measured[index]);
      simulation.apply(target, correction);
      corrections.set(target.tensor, correction);
    }
    done += group.length;
    options.onProgress?.(done, found.length);
  }
  return corrections;
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
  const present = bias?.node.inputs[bias.input]?.tensor?.floats();
  const biasOf = (channel: number) => (present ? present[present.length === 1 ? 0 : channel] : 0);
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

interface Measured {
  /** The layer's result, its bias included. */
  readonly result: MomentsState;
  /** What the node that reads the weight makes, and what it would make of the same input with the float weight. */
  readonly plain: MomentsState;
  readonly twin: MomentsState | undefined;
}

async function measure(
  simulation: Simulation,
  group: readonly CorrectionTarget[],
  samples: Samples,
  runtime: Runtime,
  options: CorrectionOptions,
): Promise<Measured[]> {
  const twins = simulation.hasFloatActivations ? [] : group.map((target) => simulation.addTwin(target));
  const parts = group.map((target, index) => ({
    target,
    result: watch(simulation.resultOf(target)),
    plain: watch(target.node.output()),
    twin: simulation.hasFloatActivations ? undefined : watch(twins[index].output()),
  }));
  const watches = parts.flatMap(({ result, plain, twin }) => (twin ? [result, plain, twin] : [result]));
  try {
    const bytes = runnableBytes(subModel(simulation.model, [...new Set(watches.map(({ value }) => value))]));
    const session = await runtime.open(bytes, options.threads ? { threads: options.threads } : {});
    try {
      for await (const feeds of samples) {
        options.signal?.throwIfAborted();
        const results: Feeds = await session.run(feeds);
        for (const { target, result, plain, twin } of parts) {
          for (const { value, accumulator } of twin ? [result, plain, twin] : [result]) {
            const tensor = results[value.name];
            accumulator.observe(tensor.floats(), channelLayout(tensor, target.channelAxis));
          }
        }
      }
    } finally {
      await session.close();
    }
  } finally {
    for (const twin of twins) simulation.model.graph.remove(twin);
  }
  const stateOf = (watched: ReturnType<typeof watch>) => watched.accumulator.state() as MomentsState;
  return parts.map(({ result, plain, twin }) => ({
    result: stateOf(result),
    plain: stateOf(plain),
    twin: twin && stateOf(twin),
  }));
}

function watch(value: Value) {
  return { value, accumulator: statisticOf('moments').create() };
}

/** Replaces the bias of a layer in a float graph. */
export function setBias(target: CorrectionTarget, bias: Float32Array): void {
  if (!target.bias) throw new HalftoneError('internal', `"${target.tensor}": expected a place for a bias, got none`);
  const { node, input } = target.bias;
  const present = node.inputs[input]?.tensor;
  const shape = present && present.size === target.channels ? present.shape : [target.channels];
  node.setInput(input, node.graph.addInitializer(`${target.tensor}_bias`, Tensor.float32(shape, bias)));
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
    const see = (inner: Node) => {
      for (const input of inner.inputs) {
        if (input) level = Math.max(level, (levels.get(input) ?? 0) + (targets.has(input) ? 1 : 0));
      }
      for (const graph of inner.subgraphs) graph.nodes.forEach(see);
    };
    see(node);
    for (const output of node.outputs) if (output) levels.set(output, level);
  }
  return levels;
}
