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
  const parts = <T extends { readonly channels: Int32Array }>(items: readonly T[]): ReadonlyMap<number, T[]> => {
    const byGroup = new Map<number, T[]>();
    for (const item of items) {
      const own = new Map<number, Int32Array>();
      for (const [place, channel] of item.channels.entries()) {
        if (!isFree(channel)) continue;
        const root = channels.find(channel);
        const key = together.find(root);
        const mapped = own.get(key) ?? new Int32Array(item.channels.length).fill(-1);
        mapped[place] = numbers.get(key)?.get(root) ?? -1;
        own.set(key, mapped);
      }
      for (const [key, mapped] of own) byGroup.set(key, [...(byGroup.get(key) ?? []), { ...item, channels: mapped }]);
    }
    return byGroup;
  };
  const slotsOf = parts(slots);
  const limitsOf = parts(limits);
  const valuesOf = parts(
    [...layouts].flatMap(([value, layout]) =>
      singleAxis(layout) === undefined ? [] : [{ value, channels: layout.channels }],
    ),
  );
  const nodesOf = parts([...carried].map(([node, layout]) => ({ node, channels: layout.channels })));
  const groups: Group[] = [];
  for (const [key, members] of numbers) {
    const all = slotsOf.get(key) ?? [];
    const consumers = all.filter(({ power }) => power === 1);
    const producers = all.filter(({ power, kind }) => power === -1 && kind !== 'offset');
    if (consumers.length === 0 || producers.length === 0) continue;
    groups.push({
      channels: members.size,
      producers,
      consumers,
      offsets: all.filter(({ kind }) => kind === 'offset'),
      limits: limitsOf.get(key) ?? [],
      values: valuesOf.get(key) ?? [],
      between: (nodesOf.get(key) ?? []).map(({ node }) => node),
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
