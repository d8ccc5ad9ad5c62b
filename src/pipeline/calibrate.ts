/** Runs the float model on samples and watches its tensors. One batch of activations is held at a time, never more. */

import type { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import type { Feeds, Runtime, Session, ValueInfo } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import {
  type Accumulator,
  type ChannelLayout,
  type StatisticId,
  type StatisticState,
  statisticOf,
} from '../statistics/index.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { runnableBytes } from './runnable.ts';
import { subModel } from './sub-model.ts';

/** What to collect of one value. Per-channel statistics need the axis that counts channels. */
export interface Need {
  readonly tensor: string;
  readonly statistic: StatisticId;
  /** Negative counts from the end. */
  readonly channelAxis?: number;
  /** Only the first so many batches count. Default all. */
  readonly samples?: number;
}

/** Value name → statistic → what was seen. Plain data. */
export type Statistics = ReadonlyMap<string, ReadonlyMap<StatisticId, StatisticState>>;

export interface CalibrateOptions {
  /** Bytes of activations that one run may hand over; more values are watched in several passes. Default 128 MiB. */
  readonly maxBytes?: number;
  readonly onProgress?: (done: number, total: number | undefined) => void;
  readonly signal?: AbortSignal;
  readonly threads?: number;
}

const defaultMaxBytes = 128 * 2 ** 20;

/**
 * Collects what is needed in as few passes over the samples as memory allows.
 * @throws HalftoneError `runtime` when the model does not run on a sample; the signal's reason when aborted.
 */
export async function calibrate(
  model: Model,
  samples: Samples,
  needs: readonly Need[],
  runtime: Runtime,
  options: CalibrateOptions = {},
): Promise<Statistics> {
  const values = valuesByName(model.graph);
  const byTensor = new Map<string, Need[]>();
  for (const need of needs) {
    const known = byTensor.get(need.tensor) ?? [];
    // A statistic is collected once for a tensor: the first need says of which channels and samples.
    if (!known.some(({ statistic }) => statistic === need.statistic)) byTensor.set(need.tensor, [...known, need]);
  }
  const collected = new Map<string, Map<StatisticId, StatisticState>>();

  // Graph inputs are seen in the samples themselves.
  const inputs = new Set(model.graph.inputs.map((input) => input.name));
  const watched = [...byTensor.keys()].filter((name) => values.has(name) && !inputs.has(name));
  const slices = await sliceByBytes(model, watched, values, await symbolsOf(model, samples), runtime, options);
  for (const [index, slice] of slices.entries()) {
    const accumulators = new Map<string, { need: Need; accumulator: Accumulator }[]>();
    for (const name of index === 0 ? [...slice, ...inputs] : slice) {
      const list = (byTensor.get(name) ?? []).map((need) => ({
        need,
        accumulator: statisticOf(need.statistic).create(),
      }));
      if (list.length > 0) accumulators.set(name, list);
    }
    const session = slice.length > 0 ? await openSlice(model, slice, values, runtime, options) : undefined;
    try {
      let done = 0;
      for await (const feeds of samples) {
        options.signal?.throwIfAborted();
        observe(accumulators, feeds, done);
        if (session) observe(accumulators, await session.run(feeds), done);
        done++;
        options.onProgress?.(done, samples.count);
      }
    } finally {
      await session?.close();
    }
    for (const [name, list] of accumulators) {
      const states = collected.get(name) ?? new Map<StatisticId, StatisticState>();
      for (const { need, accumulator } of list) states.set(need.statistic, accumulator.state());
      collected.set(name, states);
    }
  }
  return collected;
}

function observe(
  accumulators: ReadonlyMap<string, { need: Need; accumulator: Accumulator }[]>,
  tensors: Feeds,
  batch: number,
): void {
  for (const [name, list] of accumulators) {
    const tensor = tensors[name];
    if (!tensor) continue;
    const floats = tensor.floats();
    for (const { need, accumulator } of list) {
      if (batch >= (need.samples ?? Number.POSITIVE_INFINITY)) continue;
      accumulator.observe(floats, need.channelAxis === undefined ? undefined : channelLayout(tensor, need.channelAxis));
    }
  }
}

/** How the elements of `tensor` belong to the channels of `axis`. */
export function channelLayout(tensor: Tensor, axis: number): ChannelLayout {
  const { shape } = tensor;
  const position = axis < 0 ? axis + shape.length : axis;
  const product = (dimensions: readonly number[]) => dimensions.reduce((a, b) => a * b, 1);
  return {
    outer: product(shape.slice(0, position)),
    channels: shape[position],
    inner: product(shape.slice(position + 1)),
  };
}

export function valuesByName(graph: Graph): Map<string, Value> {
  const values = new Map<string, Value>();
  for (const value of graph.inputs) values.set(value.name, value);
  for (const node of graph.nodes) for (const value of node.outputs) if (value) values.set(value.name, value);
  return values;
}

function openSlice(
  model: Model,
  names: readonly string[],
  values: ReadonlyMap<string, Value>,
  runtime: Runtime,
  options: CalibrateOptions,
): Promise<Session> {
  const outputs = names.map((name) => values.get(name)).filter((value): value is Value => value !== undefined);
  const bytes = runnableBytes(subModel(model, outputs));
  return runtime.open(bytes, options.threads ? { threads: options.threads } : {});
}

/** Cuts the list of values into parts whose tensors fit the budget, by the shapes that the runtime infers. */
async function sliceByBytes(
  model: Model,
  names: readonly string[],
  values: ReadonlyMap<string, Value>,
  symbols: ReadonlyMap<string, number>,
  runtime: Runtime,
  options: CalibrateOptions,
): Promise<string[][]> {
  if (names.length === 0) return [[]];
  const session = await openSlice(model, names, values, runtime, options);
  const sizes = new Map(session.outputs.map((output) => [output.name, expectedBytes(output, symbols)]));
  await session.close();
  return slicesOf(names, sizes, options.maxBytes ?? defaultMaxBytes);
}

/** The names in consecutive parts that take at most `budget` bytes each; a larger tensor is a part of its own. */
export function slicesOf(names: readonly string[], sizes: ReadonlyMap<string, number>, budget: number): string[][] {
  const slices: string[][] = [[]];
  let used = 0;
  for (const name of names) {
    const size = sizes.get(name) ?? 0;
    if (used + size > budget && used > 0) {
      slices.push([]);
      used = 0;
    }
    slices[slices.length - 1].push(name);
    used += size;
  }
  return slices;
}

/** What the named dimensions of the model's inputs are in the first batch. */
export async function symbolsOf(model: Model, samples: Samples): Promise<Map<string, number>> {
  const symbols = new Map<string, number>();
  for await (const feeds of samples) {
    for (const input of model.graph.inputs) {
      input.type?.shape?.forEach((dimension, axis) => {
        const size = feeds[input.name]?.shape[axis];
        if (typeof dimension === 'string' && size !== undefined) symbols.set(dimension, size);
      });
    }
    break;
  }
  return symbols;
}

/** Dimensions that neither the runtime nor the first batch tells are taken as 1. */
export function expectedBytes(info: ValueInfo, symbols: ReadonlyMap<string, number>): number {
  const known = info.shape.map((dimension) => {
    const size = typeof dimension === 'string' ? (symbols.get(dimension) ?? 1) : dimension;
    return size > 0 ? size : 1;
  });
  return known.reduce((a, b) => a * b, 4);
}

/**
 * The statistic of several tensors together, as if one tensor held all their values.
 * Returns undefined when none of them was watched.
 */
export function groupStatistic(
  statistics: Statistics,
  tensors: readonly string[],
  statistic: StatisticId,
): StatisticState | undefined {
  const accumulator = statisticOf(statistic).create();
  let found = false;
  for (const name of tensors) {
    const states = statistics.get(name);
    const state = states?.get(statistic) ?? states?.get('histogram');
    if (!state) continue;
    if (tensors.length === 1) return state;
    accumulator.merge(state);
    found = true;
  }
  return found ? accumulator.state() : undefined;
}
