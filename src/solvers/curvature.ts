/** How much errors of weights cost at a layer's output: the second moment of its inputs, made fit to be factorized. */
import { HalftoneError } from '../base/errors.ts';
import { type Factor, factorize, type MatrixProducts, plainProducts } from './factorize.ts';

/** What is known of a layer's inputs x. */
export interface Moments {
  /** The mean of x·xᵀ, not centred: columns·columns numbers. */
  readonly moment: Float32Array;
  /** The mean of x. */
  readonly mean: Float32Array;
  /** How many x there were. */
  readonly count: number;
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

/** The moment without what the mean explains: what is left once the bias makes up for the mean of the error. */
function centred({ moment, mean }: Moments): Float32Array {
  const columns = mean.length;
  const matrix = new Float32Array(columns * columns);
  const lengths = new Float64Array(columns);
  for (let i = 0; i < columns; i++) {
    const square = moment[i * columns + i];
    const variance = square - mean[i] * mean[i];
    lengths[i] = variance <= leastVariance * square ? 0 : Math.sqrt(variance);
  }
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < columns; j++) {
      const bound = lengths[i] * lengths[j];
      const value = moment[i * columns + j] - mean[i] * mean[j];
      // Correlations that float32 cannot tell from zero would only slow products down.
      matrix[i * columns + j] =
        Math.abs(value) < leastCorrelation * bound ? 0 : Math.max(-bound, Math.min(value, bound));
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
  if (!moments.moment.every(Number.isFinite) || !moments.mean.every(Number.isFinite)) {
    return 'the moments of the inputs are not finite';
  }
  const plain = centred(moments);
  let trace = 0;
  for (let i = 0; i < columns; i++) trace += plain[i * columns + i];
  if (!Number.isFinite(trace)) return 'the moments of the inputs are too large';
  // Where nothing varies, all columns count the same.
  const mean = trace > 0 ? trace / columns : 1;
  const idle = trace > 0 ? 0 : 1;
  const order = Int32Array.from({ length: columns }, (_, column) => column).sort(
    (a, b) => plain[b * columns + b] - plain[a * columns + a] || a - b,
  );
  const share = moments.count < enoughSamples * columns ? moments.count / (columns + moments.count) : 1;
  const matrix = new Float32Array(columns * columns);
  for (let i = 0; i < columns; i++) {
    const row = order[i] * columns;
    for (let j = 0; j < columns; j++) matrix[i * columns + j] = share * plain[row + order[j]];
  }
  for (const tried of [damping, ...dampings.filter((more) => more > damping)]) {
    for (let i = 0; i < columns; i++) {
      matrix[i * columns + i] = plain[order[i] * (columns + 1)] + idle + tried * mean;
    }
    const factor = await factorize(matrix, columns, products);
    if (factor) return { columns, order, matrix, factor, damping: tried };
  }
  return `the moments of the inputs cannot be factorized, not even with a damping of ${dampings[dampings.length - 1]}`;
}
