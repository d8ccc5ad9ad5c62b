/**
 * Groups of channels whose scale is free: the value of channel j may be divided by a factor s[j] > 0 where it is made, if
 * it is multiplied by s[j] where it is read. Cross-layer equalization, SmoothQuant and AWQ differ only in how they choose s.
 */
import type { Graph } from '../graph/graph.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { carriers } from './carriers.ts';
import { Channels } from './channels.ts';
import { layerAxes, layers } from './layers.ts';
import { singleAxis } from './layout.ts';
import { type Limit, type Slot, Tracer } from './tracer.ts';

export type { Limit, Slot } from './tracer.ts';

/** Channels are numbered from 0 in each group; those of slots and limits that are not the group's are −1. */
export interface Group {
  readonly channels: number;
  /** What makes the channels: weights of layers, factors of normalizations. Divided by the factors. */
  readonly producers: readonly Slot[];
  /** Biases and other summands. Divided by the factors. */
  readonly offsets: readonly Slot[];
  /** What reads the channels. Multiplied by the factors. */
  readonly consumers: readonly Slot[];
  /** Clips on the way, whose bounds are divided by the factors. */
  readonly limits: readonly Limit[];
  /** Nodes that carry the channels on from producers to consumers, in graph order; clips among them. */
  readonly between: readonly Node[];
  /** Values with these channels on one axis. They are divided by the factors. */
  readonly values: readonly GroupValue[];
}

export interface GroupValue {
  readonly value: Value;
  readonly channels: Int32Array;
}

/** A layer whose results must keep their scale. */
export interface Refusal {
  readonly node: string;
  readonly reason: string;
}

export interface Groups {
  /** In the order in which the graph makes them. Each has a layer's weight, or a normalization, at either end. */
  readonly groups: readonly Group[];
  readonly refused: readonly Refusal[];
}

/** The activation that a consumer reads, and the axis of its channels, counted from the end. */
export function readingOf({ node }: Slot): { readonly value: Value; readonly axis: number } {
  return { value: node.input(0), axis: layerAxes(node)?.activation ?? -1 };
}

/** Finds the groups of a main graph, whose nodes are in an order of execution. The graph is not changed. */
export function findGroups(graph: Graph): Groups {
  const tracer = traced(graph);
  const { channels, slots, limits, carried, layouts } = tracer;

  // Channels that meet in one constant make a group.
  const together = new Channels();
  together.fresh(channels.count);
  const isFree = (channel: number) => channel >= 0 && channels.reasonOf(channel) === undefined;
  const link = (some: Int32Array) => {
    const roots = some.filter(isFree).map((channel) => channels.find(channel));
    together.join(roots.subarray(1), roots.slice(0, -1));
  };
  for (const { channels: own } of [...slots, ...limits]) link(own);

  const numbers = new Map<number, Map<number, number>>();
  for (let channel = 0; channel < channels.count; channel++) {
    if (!isFree(channel)) continue;
    const root = channels.find(channel);
    const key = together.find(root);
    const members = numbers.get(key) ?? new Map<number, number>();
    if (!members.has(root)) members.set(root, members.size);
    numbers.set(key, members);
  }
  const groups: Group[] = [];
  for (const [key, members] of numbers) {
    const own = <T extends { readonly channels: Int32Array }>(list: readonly T[]): T[] =>
      list.flatMap((item) => {
        const mapped = item.channels.map((channel) =>
          isFree(channel) && together.find(channels.find(channel)) === key ? members.get(channels.find(channel))! : -1,
        );
        return mapped.some((channel) => channel >= 0) ? [{ ...item, channels: mapped }] : [];
      });
    const all = own(slots);
    const consumers = all.filter(({ power }) => power === 1);
    const producers = all.filter(({ power, kind }) => power === -1 && kind !== 'offset');
    if (consumers.length === 0 || producers.length === 0) continue;
    groups.push({
      channels: members.size,
      producers,
      consumers,
      offsets: all.filter(({ kind }) => kind === 'offset'),
      limits: own(limits),
      values: own(
        [...layouts].flatMap(([value, layout]) =>
          singleAxis(layout) === undefined ? [] : [{ value, channels: layout.channels }],
        ),
      ),
      between: [...carried].flatMap(([node, layout]) => (own([layout]).length > 0 ? [node] : [])),
    });
  }
  return { groups, refused: refusals(tracer) };
}

/** Looks at all nodes. */
function traced(graph: Graph): Tracer {
  const tracer = new Tracer(graph);
  for (const node of graph.nodes) {
    for (const inner of node.subgraphs) pinOuter(tracer, inner, node);
    const rule =
      node.domain === '' || node.op.endsWith('LayerNormalization') ? (layers[node.op] ?? carriers[node.op]) : undefined;
    if (!rule?.(node, tracer)) tracer.pinInputs(node);
  }
  for (const output of graph.outputs) tracer.pin(output, `"${output.name}" is an output of the model`);
  return tracer;
}

function pinOuter(tracer: Tracer, graph: Graph, owner: Node): void {
  for (const output of graph.outputs) tracer.pin(output, `${owner.label} reads it in a subgraph`);
  for (const node of graph.nodes) {
    for (const input of node.inputs) tracer.pin(input, `${owner.label} reads it in a subgraph`);
    for (const inner of node.subgraphs) pinOuter(tracer, inner, owner);
  }
}

function refusals({ slots, channels }: Tracer): Refusal[] {
  return slots.flatMap(({ node, kind, power, channels: own }) => {
    if (kind !== 'weight' || power !== -1 || !channels.areFrozen(own)) return [];
    return [{ node: node.name || node.output().name, reason: channels.reasonOf(own[0]) ?? '' }];
  });
}
