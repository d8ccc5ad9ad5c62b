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
import { Tensor } from '../tensor/tensor.ts';
import { valuesByName } from './calibrate.ts';
import { type MomentSums, momentSums } from './moment-sums.ts';
import { extractBlock, openTrainer, type Trainer } from './reconstruction-graph.ts';
import { openValues } from './runnable.ts';
import { orWhyNot } from './why-not.ts';

export interface EmbeddingMomentsOptions {
  /** At most so many runs, all of the first one's shapes. Default 64. */
  readonly runs?: number;
  /** Decides the signs. Default 0. */
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

const defaultRuns = 64;

/**
 * @param embeddings names of what embeddings give: [..., columns] of float32
 * @returns the moments of each, their means zero; or why there are none
 */
export async function embeddingMoments(
  model: Model,
  embeddings: readonly string[],
  samples: Samples,
  runtime: Runtime,
  { runs = defaultRuns, seed = 0, threads, signal }: EmbeddingMomentsOptions = {},
): Promise<Map<string, Moments> | string> {
  const outputs = model.graph.outputs
    .filter(({ name, type }) => type?.dtype === 'float32' && !embeddings.includes(name))
    .map(({ name }) => name);
  const part = extractBlock(model, { inputs: [], outputs, weights: [], nodes: [] }, embeddings);
  const values = valuesByName(model.graph);
  const read = [...embeddings, ...outputs].map((name) => values.get(name));
  const random = createRandom(seed);
  const products = openProducts(runtime, threads ? { threads } : {});
  const float = await openValues(model, read, runtime, threads);
  const sums = new Map<string, MomentSums>();
  let trainer: Trainer | undefined;
  let shapes: string | undefined;
  try {
    for await (const feeds of take(samples, runs)) {
      signal?.throwIfAborted();
      const given = { ...feeds, ...(await float.run(feeds)) };
      const own = shapesOf(given);
      shapes ??= own;
      if (own !== shapes) continue;
      if (!trainer) {
        const shares = outputs.map((name) => 1 / (powerOf(given[name]) || 1));
        const opened = await orWhyNot(() => openTrainer(part, shares, given, runtime, threads));
        if (typeof opened === 'string') return opened;
        trainer = opened;
      }
      const targets = part.outputs.map(({ name, target }) => [target, besides(given[name], random)]);
      const { gradients } = await trainer.gradients({ ...given, ...Object.fromEntries(targets) });
      for (const [name, gradient] of gradients) {
        const columns = gradient.shape.at(-1) ?? 1;
        const sum = sums.get(name) ?? momentSums(1, columns, products, false);
        sums.set(name, sum);
        await sum.add(0, gradient.size / columns, gradient.floats().slice());
      }
    }
    const found = new Map<string, Moments>();
    for (const [name, sum] of sums) {
      const [{ moments }] = await sum.finish();
      found.set(name, { ...moments, mean: new Float32Array(moments.mean.length) });
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

/** Mean square. */
function powerOf(tensor: Tensor): number {
  const numbers = tensor.floats();
  return numbers.reduce((sum, number) => sum + number * number, 0) / numbers.length;
}

function shapesOf(feeds: Feeds): string {
  return Object.entries(feeds)
    .map(([name, { shape }]) => `${name}:${shape.join()}`)
    .join(';');
}
