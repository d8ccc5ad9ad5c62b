/** How much errors of weights cost at a layer's output: the second moment of its inputs, made fit to be factorized. */
import { HalftoneError } from '../base/errors.ts';
import { allFinite, type Factor, factorize, type MatrixProducts, plainProducts } from './factorize.ts';

/** What is known of a layer's inputs x. */
export interface Moments {
  /** The mean of x·xᵀ, not centred: columns·columns numbers, row-major, both triangles. */
  readonly moment: Float32Array;
  /** The mean of x: columns numbers. */
  readonly mean: Float32Array;
  /** How many x there were. With none all numbers are 0, and nothing can be done with them. */
  readonly count: number;
}

/** What is known from both of two sets of inputs; the first, where there are none at all. */
export function mixedMoments(one: Moments, other: Moments): Moments {
  const count = one.count + other.count;
  const mix = mixture(one.count, other.count);
  return count === 0 ? one : { moment: mix(one.moment, other.moment), mean: mix(one.mean, other.mean), count };
}

/** The mean of means of so many, number by number. */
export function mixture(a: number, b: number): (x: Float32Array, y: Float32Array) => Float32Array {
  return (x, y) => x.map((value, index) => (a * value + b * y[index]) / (a + b));
}

export interface CurvatureOptions {
  /** What is added to the diagonal, as a share of its mean. Default 0.01. */
  readonly damping?: number;
  /** What multiplies large matrices. Default: loops, for small ones. */
  readonly products?: MatrixProducts;
}

/** H, by which an error Δ of a row of weights costs Δ·H·Δᵀ. */
export interface Curvature {
  readonly columns: number;
  /** The column that is processed first, second …: by falling diagonal (activation order). */
  readonly order: Int32Array;
  /** H with rows and columns in that order. */
  readonly matrix: Float32Array;
  /** H with rows and columns in their own order: computed when it is first asked for. */
  readonly plain: Float32Array;
  readonly factor: Factor;
  /** The damping with which it could be factorized. */
  readonly damping: number;
}

/** The damping that is tried after the one asked for (as GPTQModel, which raises it until Cholesky succeeds). */
const dampings = [0.0025, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1] as const;

/** Of a column's mean square: a variance below is what float32 leaves of a constant. */
const leastVariance = 1e-6;

/** Smaller correlations count as none. */
const leastCorrelation = 1e-12;

/** With fewer samples than this many times the columns, correlations are taken for chance in part. */
const enoughSamples = 3;

/** @throws HalftoneError `internal` where moments are not of so many columns. */
function checkMoments({ moment, mean, count }: Moments, columns: number): void {
  if (moment.length !== columns * columns || mean.length !== columns) {
    throw new HalftoneError(
      'internal',
      `moments: expected ${columns} columns, got ${moment.length} and ${mean.length}`,
    );
  }
  if (!(count > 0)) throw new HalftoneError('internal', `moments: expected at least one sample, got ${count}`);
}

/** What is left of each input's mean square without its mean: zero where it is a constant. */
function variancesOf({ moment, mean }: Moments): Float64Array {
  const columns = mean.length;
  return Float64Array.from({ length: columns }, (_, i) => {
    const square = moment[i * (columns + 1)];
    const variance = square - mean[i] * mean[i];
    return variance > leastVariance * square ? variance : 0;
  });
}

/**
 * The centred moment in some order, each element times `share`: what is left once the bias makes up for the mean of the
 * error. Correlations beyond 1, which rounding leaves of large means, are 1.
 */
function centred({ moment, mean }: Moments, variances: Float64Array, order: Int32Array, share: number): Float32Array {
  const columns = mean.length;
  const matrix = new Float32Array(columns * columns);
  const means = Float64Array.from(order, (column) => mean[column]);
  const lengths = Float64Array.from(order, (column) => Math.sqrt(variances[column]));
  for (let i = 0; i < columns; i++) {
    const from = order[i] * columns;
    const to = i * columns;
    const ownMean = means[i];
    const length = lengths[i];
    for (let j = 0; j < columns; j++) {
      const bound = length * lengths[j];
      const value = moment[from + order[j]] - ownMean * means[j];
      const magnitude = Math.abs(value);
      if (magnitude > bound) matrix[to + j] = value > 0 ? share * bound : -share * bound;
      else if (magnitude >= leastCorrelation * bound) matrix[to + j] = share * value;
    }
  }
  return matrix;
}

/**
 * Prepares moments for `compensate`: centred (what remains when the bias is corrected, ALGORITHMS 3.6 a); with fewer than
 * three samples a column shrunk toward the diagonal by columns / (columns + samples) (3.5); damped, and more so where it
 * cannot be factorized. Inputs that never vary are correlated with nothing.
 * @returns what is wrong with the moments, where they cannot be used
 */
export async function prepareCurvature(
  moments: Moments,
  columns: number,
  { damping = 0.01, products = plainProducts }: CurvatureOptions = {},
): Promise<Curvature | string> {
  checkMoments(moments, columns);
  if (!allFinite(moments.moment) || !allFinite(moments.mean)) return 'the moments of the inputs are not finite';
  const variances = variancesOf(moments);
  const trace = variances.reduce((sum, variance) => sum + variance, 0);
  // Where nothing varies, all columns count the same.
  const mean = trace > 0 ? trace / columns : 1;
  const idle = trace > 0 ? 0 : 1;
  const order = Int32Array.from({ length: columns }, (_, column) => column).sort(
    (a, b) => variances[b] - variances[a] || a - b,
  );
  const share = moments.count < enoughSamples * columns ? moments.count / (columns + moments.count) : 1;
  const matrix = centred(moments, variances, order, share);
  for (const tried of [damping, ...dampings.filter((more) => more > damping)]) {
    for (let i = 0; i < columns; i++) {
      matrix[i * columns + i] = variances[order[i]] + idle + tried * mean;
    }
    const factor = await factorize(matrix, columns, products);
    if (!factor) continue;
    let plain: Float32Array | undefined;
    return {
      ...{ columns, order, matrix, factor, damping: tried },
      get plain() {
        plain ??= inOwnOrder(matrix, order);
        return plain;
      },
    };
  }
  return `the moments of the inputs cannot be factorized, not even with a damping of ${dampings[dampings.length - 1]}`;
}

/** A symmetric matrix with its rows and columns put back from some order. */
function inOwnOrder(ordered: Float32Array, order: Int32Array): Float32Array {
  const columns = order.length;
  const own = new Float32Array(ordered.length);
  for (let i = 0; i < columns; i++) {
    const to = order[i] * columns;
    for (let j = 0; j < columns; j++) own[to + order[j]] = ordered[i * columns + j];
  }
  return own;
}
