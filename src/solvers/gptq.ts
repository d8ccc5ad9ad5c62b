/**
 * GPTQ: codes are chosen column after column, and what one loses is made up for by those that follow (Frantar et al. 2022,
 * GPTQ). Scales, zero points and tables are those of a matrix that is already quantized.
 *
 * It is done in the form of LDLQ, which gives the same codes (Chee et al. 2023, QuIP, theorem 6): with H = U·diag(p)·Uᵀ,
 * U upper triangular with ones on its diagonal, the number to round is wⱼ + Σ_{k<j} Δₖ·Uₖⱼ with Δ = w − q. That needs
 * neither an inverse nor a second factorization, and the loss is Σ pⱼ·(number − qⱼ)².
 */
import { HalftoneError } from '../base/errors.ts';
import { formatOf } from '../formats/index.ts';
import { createCodes, type QuantizedMatrix } from '../formats/quantized.ts';
import { bestKernel, type Kernel } from '../kernel/index.ts';
import { type Choice, countTo, openBlock, putBlock, squareOf } from './choice.ts';
import { type Curvature, type CurvatureOptions, type Moments, prepareCurvature } from './curvature.ts';
import { descend } from './descent.ts';
import { allFinite, factorize, type MatrixProducts, plainProducts, solveRight } from './factorize.ts';
import { refitScales } from './refit.ts';
import { differencesOf, leastHeight, Residuals } from './residuals.ts';
import { roundingOf } from './rounding.ts';

export { type Curvature, type CurvatureOptions, type Moments, prepareCurvature } from './curvature.ts';
export type { MatrixProducts } from './factorize.ts';

export interface CompensateOptions extends CurvatureOptions {
  /** Of the layer's inputs; or `curvature`, prepared from them, which serves many matrices. */
  readonly moments?: Moments;
  readonly curvature?: Curvature;
  /** At most so many passes of coordinate descent after the codes are chosen. Default 4. */
  readonly sweeps?: number;
  /** Fit the scales to the codes then, with one more pass. Default false. */
  readonly refit?: boolean;
  /** What the codes are to come near to, in place of the weights: see `retarget`. */
  readonly target?: Float32Array;
  /** Whether only half of the codes of 8-bit formats may be used, as when `start` was found. Default false. */
  readonly reduceRange?: boolean;
  readonly kernel?: Kernel;
}

export interface Compensation {
  readonly matrix: QuantizedMatrix;
  /** Σ Δ·H·Δᵀ of all rows: the mean squared error of the output but for its mean, with H damped and shrunk. */
  readonly loss: number;
  /** The same of `start`. */
  readonly before: number;
  /** Why `matrix` is `start`, where nothing could be done; losses are NaN then. */
  readonly fallback?: string;
}

/** Columns that are chosen between products. */
const blockWidth = 32;

/**
 * Chooses the codes of a quantized matrix again so that the layer's output is kept: GPTQ in activation order with the
 * static groups of `start`, coordinate descent, and a fit of the scales. A row that loses more by GPTQ keeps its codes, which
 * coordinate descent may still improve; no later step lets the loss of a row rise. Rows are independent: with the same
 * curvature any parts of a matrix get what the whole gets. With other `products`, sums differ by rounding, and numbers that
 * lie next to a border between codes may fall on its other side.
 * @param values rows·columns finite weights, row-major
 * @param start what `search` found, with the moment's diagonal as importance
 */
export async function compensate(
  values: Float32Array,
  rows: number,
  columns: number,
  start: QuantizedMatrix,
  options: CompensateOptions,
): Promise<Compensation> {
  const { target = values, sweeps = 4, refit = false, reduceRange = false, kernel = bestKernel() } = options;
  for (const { length } of [values, target]) {
    if (length === rows * columns && start.rows === rows && start.columns === columns) continue;
    throw new HalftoneError('internal', `weights: expected ${start.rows}×${start.columns} numbers, got ${length}`);
  }
  const failed = (fallback: string): Compensation => ({
    matrix: start,
    loss: Number.NaN,
    before: Number.NaN,
    fallback,
  });
  if (!allFinite(target)) return failed('the weights aimed at are not finite');
  const curvature = options.curvature ?? (await curvatureOf(columns, options));
  if (typeof curvature === 'string') return failed(curvature);
  if (curvature.columns !== columns) {
    throw new HalftoneError('internal', `curvature: expected ${columns} columns, got ${curvature.columns}`);
  }

  const workshop: Workshop = { target, rows, columns, curvature, kernel, products: options.products ?? plainProducts };
  const least = options.products ? leastHeight : 0;
  const order = curvature.order;
  let matrix = plainMatrix(start);
  const before = await lossesOf(matrix, workshop, least);
  const rounding = roundingOf(matrix, reduceRange);
  const residuals = new Residuals(target, rows, columns, order, workshop.products, least);
  const codes = createCodes(formatOf(start.scheme.format), rows * columns);
  const losses = new Float64Array(rows);
  const choice: Choice = { codes, residuals, losses, rounding, curvature, blockSize: start.blockSize, kernel };
  await chooseCodes(choice);
  keepBetter(choice, matrix, workshop, before);
  await descend(choice, sweeps);
  matrix = { ...matrix, codes: inOwnOrder(codes, rows, columns, order) };
  let loss = sum(losses);
  if (refit) {
    matrix = await refitOnce(matrix, choice, workshop, least, reduceRange);
    loss = sum(losses);
  }
  if (!Number.isFinite(loss) || !Number.isFinite(sum(before))) return failed('the loss is not finite');
  return { matrix, loss, before: sum(before) };
}

/** What stays the same for a matrix. */
interface Workshop {
  readonly target: Float32Array;
  readonly rows: number;
  readonly columns: number;
  readonly curvature: Curvature;
  readonly kernel: Kernel;
  readonly products: MatrixProducts;
}

async function curvatureOf(columns: number, options: CompensateOptions): Promise<Curvature | string> {
  if (options.moments) return prepareCurvature(options.moments, columns, options);
  throw new HalftoneError('internal', 'compensate: expected moments or a curvature, got neither');
}

/** The matrix with its arrays taken once, and without the bytes that new codes make wrong. */
function plainMatrix(matrix: QuantizedMatrix): QuantizedMatrix {
  const { scheme, rows, columns, codes, blockSize, scales, zeroPoints, factors, codebook } = matrix;
  return {
    scheme,
    rows,
    columns,
    codes,
    blockSize,
    scales,
    zeroPoints,
    ...(factors && { factors }),
    ...(codebook && { codebook }),
  };
}

function sum(numbers: Float64Array): number {
  return numbers.reduce((total, number) => total + number, 0);
}

/** Codes back from the order of processing. */
function inOwnOrder<T extends QuantizedMatrix['codes']>(codes: T, rows: number, columns: number, order: Int32Array): T {
  const own = codes.slice() as T;
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let i = 0; i < columns; i++) own[start + order[i]] = codes[start + i];
  }
  return own;
}

function inOrder<T extends QuantizedMatrix['codes']>(codes: T, rows: number, columns: number, order: Int32Array): T {
  const ordered = codes.slice() as T;
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let i = 0; i < columns; i++) ordered[start + i] = codes[start + order[i]];
  }
  return ordered;
}

/** Takes back the codes of rows that lost less before. */
function keepBetter(choice: Choice, { codes }: QuantizedMatrix, { target }: Workshop, before: Float64Array): void {
  const { residuals, losses, rounding, curvature, blockSize } = choice;
  const { rows, columns } = residuals;
  for (let row = 0; row < rows; row++) {
    if (!(losses[row] > before[row])) continue;
    losses[row] = before[row];
    for (let i = 0; i < columns; i++) {
      const column = curvature.order[i];
      const code = codes[row * columns + column];
      choice.codes[row * columns + i] = code;
      const value = rounding.value(row, Math.floor(column / blockSize), code);
      residuals.set(row, i, target[row * columns + column] - value);
    }
  }
}

/** Δ·H·Δᵀ of each row of a matrix. */
async function lossesOf(matrix: QuantizedMatrix, workshop: Workshop, least: number): Promise<Float64Array> {
  const { target, rows, columns, curvature, kernel, products } = workshop;
  const differences = differencesOf(matrix, target, kernel);
  return measure(new Residuals(differences, rows, columns, curvature.order, products, least), curvature);
}

async function measure(residuals: Residuals, { factor }: Curvature): Promise<Float64Array> {
  const { rows, columns } = residuals;
  const losses = new Float64Array(rows);
  const width = 128;
  for (let first = 0; first < columns; first += width) {
    const last = Math.min(first + width, columns);
    const parts = await residuals.times(factor.upper, first, last, last);
    for (let row = 0; row < rows; row++) {
      let loss = 0;
      for (let i = 0; i < last - first; i++) {
        const own = parts[row * (last - first) + i];
        loss += factor.pivots[first + i] * own * own;
      }
      losses[row] += loss;
    }
  }
  return losses;
}

/** Chooses all codes; residuals, which are the weights themselves, become differences. */
async function chooseCodes(choice: Choice): Promise<void> {
  const { residuals, rounding, curvature, kernel } = choice;
  const { columns, factor } = curvature;
  const rows = countTo(residuals.rows);
  for (let first = 0; first < columns; first += blockWidth) {
    const last = Math.min(first + blockWidth, columns);
    const feed = await residuals.times(factor.upper, first, last, first);
    const block = openBlock(choice, residuals, rows, first, last);
    const upper = squareOf(factor.upper, columns, first, last);
    rounding.choose(block, feed, upper, factor.pivots.subarray(first, last), kernel);
    putBlock(choice, residuals, block, first);
  }
}

/** The matrix with scales fitted to its codes, and one pass of coordinate descent; the same where no scale can be fitted. */
async function refitOnce(
  matrix: QuantizedMatrix,
  { losses, curvature, kernel }: Choice,
  workshop: Workshop,
  least: number,
  reduceRange: boolean,
): Promise<QuantizedMatrix> {
  const { target, rows, columns, products } = workshop;
  const { order } = curvature;
  const residualsOf = (one: QuantizedMatrix, order?: Int32Array) =>
    new Residuals(differencesOf(one, target, kernel), rows, columns, order, products, least);
  const own = residualsOf(matrix);
  const found = await refitScales(matrix, own, losses, curvature, { products, kernel, reduceRange });
  if (!found) return matrix;
  const { matrix: fitted, descended } = found;
  if (descended) return fitted;
  const residuals = residualsOf(fitted, order);
  const codes = inOrder(fitted.codes, rows, columns, order);
  const rounding = roundingOf(fitted, reduceRange);
  await descend({ codes, residuals, losses, rounding, curvature, blockSize: fitted.blockSize, kernel }, 1);
  return { ...fitted, codes: inOwnOrder(codes, rows, columns, order) };
}

/**
 * Weights for inputs x̃ that are not those the weights were made for: W⋆ = W·(C + λI)·(H̃ + λI)⁻¹ brings W⋆·x̃ near to W·x
 * without going far from W, so that codes near to W⋆ make up for the errors of the layers before (ALGORITHMS 3.6 b; the objective of
 * Qronos, arXiv 2505.11695).
 * @param cross the mean of x·x̃ᵀ: columns·columns numbers
 * @param moments of x̃
 * @param damping λ as a share of the mean of H̃'s diagonal
 * @param mean of x: centres both moments, for layers whose bias is corrected afterwards
 * @returns W⋆; the weights themselves where H̃ is zero, not finite, or cannot be factorized
 */
export async function retarget(
  values: Float32Array,
  rows: number,
  columns: number,
  cross: Float32Array,
  moments: Moments,
  damping: number,
  { products = plainProducts, mean }: { readonly products?: MatrixProducts; readonly mean?: Float32Array } = {},
): Promise<Float32Array> {
  if (cross.length !== columns * columns || moments.moment.length !== columns * columns) {
    throw new HalftoneError(
      'internal',
      `retarget: expected moments of ${columns} columns, got ${cross.length} numbers`,
    );
  }
  const matrix = moments.moment.slice();
  const crossing = cross.slice();
  if (mean) {
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++) {
        matrix[i * columns + j] -= moments.mean[i] * moments.mean[j];
        crossing[i * columns + j] -= mean[i] * moments.mean[j];
      }
    }
  }
  let trace = 0;
  for (let i = 0; i < columns; i++) trace += matrix[i * (columns + 1)];
  if (!(trace > 0 && trace < Number.POSITIVE_INFINITY)) return values.slice();
  const added = (damping * trace) / columns;
  // A column that never varies says nothing of its weight, which stays.
  const isDead = (column: number) => !(matrix[column * (columns + 1)] > 1e-7 * (trace / columns));
  const dead = Array.from({ length: columns }, (_, column) => column).filter(isDead);
  for (let i = 0; i < columns; i++) {
    matrix[i * (columns + 1)] += added;
    crossing[i * (columns + 1)] += added;
  }
  for (const column of dead) {
    for (let i = 0; i < columns; i++) {
      matrix[i * columns + column] = 0;
      matrix[column * columns + i] = 0;
    }
    matrix[column * (columns + 1)] = trace / columns;
  }
  const factor = await factorize(matrix, columns, products);
  if (!factor) return values.slice();
  const right = await products.multiply(values, crossing, rows, columns, columns);
  const found = await solveRight(right, rows, factor, products);
  for (const column of dead) {
    for (let row = 0; row < rows; row++) found[row * columns + column] = values[row * columns + column];
  }
  return allFinite(found) ? found : values.slice();
}
