/**
 * Second moments of the inputs of layers: what an error of a weight does to a layer's result. For an error ΔW of a weight
 * matrix, Σ (ΔW·x)² over all rows x is `count · tr(ΔW·M·ΔWᵀ)`, with M the mean of x·xᵀ. Solvers that make up for the error
 * of one column in the others need it (Frantar et al. 2022, "GPTQ", arXiv 2210.17323, section 3).
 */
import { createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { Weight } from '../lowerings/weight.ts';
import { openProducts } from '../runtime/products.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import type { Moments } from '../solvers/curvature.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { batchOf } from './batching.ts';
import { expectedBytes, slicesOf, symbolsOf, valuesByName } from './calibrate.ts';
import { type GroupMoments, type MomentSums, momentBytes, momentSums } from './moment-sums.ts';
import { type LayerInput, layerInput, type Rows } from './patches.ts';
import type { Prefix } from './prefix.ts';
import { cloneModel } from './prepare.ts';
import { madeValues, openValues, runnableBytes } from './runnable.ts';
import { subModel } from './sub-model.ts';

export type { Moments } from '../solvers/curvature.ts';

/** A weight and one node of the main graph that reads it. */
export interface MomentTarget {
  readonly weight: Weight;
  readonly node: Node;
}

export interface MomentOptions {
  /** Rows taken of each sample and layer, spread over it. Default 64 patches of a convolution, 1024 rows of others. */
  readonly rowsPerSample?: number;
  /** Decides which rows are taken. Default 0. */
  readonly seed?: number;
  /**
   * Bytes of the activations of one run and of the sums that are being added up; more layers are done in several passes
   * over the samples. What is returned comes on top. Default 256 MiB.
   */
  readonly maxBytes?: number;
  /** Weights with more columns are left out: their moments would not be worth the room. Default 8192, 256 MiB each. */
  readonly maxColumns?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** How to run models of which a part is settled, on samples of theirs. */
  readonly prefixes?: ReadonlyMap<Model, Prefix>;
  /** Samples of all passes together. */
  readonly onProgress?: (done: number, total: number | undefined) => void;
}

/** The inputs of a layer in a quantized model, beside those of the float model. */
export interface CrossMoments {
  /** Of x̃, the inputs in the quantized model. */
  readonly moments: Moments;
  /** [columns, columns], row-major: the mean of x·x̃ᵀ over the same rows; row i belongs to the float model's x[i]. */
  readonly cross: Float32Array;
  /** The mean of x. */
  readonly mean: Float32Array;
}

const defaultMaxBytes = 256 * 2 ** 20;
const defaultMaxColumns = 8192;
const defaultPatches = 64;
const defaultRows = 1024;
/** Rows that are looked up at a time. */
const rowsAtOnce = 1024;

/** Where a target's moments are in the result: the weight's name, with the node's first output where others read it, too. */
export function momentKey({ weight, node }: MomentTarget): string {
  const output = node.outputs.find((value) => value);
  return weight.uses.length > 1 ? `${weight.value.name}/${output?.name ?? ''}` : weight.value.name;
}

/**
 * The second moments of what the columns of each weight meet, in the order of `weight.use.view`. A list of G moments says
 * that the rows of the weight are G parts of one size, and part g meets inputs with moments g: the groups of a convolution,
 * the directions of recurrent weights, the matrices of a batch. Layers with the same inputs share their arrays. The scaling
 * of Gemm (`alpha`) is not in them.
 *
 * Rows with NaN or infinite values are left out. Which rows are taken depends on the seed and on the place of a sample
 * among the samples, not on batches. Targets without such inputs are left out: embeddings, weights inside of subgraphs,
 * and tied weights whose node sees the matrix another way round; so are those of too many columns.
 * @throws HalftoneError `runtime` when the model does not run on a sample; the signal's reason when aborted.
 */
export async function collectMoments(
  model: Model,
  targets: readonly MomentTarget[],
  samples: Samples,
  runtime: Runtime,
  options: MomentOptions = {},
): Promise<Map<string, Moments[]>> {
  const prepared = withStates(
    model,
    targets.map(({ node }) => node),
  );
  const layers = new Map<string, Layer>();
  for (const [index, target] of targets.entries()) {
    const input = inputOf(target, prepared.nodes[index], options);
    if (input) addLayer(layers, input.key, [input], momentKey(target));
  }
  const found = await collect([prepared.model], [...layers.values()], samples, runtime, options);
  return byName(found, ({ moments }) => moments);
}

/**
 * The second moments of the inputs of layers in `quantized`, and how they go with those in `float`: what a weight needs to
 * be fitted to the float result behind a quantized prefix. Layers are found by the names of their results, else their
 * inputs by their names; what `quantized` has not is left out. Otherwise as `collectMoments`.
 */
export async function collectCrossMoments(
  float: Model,
  quantized: Model,
  targets: readonly MomentTarget[],
  samples: Samples,
  runtime: Runtime,
  options: MomentOptions = {},
): Promise<Map<string, CrossMoments[]>> {
  const nodes = targets.map(({ node }) => node);
  const left = withStates(float, nodes);
  const known = valuesByName(quantized.graph);
  const right = withStates(
    quantized,
    nodes.map((node) => twinOf(node, known)),
  );
  const values = valuesByName(right.model.graph);
  const layers = new Map<string, Layer>();
  for (const [index, target] of targets.entries()) {
    const input = inputOf(target, left.nodes[index], options);
    const node = right.nodes[index];
    const twin = node ? inputOf(target, node, options) : input && renamed(input, values);
    if (input && twin) addLayer(layers, `${input.key} ${twin.key}`, [input, twin], momentKey(target));
  }
  const found = await collect([left.model, right.model], [...layers.values()], samples, runtime, options);
  return byName(found, ({ moments, cross, mean }) => ({ moments, mean, cross: cross as Float32Array }));
}

/** Targets whose weights meet the same rows, in one model or in two. */
interface Layer {
  readonly inputs: readonly LayerInput[];
  readonly names: string[];
}

function addLayer(layers: Map<string, Layer>, key: string, inputs: readonly LayerInput[], name: string): void {
  const layer = layers.get(key) ?? { inputs, names: [] };
  layer.names.push(name);
  layers.set(key, layer);
}

function byName<T>(found: ReadonlyMap<Layer, GroupMoments[]>, resultOf: (group: GroupMoments) => T): Map<string, T[]> {
  const result = new Map<string, T[]>();
  for (const [{ names }, groups] of found) {
    const shared = groups.map(resultOf);
    for (const name of names) result.set(name, shared);
  }
  return result;
}

/** @param node the target's node, or its twin in another model */
function inputOf(
  { weight, node: own }: MomentTarget,
  node: Node | undefined,
  { maxColumns = defaultMaxColumns }: MomentOptions,
): LayerInput | undefined {
  const use = weight.uses.find((one) => one.node === own && one.kind !== 'other');
  if (!use || !node || own.graph.owner || use.view.columns > maxColumns) return undefined;
  const seenOtherwise =
    use.view.rowAxes !== weight.use.view.rowAxes || use.view.permutation.join() !== weight.use.view.permutation.join();
  return seenOtherwise ? undefined : layerInput(use, node);
}

/** The node that makes the same result in another model. */
function twinOf(node: Node, values: ReadonlyMap<string, Value>): Node | undefined {
  for (const output of node.outputs) {
    const producer = output && values.get(output.name)?.producer;
    if (producer && producer.op === node.op && producer.domain === node.domain) return producer;
  }
  return undefined;
}

/** The same rows of the values of the same names. */
function renamed(input: LayerInput, values: ReadonlyMap<string, Value>): LayerInput | undefined {
  const found = input.values.map((value) => value && (value.isConstant ? value : values.get(value.name)));
  return found.every((value, index) => value || !input.values[index]) ? { ...input, values: found } : undefined;
}

/** The model with the states of recurrent nodes as an output where they are needed; a copy where they were none. */
function withStates<T extends Node | undefined>(
  model: Model,
  nodes: readonly T[],
): { model: Model; nodes: readonly T[] } {
  const lacks = (node: Node | undefined) => node?.is('LSTM', 'GRU', 'RNN') && !node.outputs[0] && !node.graph.owner;
  if (!nodes.some(lacks)) return { model, nodes };
  const copy = cloneModel(model);
  const values = valuesByName(copy.graph);
  const moved = nodes.map((node) => {
    const twin = node && (twinOf(node, values) as T);
    if (twin && lacks(twin)) twin.setOutput(0, copy.graph.addValue(`${twin.name || twin.op}_states`));
    return twin ?? node;
  });
  return { model: copy, nodes: moved };
}

async function collect(
  models: readonly Model[],
  layers: readonly Layer[],
  samples: Samples,
  runtime: Runtime,
  options: MomentOptions,
): Promise<Map<Layer, GroupMoments[]>> {
  const results = new Map<Layer, GroupMoments[]>();
  if (layers.length === 0) return results;
  const numbers = layers.map((_, index) => `${index}`);
  const sizes = await layerBytes(models, layers, samples, runtime, options);
  const slices = slicesOf(
    numbers,
    new Map(numbers.map((name, index) => [name, sizes[index]])),
    options.maxBytes ?? defaultMaxBytes,
  );
  const products = openProducts(runtime, options.threads ? { threads: options.threads } : {});
  try {
    let done = 0;
    for (const slice of slices) {
      const part = slice.map((number) => layers[Number(number)]);
      const sums = new Map<Layer, MomentSums>();
      for (const layer of part) {
        const [{ groups, columns }] = layer.inputs;
        sums.set(layer, momentSums(groups, columns, products, models.length > 1));
      }
      const readers: Reader[] = [];
      try {
        for (const [index, model] of models.entries()) {
          const values = part.flatMap(({ inputs }) => inputs[index].values);
          readers.push(await openReader(model, values, runtime, options));
        }
        let number = 0;
        for await (const feeds of samples) {
          options.signal?.throwIfAborted();
          const found: ((value: Value | undefined) => Tensor | undefined)[] = [];
          for (const reader of readers) found.push(await reader.read(feeds));
          const batch = batchOf(feeds);
          for (const layer of part) {
            const rows = layer.inputs.map((input, index) => input.open(input.values.map(found[index])));
            await addRows(sums.get(layer) as MomentSums, layer.inputs[0], rows, { batch, number }, options);
          }
          number += batch;
          const total = samples.count === undefined ? undefined : samples.count * slices.length;
          options.onProgress?.(++done, total);
        }
      } finally {
        for (const reader of readers) await reader.close();
      }
      for (const [layer, added] of sums) results.set(layer, await added.finish());
    }
  } finally {
    await products.close();
  }
  return results;
}

/** Adds the chosen rows of one run. `number` is that of its first sample. */
async function addRows(
  sums: MomentSums,
  { groups, columns, hasPatches }: LayerInput,
  rows: readonly Rows[],
  { batch, number }: { readonly batch: number; readonly number: number },
  options: MomentOptions,
): Promise<void> {
  const [{ count, leading }] = rows;
  if (rows.some((other) => other.count !== count)) return;
  const items = leading % batch === 0 && count % batch === 0 ? batch : 1;
  const perSample = options.rowsPerSample ?? (hasPatches ? defaultPatches : defaultRows);
  for (let item = 0; item < items; item++) {
    const chosen = chosenRows(count / items, (perSample * batch) / items, seedOf(options.seed ?? 0, number + item));
    for (let start = 0; start < chosen.length; start += rowsAtOnce) {
      const piece = chosen.slice(start, start + rowsAtOnce).map((row) => row + (item * count) / items);
      const writers = rows.map((one) => one.take(piece));
      const blocks = rows.map(() => new Float32Array(piece.length * columns));
      for (let group = 0; group < groups; group++) {
        for (const [index, write] of writers.entries()) write(group, blocks[index]);
        await sums.add(group, piece.length, blocks[0], blocks[1]);
      }
    }
  }
}

/** One row of each of `limit` stretches of equal length, or all. */
function chosenRows(count: number, limit: number, seed: number): Int32Array {
  if (count <= limit) return Int32Array.from({ length: count }, (_, row) => row);
  const random = createRandom(seed);
  return Int32Array.from({ length: limit }, (_, index) => Math.floor(((index + random()) * count) / limit));
}

/** A seed of its own for each sample. */
function seedOf(seed: number, sample: number): number {
  return Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(sample + 1, 0x85ebca6b);
}

interface Reader {
  /** Runs the model on a sample. */
  read(feeds: Feeds): Promise<(value: Value | undefined) => Tensor | undefined>;
  close(): Promise<void>;
}

async function openReader(
  model: Model,
  values: readonly (Value | undefined)[],
  runtime: Runtime,
  { threads, prefixes }: MomentOptions,
): Promise<Reader> {
  const session = await (prefixes?.get(model)?.open(values) ?? openValues(model, values, runtime, threads));
  return {
    async read(feeds) {
      const results = await session.run(feeds);
      return (value) => value && (results[value.name] ?? feeds[value.name] ?? value.tensor);
    },
    close: () => session.close(),
  };
}

/** Bytes that each layer takes, by the shapes that the runtime infers. */
async function layerBytes(
  models: readonly Model[],
  layers: readonly Layer[],
  samples: Samples,
  runtime: Runtime,
  { threads }: MomentOptions,
): Promise<number[]> {
  const bytes = layers.map(({ inputs: [{ groups, columns }] }) => groups * momentBytes(columns) * models.length);
  // A layer alone has no other to share a pass with.
  if (layers.length === 1) return bytes;
  const symbols = await symbolsOf(models[0], samples);
  for (const [index, model] of models.entries()) {
    const made = madeValues(layers.flatMap(({ inputs }) => inputs[index].values));
    if (made.length === 0) continue;
    const session = await runtime.open(runnableBytes(subModel(model, made)), {
      ...(threads ? { threads } : {}),
      optimization: 'disabled',
    });
    const sizes = new Map(session.outputs.map((output) => [output.name, expectedBytes(output, symbols)]));
    await session.close();
    for (const [number, { inputs }] of layers.entries()) {
      for (const value of madeValues(inputs[index].values)) bytes[number] += sizes.get(value.name) ?? 0;
    }
  }
  return bytes;
}
