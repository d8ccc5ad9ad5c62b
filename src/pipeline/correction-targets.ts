/** Where outputs of layers can be corrected: layers with quantized weights, and normalizations between them. */
import { HalftoneError } from '../base/errors.ts';
import { type ActivationFunction, functionBehind } from '../equalization/activation-functions.ts';
import { isPlainFloat } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { Weight, WeightKind } from '../lowerings/weight.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { Need } from './calibrate.ts';
import type { Planning, WeightPlan } from './plan.ts';

/** A layer with a quantized weight. Nodes and values belong to the model that was planned. */
export interface LayerTarget {
  /** Name of the layer's float result, its bias included. */
  readonly tensor: string;
  readonly weight: Weight;
  /** The node that reads the weight. */
  readonly node: Node;
}

/** Tells layers apart: a recurrent one has two weights, and a weight may have several layers. */
export function layerKey({ tensor, weight }: LayerTarget): string {
  return `${tensor}/${weight.value.name}`;
}

/** A layer whose output can be corrected. */
export interface CorrectionTarget extends LayerTarget {
  readonly channelAxis: number;
  readonly channels: number;
  /** The node that adds the bias, and the input it is read from; undefined where there is no place for one. */
  readonly bias: { readonly node: Node; readonly input: number } | undefined;
  /** The function behind it, where activations are quantized and there is a bias. */
  readonly behind?: ActivationFunction;
}

/** A normalization with a scale, and perhaps a bias, for each channel. */
export interface NormalizationTarget {
  /** Name of its result. */
  readonly tensor: string;
  readonly channelAxis: number;
  readonly channels: number;
  readonly node: Node;
  /** Inputs with one number a channel. */
  readonly scale: number;
  readonly bias: number | undefined;
}

/** The layers of the main graph whose weights the plan quantizes to integers. */
export function correctionTargets(planning: Planning): CorrectionTarget[] {
  const quantized = new Set(planning.plan.weights.filter(hasCodes).map((plan) => plan.tensor));
  const targets: CorrectionTarget[] = [];
  for (const weight of planning.weights) {
    if (!quantized.has(weight.value.name)) continue;
    for (const use of weight.uses) {
      const target =
        use.input === 1 && planning.model.graph === use.node.graph ? targetOf(weight, use.node, planning) : undefined;
      if (target) targets.push(withFunction(target, planning));
    }
  }
  return targets;
}

function withFunction(target: CorrectionTarget, { integer }: Planning): CorrectionTarget {
  const behind = integer && target.bias && functionBehind(target.bias.node.output());
  return behind ? { ...target, behind } : target;
}

/** The recurrent layers of the main graph whose weights the plan quantizes: their results have no bias behind them. */
export function recurrentTargets(planning: Planning): LayerTarget[] {
  return targetsOfKind('recurrent', planning);
}

/** The embeddings of the main graph that the plan quantizes. */
export function embeddingTargets(planning: Planning): LayerTarget[] {
  return targetsOfKind('embedding', planning);
}

function targetsOfKind(kind: WeightKind, planning: Planning): LayerTarget[] {
  const quantized = new Set(planning.plan.weights.filter(hasCodes).map((plan) => plan.tensor));
  return planning.weights.flatMap((weight) => {
    const { node, kind: own } = weight.use;
    const result = node.outputs.find((output) => output !== undefined);
    const isOne = own === kind && node.graph === planning.model.graph && quantized.has(weight.value.name);
    return isOne && result ? [{ tensor: result.name, weight, node }] : [];
  });
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
export function correctionNeeds(targets: readonly (CorrectionTarget | NormalizationTarget)[], samples: number): Need[] {
  return targets.flatMap((target) => {
    const tensors = [target.tensor, ...('behind' in target && target.behind ? [target.behind.tensor] : [])];
    return tensors.map((tensor) => ({ tensor, statistic: 'moments', channelAxis: target.channelAxis, samples }));
  });
}

/** The normalizations of the main graph. */
export function normalizationTargets(model: Model): NormalizationTarget[] {
  return model.graph.nodes.flatMap((node): NormalizationTarget[] => {
    const kind = normalizations[node.op];
    const scale = node.inputs[1]?.tensor;
    const bias = kind?.hasBias ? node.inputs[2] : undefined;
    if (!kind || !scale || scale.dtype !== 'float32' || scale.shape.length !== 1 || !node.outputs[0]) return [];
    // Of several axes each place has a scale of its own.
    if (kind.axis === -1 && node.int('axis', -1) !== -1) return [];
    if (bias && (bias.tensor?.dtype !== 'float32' || bias.tensor.size !== scale.size)) return [];
    const tensor = node.output().name;
    return [
      { tensor, channelAxis: kind.axis, channels: scale.size, node, scale: 1, bias: kind.hasBias ? 2 : undefined },
    ];
  });
}

/** Where channels lie, and whether there is a bias behind the scale. */
const normalizations: Readonly<Record<string, { readonly axis: number; readonly hasBias: boolean } | undefined>> = {
  LayerNormalization: { axis: -1, hasBias: true },
  RMSNormalization: { axis: -1, hasBias: false },
  SimplifiedLayerNormalization: { axis: -1, hasBias: false },
  BatchNormalization: { axis: 1, hasBias: true },
};

/** The bias that a layer has in a float graph, as a number for each channel; 0 where it has none. */
export function presentBias({ bias }: CorrectionTarget): (channel: number) => number {
  const values = bias?.node.inputs[bias.input]?.tensor?.floats();
  return (channel) => (values ? values[values.length === 1 ? 0 : channel] : 0);
}

/** Replaces the bias of a layer in a float graph. */
export function setBias(target: CorrectionTarget, bias: Float32Array): void {
  if (!target.bias) throw new HalftoneError('internal', `"${target.tensor}": expected a place for a bias, got none`);
  const { node, input } = target.bias;
  const present = node.inputs[input]?.tensor;
  const shape = present && present.size === target.channels ? present.shape : [target.channels];
  node.setInput(input, node.graph.addInitializer(`${target.tensor}_bias`, Tensor.float32(shape, bias)));
}

/** Replaces scale and bias of a normalization in a float graph. */
export function setNormalization(
  target: NormalizationTarget,
  scale: Float32Array,
  bias: Float32Array | undefined,
): void {
  const { node, channels } = target;
  const set = (input: number, name: string, values: Float32Array) =>
    node.setInput(input, node.graph.addInitializer(`${target.tensor}_${name}`, Tensor.float32([channels], values)));
  set(target.scale, 'scale', scale);
  if (target.bias !== undefined && bias) set(target.bias, 'bias', bias);
}
