/**
 * Model inputs that are pixels of 8 bits, scaled and shifted channel by channel: every value is (p − o)·δ with a whole p from 0
 * to 255, and δ and o of the channel. One scale for the whole tensor falls between these steps, and what is rounded away
 * is alike over whole regions of a picture. Here the first layers take the pixels themselves, less 128, which 8 bits hold
 * without any error (zeros that are padded, to half a step); their weights and biases undo it.
 */
import type { Graph } from '../graph/graph.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { responses } from './bias-absorption.ts';
import { isOwned, layerAxes } from './layers.ts';
import { multiply, setConstant } from './scale.ts';
import { constant, type Slot } from './tracer.ts';

/** The values x = (p − o)·δ of one channel, with p from −128 to 127. */
export interface Grid {
  readonly step: number;
  /** o: the p that stands for zero, which need not be whole. */
  readonly zero: number;
}

/** What p is at most, and at least. */
export const gridInterval = { min: -128, max: 127 } as const;

/** More different values are no pixels of 8 bits. */
export const mostValues = 256;

/** Fewer different values tell little of where others lie. */
const leastValues = 64;

/** The values must reach so many steps far: a grid that is too coarse would round what comes later. */
const leastSteps = 128;

/** Values may lie beside their step by this share of one. */
const tolerance = 0.01;

/**
 * The grid on which all of `values` lie, in any order and without repetition; undefined where there is none of 256 steps that
 * reach zero.
 */
export function gridOf(values: readonly number[]): Grid | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const [least, most] = [sorted[0], sorted[sorted.length - 1]];
  if (sorted.length < leastValues || sorted.length > mostValues || !Number.isFinite(most - least)) return undefined;
  let gap = Number.POSITIVE_INFINITY;
  for (let i = 1; i < sorted.length; i++) gap = Math.min(gap, sorted[i] - sorted[i - 1]);
  const steps = Math.round((most - least) / gap);
  if (steps < leastSteps || steps > 255) return undefined;
  const step = (most - least) / steps;
  const isOn = (value: number) => {
    const place = (value - least) / step;
    return Math.abs(place - Math.round(place)) <= tolerance;
  };
  if (!sorted.every(isOn)) return undefined;
  // Where samples leave out the darkest or the brightest values, as many are left on either side; but padding is zero, and
  // must have a code as well.
  const { min, max } = gridInterval;
  const offset = least / step;
  const lowest = Math.max(min, Math.ceil(min + offset));
  const highest = Math.min(max - steps, Math.floor(max + offset));
  if (lowest > highest) return undefined;
  const first = Math.min(Math.max(min + Math.floor((255 - steps) / 2), lowest), highest);
  return { step, zero: first - offset };
}

/** Inputs whose values only convolutions read, and how many channels they have. */
export function griddedInputs(graph: Graph): { readonly input: Value; readonly channels: number }[] {
  return graph.inputs.flatMap((input) => {
    const users = [...input.users];
    if (
      input.type?.dtype !== 'float32' ||
      input.isGraphOutput ||
      users.length === 0 ||
      !users.every((node) => node.graph === graph && isConvolution(node))
    )
      return [];
    return [{ input, channels: readBy(users[0]).channels.length }];
  });
}

/** Where a convolution's weight takes up the channels that it reads. */
function readBy(node: Node): Slot {
  const { weight, reads } = layerAxes(node)!;
  const channels = Int32Array.from({ length: weight.shape[reads.axis] * reads.blocks }, (_, channel) => channel);
  return { node, input: 1, ...reads, channels, kind: 'weight', power: 1 };
}

/** With constants of its own, and padding that is known. */
function isConvolution(node: Node): boolean {
  if (!node.is('Conv') || !constant(node.inputs[1]) || !isOwned(node)) return false;
  if (node.inputs[2] && !constant(node.inputs[2])) return false;
  return ['NOTSET', 'VALID'].includes(node.string('auto_pad', 'NOTSET'));
}

/**
 * Edits the graph: pixels are computed from `input`, and the convolutions that read it take them. Needs an operator set from
 * 11 on, where Pad takes its padding as an input.
 * @param grids one a channel
 * @returns the names of the values that hold pixels from −128 to 127
 */
export function readOnGrid(input: Value, grids: readonly Grid[]): string[] {
  const perPads = new Map<string, Value>();
  for (const node of [...input.users]) {
    const slot = readBy(node);
    const weight = node.input(1).tensor as Tensor;
    const pads = padsOf(node, weight.shape.length - 2);
    const key = pads.join();
    const pixels = perPads.get(key) ?? pixelsOf(input, grids, pads, node);
    perPads.set(key, pixels);
    const shifts = responses(
      slot,
      Float64Array.from(grids, ({ step, zero }) => step * zero),
    );
    const bias = Tensor.float32(
      [shifts.length],
      shifts.map((shift, made) => (node.inputs[2]?.tensor?.floats()[made] ?? 0) - shift),
    );
    if (node.inputs[2]) setConstant(node, 2, bias);
    else node.setInput(2, node.graph.addInitializer(`${node.name || node.output().name}/bias`, bias));
    const values = weight.floats().slice();
    multiply(
      slot,
      values,
      Float64Array.from(grids, ({ step }) => step),
    );
    setConstant(node, 1, Tensor.float32(weight.shape, values));
    node.setInput(0, pixels);
    node.set('auto_pad', undefined);
    node.set(
      'pads',
      pads.map(() => 0),
    );
  }
  input.graph.sort();
  return [...perPads.values()].map(({ name }) => name);
}

/** What is zero beside the picture must be the channel's zero beside the pixels. */
function pixelsOf(input: Value, grids: readonly Grid[], pads: readonly number[], before: Node): Value {
  const { graph, name } = input;
  const half = pads.length / 2;
  const perChannel = (what: string, of: (grid: Grid) => number) => {
    const shape = [grids.length, ...new Array<number>(half).fill(1)];
    return graph.addInitializer(`${name}/${what}`, Tensor.float32(shape, Float64Array.from(grids, of)));
  };
  const add = (op: string, inputs: readonly Value[]) =>
    graph.add({ op, name: `${name}/${op}`, inputs, outputs: [`${name}/${op}`] }, before).output();
  const around = [0, 0, ...pads.slice(0, half), 0, 0, ...pads.slice(half)];
  const framed = pads.some((pad) => pad !== 0)
    ? add('Pad', [input, graph.addInitializer(`${name}/pads`, Tensor.int64([around.length], around))])
    : input;
  const scaled = add('Mul', [framed, perChannel('steps', ({ step }) => 1 / step)]);
  return add('Add', [scaled, perChannel('zeros', ({ zero }) => zero)]);
}

function padsOf(node: Node, axes: number): readonly number[] {
  const pads = node.string('auto_pad', 'NOTSET') === 'NOTSET' ? node.ints('pads') : undefined;
  return pads ?? new Array<number>(2 * axes).fill(0);
}
