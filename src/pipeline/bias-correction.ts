/**
 * Empirical bias correction: each layer's bias takes up the mean error that quantization causes in its output, layer
 * after layer behind the already quantized and corrected part (Nagel et al. 2019, "Data-Free Quantization Through Weight
 * Equalization and Bias Correction", §4.2, in its empirical form; ALGORITHMS.md §3.1). It costs nothing at run time.
 */
import { writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { LoweredQdq } from '../lowerings/qdq.ts';
import type { Weight } from '../lowerings/weight.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { type MomentsState, statisticOf } from '../statistics/index.ts';
import { Tensor } from '../tensor/tensor.ts';
import { channelLayout, type Need, type Statistics, valuesByName } from './calibrate.ts';
import type { Planning } from './plan.ts';
import { subModel } from './sub-model.ts';

/** A layer whose bias can be corrected: where its result is found in the float model. */
export interface CorrectionTarget {
  /** Name of the float result, the bias included. */
  readonly tensor: string;
  readonly channelAxis: number;
  readonly channels: number;
  /** The node that holds the weight, in the planned model. */
  readonly node: Node;
}

/** The layers of the main graph whose planned weights change their mean output. */
export function correctionTargets(planning: Planning): CorrectionTarget[] {
  const targets: CorrectionTarget[] = [];
  const quantized = new Set(planning.plan.weights.filter((plan) => plan.quantize).map((plan) => plan.tensor));
  for (const weight of planning.weights) {
    if (!quantized.has(weight.value.name)) continue;
    for (const use of weight.uses) {
      const target = targetOf(weight, use.node, use.input);
      if (target) targets.push(target);
    }
  }
  return targets;
}

function targetOf(weight: Weight, node: Node, input: number): CorrectionTarget | undefined {
  if (node.domain !== '' || input !== 1 || node.graph.nodes[0]?.graph !== node.graph) return undefined;
  const { shape } = weight.tensor;
  const result = node.output();
  switch (node.op) {
    case 'Conv':
      return { tensor: result.name, channelAxis: 1, channels: shape[0], node };
    case 'ConvTranspose':
      return { tensor: result.name, channelAxis: 1, channels: shape[1] * node.int('group', 1), node };
    case 'Gemm':
      return { tensor: result.name, channelAxis: -1, channels: shape[node.int('transB', 0) ? 0 : 1], node };
    case 'MatMul': {
      if (shape.length !== 2) return undefined;
      const sum = result.soleUser;
      const added = sum?.is('Add') ? sum.inputs.find((value) => value !== result)?.tensor : undefined;
      const biased = added?.isFloat && added.size === shape[1];
      return { tensor: biased && sum ? sum.output().name : result.name, channelAxis: -1, channels: shape[1], node };
    }
    default:
      return undefined;
  }
}

/** What calibration must collect of the float model for these targets. */
export function correctionNeeds(targets: readonly CorrectionTarget[]): Need[] {
  return targets.map(({ tensor, channelAxis }) => ({ tensor, statistic: 'moments', channelAxis }));
}

export interface CorrectionOptions {
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
  readonly threads?: number;
}

export interface CorrectionResult {
  /** Layers whose bias changed. */
  readonly corrected: number;
  /** Layers without a place for a bias, by the name of their result. */
  readonly left: readonly string[];
  /** Takes every change back. */
  undo(): void;
}

/**
 * Corrects the biases of `quantized`, whose values carry the names of the float model's.
 * `statistics` must hold the `moments` of `correctionNeeds` over the same samples.
 */
export async function correctBiases(
  quantized: Model,
  targets: readonly CorrectionTarget[],
  statistics: Statistics,
  samples: Samples,
  runtime: Runtime,
  lowered: LoweredQdq | undefined,
  options: CorrectionOptions = {},
): Promise<CorrectionResult> {
  const values = valuesByName(quantized.graph);
  const left: string[] = [];
  const undo: (() => void)[] = [];
  const found: { target: CorrectionTarget; value: Value; slot: BiasSlot }[] = [];
  for (const target of targets) {
    const raw = lowered?.rawResults.get(target.node);
    const value = raw && values.get(raw.name) ? raw : values.get(target.tensor);
    const slot = value && biasSlot(value, target.channels);
    if (value && slot && statistics.get(target.tensor)?.has('moments')) found.push({ target, value, slot });
    else left.push(target.tensor);
  }
  const levels = levelsOf(quantized, new Set(found.map(({ value }) => value)));
  const groups = new Map<number, typeof found>();
  for (const item of found) {
    const level = levels.get(item.value) ?? 0;
    groups.set(level, [...(groups.get(level) ?? []), item]);
  }
  let done = 0;
  for (const level of [...groups.keys()].sort((a, b) => a - b)) {
    const group = groups.get(level) ?? [];
    const means = await meansOf(quantized, group, samples, runtime, options);
    for (const [index, { target, slot }] of group.entries()) {
      const wanted = (statistics.get(target.tensor)?.get('moments') as MomentsState).mean;
      const shift = Float64Array.from(wanted, (mean, channel) => mean - means[index][channel]);
      if (shift.every(Number.isFinite)) undo.push(slot.add(shift));
    }
    done += group.length;
    options.onProgress?.(done, found.length);
  }
  return {
    corrected: undo.length,
    left,
    undo() {
      for (const step of undo) step();
    },
  };
}

async function meansOf(
  model: Model,
  group: readonly { target: CorrectionTarget; value: Value }[],
  samples: Samples,
  runtime: Runtime,
  options: CorrectionOptions,
): Promise<(readonly number[])[]> {
  const part = subModel(
    model,
    group.map(({ value }) => value),
  );
  const session = await runtime.open(writeOnnx(part), options.threads ? { threads: options.threads } : {});
  const accumulators = group.map(() => statisticOf('moments').create());
  try {
    for await (const feeds of samples) {
      options.signal?.throwIfAborted();
      const results: Feeds = await session.run(feeds);
      group.forEach(({ value, target }, index) => {
        const tensor = results[value.name];
        accumulators[index].observe(tensor.floats(), channelLayout(tensor, target.channelAxis));
      });
    }
  } finally {
    await session.close();
  }
  return accumulators.map((accumulator) => (accumulator.state() as MomentsState).mean);
}

/** Where a layer's bias lives. `add` shifts it and returns the way back. */
interface BiasSlot {
  add(shift: Float64Array): () => void;
}

/** The bias of the node that makes `value`, or undefined where it has no place for one. */
function biasSlot(value: Value, channels: number): BiasSlot | undefined {
  const node = value.producer;
  if (!node) return undefined;
  if (node.is('Conv', 'ConvTranspose') || (node.is('Gemm') && node.float('beta', 1) === 1))
    return inputSlot(node, 2, channels);
  if (node.op === 'MatMulNBits') return inputSlot(node, 5, channels);
  if (node.is('Add')) {
    const index = node.inputs.findIndex(
      (input) => input?.tensor?.isFloat && input.isConstant && input.tensor.size === channels,
    );
    return index < 0 ? undefined : inputSlot(node, index, channels);
  }
  return undefined;
}

function inputSlot(node: Node, index: number, channels: number): BiasSlot | undefined {
  const present = node.inputs[index];
  const tensor = present?.tensor;
  if (present && (!tensor || tensor.dtype !== 'float32' || (tensor.size !== channels && tensor.size !== 1)))
    return undefined;
  return {
    add(shift) {
      const before = tensor?.floats();
      const bias = Float32Array.from(
        shift,
        (step, channel) => (before ? before[before.length === 1 ? 0 : channel] : 0) + step,
      );
      const shape = tensor && tensor.size === channels ? tensor.shape : [channels];
      const value = node.graph.addInitializer(`${node.outputs[0]?.name}_bias`, Tensor.float32(shape, bias));
      node.setInput(index, value);
      return () => node.setInput(index, present);
    },
  };
}

/** How many targets lie before each target, along the longest way: targets of one level do not depend on each other. */
function levelsOf(model: Model, targets: ReadonlySet<Value>): Map<Value, number> {
  const levels = new Map<Value, number>();
  const levelOf = (node: Node): number => {
    let level = 0;
    const see = (inner: Node) => {
      for (const input of inner.inputs) {
        if (!input) continue;
        level = Math.max(level, (levels.get(input) ?? 0) + (targets.has(input) ? 1 : 0));
      }
      for (const graph of inner.subgraphs) graph.nodes.forEach(see);
    };
    see(node);
    return level;
  };
  for (const node of model.graph.nodes) {
    const level = levelOf(node);
    for (const output of node.outputs) if (output) levels.set(output, level);
  }
  return levels;
}
