/** Multiplies the constants of a group by its factors: what all equalizing passes share. Outputs stay what they were. */
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { Group, Limit, Slot } from './groups.ts';

/** For each element of the slot's constant, in order: calls `visit(index, channel)`, −1 for those outside of the group. */
function eachElement(
  { node, input, axis, blocks, channels }: Slot,
  visit: (index: number, channel: number) => void,
): void {
  const shape = (node.input(input).tensor as Tensor).shape;
  const product = (sizes: readonly number[]) => sizes.reduce((a, b) => a * b, 1);
  const [outer, size, inner] = [product(shape.slice(0, axis)), shape[axis], product(shape.slice(axis + 1))];
  const perBlock = outer / blocks;
  let index = 0;
  for (let row = 0; row < outer; row++) {
    const offset = Math.floor(row / perBlock) * size;
    for (let position = 0; position < size; position++) {
      const channel = channels[offset + position];
      for (let i = 0; i < inner; i++) visit(index++, channel);
    }
  }
}

/** The largest magnitude of each channel in a constant with the slot's shape; 0 for channels that it has not. */
export function magnitudes(slot: Slot, values: ArrayLike<number>, channels: number): Float64Array {
  const largest = new Float64Array(channels);
  eachElement(slot, (index, channel) => {
    if (channel >= 0) largest[channel] = Math.max(largest[channel], Math.abs(values[index]));
  });
  return largest;
}

/** The sum of the squares of each channel. */
export function energies(slot: Slot, values: ArrayLike<number>, channels: number): Float64Array {
  const sums = new Float64Array(channels);
  eachElement(slot, (index, channel) => {
    if (channel >= 0) sums[channel] += values[index] ** 2;
  });
  return sums;
}

/** Multiplies `values`, a constant with the slot's shape, by what the slot takes up of the factors. */
export function multiply(slot: Slot, values: Float32Array | Float64Array, factors: Float64Array): void {
  const own = slot.power === 1 ? factors : factors.map((factor) => 1 / factor);
  eachElement(slot, (index, channel) => {
    if (channel >= 0) values[index] *= own[channel];
  });
}

/**
 * What becomes of a clip: bounds for each channel; none above; or one bound, divided by the number given. The last two are
 * exact only where the values stay below what the bounds were.
 */
export type ClipChange = 'exact' | 'unbounded' | number;

/**
 * Edits the graph of a group: producers and offsets are divided by the factors, consumers multiplied by them.
 * @param factors one positive finite number a channel
 * @param clipOf what becomes of clips whose channels get different factors
 */
export function scaleGroup(
  group: Group,
  factors: Float64Array,
  clipOf: (limit: Limit) => ClipChange = () => 'exact',
): void {
  for (const slot of [...group.producers, ...group.offsets, ...group.consumers]) {
    const tensor = slot.node.input(slot.input).tensor as Tensor;
    const values = Float64Array.from(tensor.floats());
    multiply(slot, values, factors);
    setConstant(slot.node, slot.input, Tensor.float32(tensor.shape, values));
  }
  for (const limit of group.limits) {
    const { graph } = limit.node;
    scaleLimit(limit, factors, clipOf(limit));
    graph.removeUnusedInitializers();
  }
}

/** Replaces a constant input; beside the old one where others read that, too. */
export function setConstant(node: Node, input: number, tensor: Tensor): void {
  const previous = node.input(input);
  if (previous.soleUser === node && !previous.isGraphOutput) previous.tensor = tensor;
  else node.setInput(input, node.graph.addInitializer(previous.name, tensor));
}

function scaleLimit({ node, axis, channels, low, high }: Limit, factors: Float64Array, change: ClipChange): void {
  const { graph } = node;
  const inverse = Float64Array.from(channels, (channel) => (channel < 0 ? 1 : 1 / factors[channel]));
  const isUniform = inverse.every((factor) => factor === inverse[0]);
  const one = typeof change === 'number' ? 1 / change : isUniform && change === 'exact' ? inverse[0] : undefined;
  const name = node.name || node.output().name;
  if (one !== undefined) {
    for (const [index, bound, value] of [
      [1, 'min', low],
      [2, 'max', high],
    ] as const) {
      if (!Number.isFinite(value)) continue;
      const scaled = value * one;
      if (node.inputs[index])
        node.setInput(index, graph.addInitializer(`${name}_${bound}`, Tensor.float32([], [scaled])));
      else node.setFloat(bound, scaled);
    }
    return;
  }
  const output = node.output();
  const shape = [channels.length, ...new Array<number>(-1 - axis).fill(1)];
  let value: Value = node.input(0);
  const steps: { op: string; bound?: Float64Array }[] = [];
  if (low === 0) steps.push({ op: 'Relu' });
  else if (Number.isFinite(low)) steps.push({ op: 'Max', bound: inverse.map((factor) => factor * low) });
  if (Number.isFinite(high) && change === 'exact')
    steps.push({ op: 'Min', bound: inverse.map((factor) => factor * high) });
  if (steps.length === 0) steps.push({ op: 'Identity' });
  for (const [index, { op, bound }] of steps.entries()) {
    const inputs = bound ? [value, graph.addInitializer(`${name}_${op}`, Tensor.float32(shape, bound))] : [value];
    const isLast = index === steps.length - 1;
    const made = graph.add(
      { op, name: `${name}_${op}`, inputs, outputs: [isLast ? output : `${name}_${op}_out`] },
      node,
    );
    value = made.output();
  }
  graph.remove(node);
}

/** What a pass did to one group. */
export interface ScaledGroup {
  /** Names of the nodes. */
  readonly producers: readonly string[];
  readonly consumers: readonly string[];
  readonly channels: number;
  /** Smallest and largest factor. */
  readonly factors: readonly [min: number, max: number];
  /** What the channels of activations were divided by, by the name of the value: one number for each position. */
  readonly divisors: ReadonlyMap<string, Float64Array>;
}

/** Names what was done, for reports. */
export function describeScaling(group: Group, factors: Float64Array): ScaledGroup {
  return {
    producers: namesOf(group.producers),
    consumers: namesOf(group.consumers),
    channels: group.channels,
    factors: [factors.reduce((a, b) => Math.min(a, b)), factors.reduce((a, b) => Math.max(a, b))],
    divisors: new Map(
      group.values.map(({ value, channels }) => [
        value.name,
        Float64Array.from(channels, (channel) => (channel < 0 ? 1 : factors[channel])),
      ]),
    ),
  };
}

/** The names of the slots' nodes, each once. */
export function namesOf(slots: readonly Slot[]): string[] {
  return [...new Set(slots.map(({ node }) => node.name || node.output().name))];
}
