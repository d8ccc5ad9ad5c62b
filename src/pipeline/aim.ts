/**
 * Aims a layer anew behind a quantized prefix: weights that bring what the layer makes of the quantized model's inputs near
 * to what the float layer makes of the float model's (ALGORITHMS.md §3.6 b; Qronos, arXiv 2505.11695). How far they may go
 * from the float weights is chosen by samples that they were not fitted to: places of one picture are no independent
 * samples, so that their number does not tell.
 */
import type { Products } from '../runtime/products.ts';
import { mixedMoments, mixture } from '../solvers/curvature.ts';
import { retarget } from '../solvers/gptq.ts';
import type { CrossMoments } from './moments.ts';

/** Shares of the mean diagonal that draw toward the float weights. */
const strengths = [0.003, 0.03, 0.3, 3] as const;

/** A group of rows that meets the same inputs. */
export interface AimedRows {
  /** [rows, columns], row-major. */
  readonly values: Float32Array;
  readonly rows: number;
  readonly columns: number;
  /** Of most samples, of those that choose, and of all. */
  readonly fitted: CrossMoments;
  readonly checked: CrossMoments;
  readonly all: CrossMoments;
}

/**
 * @param isCentred whether the bias makes up for means
 * @returns for each group the weights to aim at: its own where no samples are better served by others
 */
export async function aimOf(
  groups: readonly AimedRows[],
  isCentred: boolean,
  products: Products,
): Promise<Float32Array[]> {
  const own = groups.map(({ values }) => values);
  if (groups.some(({ fitted, checked }) => fitted.moments.count === 0 || checked.moments.count === 0)) return own;
  const wanted: Float32Array[] = [];
  for (const { values, rows, columns, checked } of groups) {
    wanted.push(await products.multiply(values, checked.cross, rows, columns, columns));
  }
  const costOf = async (aims: readonly Float32Array[]) => {
    let cost = 0;
    for (const [index, group] of groups.entries()) {
      cost += await misses(group, aims[index], wanted[index], isCentred, products);
    }
    return cost;
  };
  const aimAt = async (strength: number, momentsOf: (group: AimedRows) => CrossMoments) => {
    const aims: Float32Array[] = [];
    for (const group of groups) {
      const { values, rows, columns } = group;
      const { cross, moments, mean } = momentsOf(group);
      const options = { products, ...(isCentred ? { mean } : {}) };
      aims.push(await retarget(values, rows, columns, cross, moments, strength, options));
    }
    return aims;
  };
  let least = await costOf(own);
  let best: number | undefined;
  for (const strength of strengths) {
    const cost = await costOf(await aimAt(strength, ({ fitted }) => fitted));
    if (cost < least) [least, best] = [cost, strength];
  }
  return best === undefined ? own : aimAt(best, ({ all }) => all);
}

/**
 * E‖W·x − A·x̃‖² but for E‖W·x‖², on the samples that choose.
 * @param wanted W·E[x·x̃ᵀ] of them
 */
async function misses(
  { values, rows, columns, checked }: AimedRows,
  aim: Float32Array,
  wanted: Float32Array,
  isCentred: boolean,
  products: Products,
): Promise<number> {
  const { moments, mean } = checked;
  const energy = await products.multiply(aim, moments.moment, rows, columns, columns);
  let sum = 0;
  for (let row = 0; row < rows; row++) {
    let [a, b] = [0, 0];
    for (let i = row * columns, column = 0; column < columns; i++, column++) {
      sum += aim[i] * (energy[i] - 2 * wanted[i]);
      a += aim[i] * moments.mean[column];
      b += values[i] * mean[column];
    }
    if (isCentred) sum -= a * a - 2 * a * b;
  }
  return sum;
}

/** The moments of both together. */
export function mixedCrossMoments(fitted: CrossMoments, checked: CrossMoments): CrossMoments {
  const moments = mixedMoments(fitted.moments, checked.moments);
  if (moments.count === 0) return fitted;
  const mix = mixture(fitted.moments.count, checked.moments.count);
  return { moments, cross: mix(fitted.cross, checked.cross), mean: mix(fitted.mean, checked.mean) };
}
