/**
 * What an error at some place of a model does to its outputs: second moments of their gradients there. With signs r drawn at
 * random, the gradients Jᵀr of r·outputs have the second moment JᵀJ on average (Hutchinson 1990), which is the Gauss-Newton
 * matrix of the squared error (Hassibi and Stork 1993, Optimal Brain Surgeon, section 2). Of a weight matrix it would have
 * the square of as many rows as there are weights: its factors are taken, of rows and of columns, whose Kronecker product
 * comes near to it (Tseng et al. 2025, Model-Preserving Adaptive Rounding, arXiv 2505.22988, sketch B).
 */
import { createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import { openProducts } from '../runtime/products.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import type { Moments } from '../solvers/curvature.ts';
import { allFinite } from '../solvers/factorize.ts';
import { type MatrixView, toMatrix } from '../tensor/matrix-view.ts';
import { Tensor } from '../tensor/tensor.ts';
import { valuesByName } from './calibrate.ts';
import { type MomentSums, momentSums } from './moment-sums.ts';
import { extractBlock, openTrainer, powerOf, type Trainer } from './reconstruction-graph.ts';
import { openValues } from './runnable.ts';
import { orWhyNot } from './why-not.ts';

/** What an embedding gives: float32 of [..., columns], in one axis or several. */
export interface EmbeddingPlace {
  readonly tensor: string;
  readonly columns: number;
}

/** A constant of float32, as its layer sees it. */
export interface WeightPlace {
  readonly tensor: string;
  readonly values: Tensor;
  readonly view: MatrixView;
  /** A constant with a number for each row, which makes up for the mean of what an error does; and the mean of the inputs. */
  readonly bias?: { readonly tensor: string; readonly values: Tensor; readonly mean: Float32Array };
}

export type Place = EmbeddingPlace | WeightPlace;

/** Moments of gradients: their means are zero. */
export interface GradientMoments {
  /** Of their rows, as long as there are columns. */
  readonly columns: Moments;
  /** Of their columns, for a weight. */
  readonly rows?: Moments;
}

export interface GradientMomentsOptions {
  /** So many runs, all of the first one's shapes: samples are taken again with other signs, up to four times. Default 256. */
  readonly runs?: number;
  /** Decides the signs. Default 0. */
  readonly seed?: number;
  /** Bytes of the outputs of one run: gradients of larger ones would take many times as much. Default 64 MiB. */
  readonly maxBytes?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

const defaultRuns = 256;
const mostRounds = 4;
const defaultMaxBytes = 64 * 2 ** 20;

/**
 * Runs that give NaN or infinite outputs are left out.
 * @param samples one at a time: of several together gradients are summed, so that there would be fewer of them
 * @returns the moments of each place by its tensor; or why there are none
 */
export async function gradientMoments(
  model: Model,
  places: readonly Place[],
  samples: Samples,
  runtime: Runtime,
  options: GradientMomentsOptions = {},
): Promise<Map<string, GradientMoments> | string> {
  const { runs = defaultRuns, seed = 0, maxBytes = defaultMaxBytes, threads, signal } = options;
  const weights = places.filter((place) => 'view' in place);
  const biases = weights.flatMap(({ bias }) => bias ?? []);
  const constants = Object.fromEntries([...weights, ...biases].map(({ tensor, values }) => [tensor, values]));
  const inner = places.flatMap((place) => ('view' in place ? [] : place.tensor));
  const outputs = model.graph.outputs
    .filter(({ name, type, producer }) => type?.dtype === 'float32' && producer && !inner.includes(name))
    .map(({ name }) => name);
  if (outputs.length === 0) return 'the model has no output of float32 to judge it by';
  const learned = [...inner, ...Object.keys(constants)];
  const part = extractBlock(model, { inputs: [], outputs, weights: [], nodes: [] }, learned);
  const values = valuesByName(model.graph);
  const read = [...inner, ...outputs].map((name) => values.get(name));
  const random = createRandom(seed);
  const products = openProducts(runtime, threads ? { threads } : {});
  const float = await openValues(model, read, runtime, threads);
  const sums = new Map(
    places.map((place) => {
      const [rows, columns] = 'view' in place ? [place.view.rows, place.view.columns] : [undefined, place.columns];
      const own: Sums = { columns: momentSums(1, columns, products, false) };
      return [place, rows === undefined ? own : { ...own, rows: momentSums(1, rows, products, false) }] as const;
    }),
  );
  let trainer: Trainer | undefined;
  let shapes: string | undefined;
  let done = 0;
  try {
    for (let round = 0; round < mostRounds && done < runs; round++) {
      const before = done;
      for await (const feeds of samples) {
        if (done === runs) break;
        signal?.throwIfAborted();
        const given = { ...feeds, ...constants, ...(await float.run(feeds)) };
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
        for (const [place, own] of sums) await addGradient(own, place, gradients, { runs, random });
        done++;
      }
      if (done === before) break;
    }
    const found = new Map<string, GradientMoments>();
    for (const [{ tensor }, own] of sums) {
      const columns = await momentsOf(own.columns);
      const rows = own.rows && (await momentsOf(own.rows));
      if (columns) found.set(tensor, { columns, ...(rows ? { rows } : {}) });
    }
    return found;
  } finally {
    await trainer?.close();
    await float.close();
    await products.close();
  }
}

interface Sums {
  readonly columns: MomentSums;
  readonly rows?: MomentSums;
}

interface Draw {
  /** How many gradients there will be. */
  readonly runs: number;
  readonly random: () => number;
}

/** A matrix whose element (r, c) is `matrix[r·stride + c·along]`. */
interface Strided {
  readonly matrix: Float32Array;
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;
  readonly along: number;
}

/** With so many times as many gradients as they are long, more would tell nothing new. */
const enough = 32;

/** Adds rows of a matrix, spread evenly from a place at random: no more than `runs` of such matrices need. */
async function addRows(
  sums: MomentSums,
  { matrix, rows, columns, stride, along }: Strided,
  { runs, random }: Draw,
): Promise<void> {
  const step = Math.max(1, Math.floor((rows * runs) / (enough * columns)));
  const first = Math.floor(random() * Math.min(step, rows));
  const count = Math.ceil((rows - first) / step);
  const own = new Float32Array(count * columns);
  for (let index = 0; index < count; index++) {
    const row = first + index * step;
    for (let column = 0; column < columns; column++) {
      own[index * columns + column] = matrix[row * stride + column * along];
    }
  }
  await sums.add(0, count, own);
}

async function addGradient(
  { columns, rows }: Sums,
  place: Place,
  gradients: ReadonlyMap<string, Tensor>,
  draw: Draw,
): Promise<void> {
  const gradient = gradients.get(place.tensor);
  if (!gradient) return;
  if (!('view' in place)) {
    await columns.add(0, gradient.size / place.columns, gradient.floats().slice());
    return;
  }
  const { view, bias } = place;
  const matrix = toMatrix(gradient.floats(), view).slice();
  const along = bias && gradients.get(bias.tensor)?.floats();
  if (along) {
    // An error δ of a row costs what it does together with the bias, which becomes −δ·mean.
    for (let row = 0; row < view.rows; row++) {
      for (let column = 0; column < view.columns; column++) {
        matrix[row * view.columns + column] -= along[row] * bias.mean[column];
      }
    }
  }
  await addRows(columns, { matrix, rows: view.rows, columns: view.columns, stride: view.columns, along: 1 }, draw);
  if (!rows) return;
  await addRows(rows, { matrix, rows: view.columns, columns: view.rows, stride: 1, along: view.columns }, draw);
}

/** Undefined where there are no gradients, or none but zeros. */
async function momentsOf(sums: MomentSums): Promise<Moments | undefined> {
  const [{ moments }] = await sums.finish();
  if (moments.count === 0 || !moments.moment.some((number) => number > 0)) return undefined;
  return { ...moments, mean: new Float32Array(moments.mean.length) };
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
