/**
 * What an error of an embedding does to the outputs of a model: second moments of their gradients by what it gives. An
 * embedding is no factor of a sum, so that it has no inputs whose moments would tell; but layers behind it look at some
 * directions of its rows more than at others. With signs r drawn at random, the gradients Jᵀr of r·outputs have the second
 * moment JᵀJ on average (Hutchinson 1990), which is the Gauss-Newton matrix of the squared error (Hassibi and Stork 1993,
 * Optimal Brain Surgeon, section 2).
 */
import { createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import { openProducts } from '../runtime/products.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { take } from '../samples/select.ts';
import type { Moments } from '../solvers/curvature.ts';
import { allFinite } from '../solvers/factorize.ts';
import { Tensor } from '../tensor/tensor.ts';
import { valuesByName } from './calibrate.ts';
import { type MomentSums, momentSums } from './moment-sums.ts';
import { extractBlock, openTrainer, powerOf, type Trainer } from './reconstruction-graph.ts';
import { openValues } from './runnable.ts';
import { orWhyNot } from './why-not.ts';

/** What an embedding gives: float32 of [..., columns], in one axis or several. */
export interface Embedding {
  readonly tensor: string;
  readonly columns: number;
}

export interface EmbeddingMomentsOptions {
  /** At most so many runs, all of the first one's shapes. Default 64. */
  readonly runs?: number;
  /** Decides the signs. Default 0. */
  readonly seed?: number;
  /** Bytes of the outputs of one run: gradients of larger ones would take many times as much. Default 64 MiB. */
  readonly maxBytes?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

const defaultRuns = 64;
const defaultMaxBytes = 64 * 2 ** 20;

/**
 * Runs that give NaN or infinite outputs are left out.
 * @returns the moments of each, their means zero; or why there are none
 */
export async function embeddingMoments(
  model: Model,
  embeddings: readonly Embedding[],
  samples: Samples,
  runtime: Runtime,
  options: EmbeddingMomentsOptions = {},
): Promise<Map<string, Moments> | string> {
  const { runs = defaultRuns, seed = 0, maxBytes = defaultMaxBytes, threads, signal } = options;
  const names = embeddings.map(({ tensor }) => tensor);
  const outputs = model.graph.outputs
    .filter(({ name, type, producer }) => type?.dtype === 'float32' && producer && !names.includes(name))
    .map(({ name }) => name);
  if (outputs.length === 0) return 'the model has no output of float32 to judge it by';
  const part = extractBlock(model, { inputs: [], outputs, weights: [], nodes: [] }, names);
  const values = valuesByName(model.graph);
  const read = [...names, ...outputs].map((name) => values.get(name));
  const random = createRandom(seed);
  const products = openProducts(runtime, threads ? { threads } : {});
  const float = await openValues(model, read, runtime, threads);
  const sums = new Map<string, MomentSums>(
    embeddings.map(({ tensor, columns }) => [tensor, momentSums(1, columns, products, false)]),
  );
  let trainer: Trainer | undefined;
  let shapes: string | undefined;
  try {
    for await (const feeds of take(samples, runs)) {
      signal?.throwIfAborted();
      const given = { ...feeds, ...(await float.run(feeds)) };
      const made = outputs.map((name) => given[name]);
      if (made.some((tensor) => !allFinite(tensor.floats()))) continue;
      const bytes = made.reduce((sum, { byteLength }) => sum + byteLength, 0);
      if (bytes > maxBytes) return `outputs of ${bytes} bytes are too large to take their gradients`;
      const own = shapesOf(given);
      shapes ??= own;
      if (own !== shapes) continue;
      if (!trainer) {
        // A gradient is the share, over the size, of the signs': its square is to be that of an error relative to the power.
        const shares = made.map((tensor) => Math.sqrt(tensor.size / powerOf([tensor])));
        const opened = await orWhyNot(() => openTrainer(part, shares, given, runtime, threads));
        if (typeof opened === 'string') return opened;
        trainer = opened;
      }
      const targets = part.outputs.map(({ name, target }) => [target, besides(given[name], random)]);
      const { gradients } = await trainer.gradients({ ...given, ...Object.fromEntries(targets) });
      for (const { tensor, columns } of embeddings) {
        const gradient = gradients.get(tensor);
        if (gradient) await sums.get(tensor)?.add(0, gradient.size / columns, gradient.floats().slice());
      }
    }
    const found = new Map<string, Moments>();
    for (const [name, sum] of sums) {
      const [{ moments }] = await sum.finish();
      if (moments.count > 0 && moments.moment.some((number) => number > 0)) {
        found.set(name, { ...moments, mean: new Float32Array(moments.mean.length) });
      }
    }
    return found;
  } finally {
    await trainer?.close();
    await float.close();
    await products.close();
  }
}

/** A target whose squared error has signs at random for its gradient, but for a factor. */
function besides(output: Tensor, random: () => number): Tensor {
  return Tensor.float32(
    output.shape,
    output.floats().map((number) => number + (random() < 0.5 ? -1 : 1)),
  );
}

function shapesOf(feeds: Feeds): string {
  return Object.entries(feeds)
    .map(([name, { shape }]) => `${name}:${shape.join()}`)
    .join(';');
}
