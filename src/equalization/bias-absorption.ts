/**
 * Moves the part of a bias that Relu never cuts into the next layer: relu(x) − c = relu(x − c) as long as x ≥ c. It narrows
 * the range of activations that equalization made wide (Nagel et al. 2019, arXiv 1906.04721, section 4.1.3).
 */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { ChannelMoments } from './batch-norm-statistics.ts';
import { findGroups, type Group, type Slot } from './groups.ts';
import { averagesPadding, isPadded, layerAxes } from './layers.ts';
import { setConstant } from './scale.ts';

export interface AbsorbedGroup {
  readonly producer: string;
  readonly consumers: readonly string[];
  /** Channels with something to absorb, and the largest amount. */
  readonly channels: number;
  readonly largest: number;
}

/** Means less three deviations: below it a normal variable has 0.13 % of its mass (section 4.1.3). */
const deviationsBelow = 3;

/** Operators that a constant for each channel goes through unchanged. */
const movers = [
  ...['Identity', 'Dropout', 'MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool'],
  ...['Flatten', 'Reshape', 'Transpose', 'Squeeze', 'Unsqueeze'],
];

/**
 * Edits `model` in place where one layer with a bias goes through one Relu to convolutions without padding, Gemm, or
 * MatMul with an added bias. With padding the absorbed amount would be missing at the borders, so those stay. It is exact
 * for all values above the absorbed amount.
 * @param statistics of what Relu reads, by the name of the value
 */
export function absorbBiases(model: Model, statistics: ReadonlyMap<string, ChannelMoments>): AbsorbedGroup[] {
  const done: AbsorbedGroup[] = [];
  for (const group of findGroups(model.graph).groups) {
    const chain = chainOf(group);
    const moments = chain && statistics.get(chain.relu.input(0).name);
    if (!chain || moments?.mean.length !== group.channels) continue;
    const amounts = new Float64Array(group.channels);
    for (const [place, channel] of chain.offset.channels.entries()) {
      if (channel >= 0)
        amounts[channel] = Math.max(0, moments.mean[place] - deviationsBelow * moments.deviation[place]);
    }
    const channels = amounts.filter((amount) => amount > 0).length;
    if (channels === 0) continue;
    shift(chain.offset, (place) => -amounts[chain.offset.channels[place]]);
    for (const [index, slot] of group.consumers.entries()) {
      const sums = responses(slot, amounts);
      shift(chain.biases[index], (place) => sums[place]);
    }
    done.push({
      producer: group.producers[0].node.name || group.producers[0].node.output().name,
      consumers: group.consumers.map(({ node }) => node.name || node.output().name),
      channels,
      largest: amounts.reduce((a, b) => Math.max(a, b)),
    });
  }
  return done;
}

type Place = Pick<Slot, 'node' | 'input'>;

interface Chain {
  readonly relu: Node;
  readonly offset: Slot;
  /** Where each consumer's bias is. */
  readonly biases: readonly Place[];
}

function chainOf({ producers, consumers, offsets, limits, between, channels }: Group): Chain | undefined {
  if (producers.length !== 1 || offsets.length !== 1 || limits.length > 0) return undefined;
  const [[offset], [{ node: producer, kind }]] = [offsets, producers];
  const relus = between.filter((node) => node.is('Relu'));
  if (kind !== 'weight' || relus.length !== 1 || !isPlain(producer) || offset.channels.includes(-1)) return undefined;
  if (offset.channels.length !== channels || offset.channels.some((channel, place) => channel !== place))
    return undefined;
  const isAdded = offset.node !== producer;
  if (isAdded && (!offset.node.is('Add') || !offset.node.inputs.includes(producer.output()))) return undefined;
  if (relus[0].input(0) !== offset.node.output()) return undefined;
  const others = between.filter((node) => node !== relus[0] && node !== offset.node);
  if (!others.every((node) => node.is(...movers) && !averagesPadding(node))) return undefined;
  const biases = consumers.map(({ node, kind: own }) => (own === 'weight' ? biasOf(node) : undefined));
  return biases.every((place) => place !== undefined) ? { relu: relus[0], offset, biases } : undefined;
}

/** True unless Gemm has factors of its own. */
function isPlain(node: Node): boolean {
  return node.op !== 'Gemm' || (node.float('alpha', 1) === 1 && node.float('beta', 1) === 1);
}

function biasOf(node: Node): Place | undefined {
  const axes = layerAxes(node);
  if (!axes || node.op === 'ConvTranspose' || !isPlain(node) || (node.op === 'Conv' && isPadded(node)))
    return undefined;
  const channels = axes.weight.shape[axes.makes.axis];
  const isOwn = (at: Place) => {
    const tensor = at.node.inputs[at.input]?.tensor;
    return tensor?.dtype === 'float32' && tensor.size === channels && tensor.shape.at(-1) === channels;
  };
  if (node.op !== 'MatMul') return isOwn({ node, input: 2 }) ? { node, input: 2 } : undefined;
  const add = node.output().soleUser;
  if (!add?.is('Add')) return undefined;
  const place = { node: add, input: add.inputs[0] === node.output() ? 1 : 0 };
  return add.input(place.input).isConstant && isOwn(place) ? place : undefined;
}

function shift({ node, input }: Place, amount: (place: number) => number): void {
  const tensor = node.input(input).tensor as Tensor;
  setConstant(
    node,
    input,
    Tensor.float32(
      tensor.shape,
      tensor.floats().map((value, place) => value + amount(place)),
    ),
  );
}

/** What a layer makes of a constant for each channel. */
export function responses({ node, channels }: Slot, amounts: Float64Array): Float64Array {
  const { weight, reads, makes } = layerAxes(node)!;
  const { shape } = weight;
  const values = weight.floats();
  const inner = values.length / (shape[0] * shape[1]);
  const result = new Float64Array(shape[makes.axis]);
  for (let first = 0, index = 0; first < shape[0]; first++) {
    for (let second = 0; second < shape[1]; second++) {
      const read = reads.axis === 0 ? first : Math.floor((first * reads.blocks) / shape[0]) * shape[1] + second;
      const amount = channels[read] < 0 ? 0 : amounts[channels[read]];
      let sum = 0;
      for (let tap = 0; tap < inner; tap++, index++) sum += values[index];
      result[makes.axis === 0 ? first : second] += amount * sum;
    }
  }
  return result;
}
