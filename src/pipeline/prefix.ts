/**
 * The settled first part of a model that is changed layer by layer: what it gives is kept for every sample, so that runs
 * begin where changes begin. Without it each of n layers would take a run of all layers before it.
 */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import type { DType } from '../tensor/dtype.ts';
import { madeValues, type OpenValues, runnableBytes } from './runnable.ts';
import { subModel } from './sub-model.ts';
import { orWhyNot } from './why-not.ts';

/** Samples that are known again. */
export interface NumberedSamples extends Samples {
  /** The place of feeds that came from the last iteration. */
  numberOf(feeds: Feeds): number | undefined;
}

export function numbered(samples: Samples): NumberedSamples {
  const numbers = new WeakMap<Feeds, number>();
  return {
    ...samples,
    numberOf: (feeds) => numbers.get(feeds),
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      let number = 0;
      for await (const feeds of samples) {
        numbers.set(feeds, number++);
        yield feeds;
      }
    },
  };
}

export interface PrefixOptions {
  readonly runtime: Runtime;
  /**
   * Bytes that are kept, and as many again while it advances; where more would be needed, runs begin where they did before.
   * Default 128 MiB.
   */
  readonly maxBytes?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

const defaultMaxBytes = 128 * 2 ** 20;

export class Prefix {
  readonly samples: NumberedSamples;
  readonly #model: Model;
  readonly #options: PrefixOptions;
  #cut: ReadonlyMap<Value, DType> = new Map();
  /** By the number of the sample: the values of the cut. */
  #kept: readonly Feeds[] = [];

  constructor(model: Model, samples: NumberedSamples, options: PrefixOptions) {
    this.samples = samples;
    this.#model = model;
    this.#options = options;
  }

  /** As `openValues`, for feeds of `samples`. What is opened serves until the next `advance`. */
  async open(values: readonly (Value | undefined)[]): ReturnType<OpenValues> {
    const { runtime, threads } = this.#options;
    const [cut, kept] = [this.#cut, this.#kept];
    const missing = madeValues(values).filter((value) => !cut.has(value));
    const session =
      missing.length === 0
        ? undefined
        : await runtime.open(runnableBytes(subModel(this.#model, missing, cut)), threads ? { threads } : {});
    const names = session?.inputs.map(({ name }) => name) ?? [];
    return {
      run: async (feeds) => {
        const number = this.samples.numberOf(feeds);
        if (number === undefined) {
          throw new HalftoneError('internal', 'prefix: expected feeds of its samples, got others');
        }
        const known = kept[number] ?? {};
        if (!session) return known;
        const given = Object.fromEntries(names.map((name) => [name, known[name] ?? feeds[name]]));
        return { ...known, ...(await session.run(given)) };
      },
      close: async () => session?.close(),
    };
  }

  /**
   * Keeps what lies before `pending`: from now on nothing but these nodes and what depends on them may change. What the
   * runtime cannot hand over, such as sequences, is computed again each time, with all that lies before.
   */
  async advance(pending: ReadonlySet<Node>): Promise<void> {
    const values = settledBefore(this.#model, pending);
    if (values.every((value) => this.#cut.has(value)) && values.length === this.#cut.size) return;
    await orWhyNot(() => this.#keep(values));
  }

  async #keep(values: readonly Value[]): Promise<void> {
    const { maxBytes = defaultMaxBytes, signal } = this.#options;
    const kept: Feeds[] = [];
    let types = new Map<Value, DType>();
    let bytes = 0;
    const session = await this.open(values);
    try {
      for await (const feeds of this.samples) {
        signal?.throwIfAborted();
        const results = await session.run(feeds);
        const own: Record<string, Feeds[string]> = {};
        for (const { name } of values) {
          own[name] = results[name];
          bytes += results[name].byteLength;
        }
        if (bytes > maxBytes) return;
        if (kept.length === 0) types = new Map(values.map((value) => [value, own[value.name].dtype]));
        kept.push(own);
      }
    } finally {
      await session.close();
    }
    this.#cut = types;
    this.#kept = kept;
  }
}

/** What pending nodes, and those behind them, read of all that depends on the model's inputs but not on pending nodes. */
function settledBefore({ graph }: Model, pending: ReadonlySet<Node>): Value[] {
  const moving = new Set<Value>(graph.inputs.filter((input) => !input.tensor));
  const behind = new Set<Value>();
  const found = new Set<Value>();
  for (const node of graph.sorted()) {
    const reads = [...node.reads];
    const isBehind = pending.has(node) || reads.some((value) => behind.has(value));
    const isMoving = reads.some((value) => moving.has(value));
    for (const output of node.outputs) {
      if (!output) continue;
      if (isMoving) moving.add(output);
      if (isBehind) behind.add(output);
    }
    if (!isBehind) continue;
    for (const value of reads) {
      if (!value.producer || !moving.has(value) || behind.has(value)) continue;
      // What is dequantized is kept in its codes: the runtime computes in integers where it sees where they come from.
      const [codes, ...grid] = value.producer.is('DequantizeLinear') ? value.producer.inputs : [];
      const isFixed = grid.every((input) => !input || !moving.has(input));
      found.add(codes?.producer && moving.has(codes) && isFixed ? codes : value);
    }
  }
  return [...found];
}
