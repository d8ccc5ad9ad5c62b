/**
 * GPTQ across rows: rows make up for each other's errors as columns do. What the outputs of a model make of an error Δ of a
 * weight matrix is taken for tr(S·Δ·H·Δᵀ), with S of the rows and H of the columns (Kronecker-factored; Tseng et al. 2025,
 * "Model-Preserving Adaptive Rounding", arXiv 2505.22988). With S = U·diag(p)·Uᵀ, the best codes of a row are those of GPTQ
 * for the row moved by Σ Δₖ·Uₖⱼ of the rows before it; and once all rows have codes, for the row moved by what all others
 * leave of it.
 */
import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { bestKernel, dequantizeMatrix, type Kernel } from '../kernel/index.ts';
import type { Curvature } from './curvature.ts';
import { type MatrixProducts, plainProducts } from './factorize.ts';
import { compensate } from './gptq.ts';
import { differencesOf } from './residuals.ts';

export interface TogetherOptions {
  /** H, of the columns. */
  readonly curvature: Curvature;
  /** S, of the rows. */
  readonly coupling: Curvature;
  /** What the codes are to come near to, in place of the weights. */
  readonly target: Float32Array;
  /** Passes over all rows after the first one, in which scales are fitted as well. Default 1. */
  readonly rounds?: number;
  /** As for `compensate`. Default 4. */
  readonly sweeps?: number;
  /** Whether only half of the codes of 8-bit formats may be used, as when `start` was found. Default false. */
  readonly reduceRange?: boolean;
  /** For what is computed of the whole matrix. Default: loops. */
  readonly products?: MatrixProducts;
  readonly kernel?: Kernel;
}

export interface Together {
  readonly matrix: QuantizedMatrix;
  /** tr(S·Δ·H·Δᵀ), and what it was of `start`. */
  readonly loss: number;
  readonly before: number;
}

/** Whether every row has parameters of its own, so that rows can be chosen one by one. */
export function hasOwnRows({ granularity, format }: Scheme): boolean {
  return granularity.kind !== 'tensor' && formatOf(format).kind !== 'codebook';
}

/**
 * Chooses codes and scales of a matrix for which `hasOwnRows` holds.
 * @param start codes to begin with, such as those of `compensate`
 * @returns `start` where nothing better is found
 */
export async function compensateTogether(start: QuantizedMatrix, options: TogetherOptions): Promise<Together> {
  const { curvature, coupling, target, rounds = 1, sweeps, reduceRange = false, kernel = bestKernel() } = options;
  const { products = plainProducts } = options;
  const { rows, columns } = start;
  const lossOf = (differences: Float32Array) =>
    coupledLoss(differences, curvature.plain, coupling.plain, [rows, columns], products);
  const current = ownCopy(start);
  const differences = differencesOf(current, target, kernel);
  const before = await lossOf(differences);
  let best: Together = { matrix: start, loss: before, before };
  const height = heightOf(rows, columns);
  for (let round = 0; round <= rounds; round++) {
    for (let first = 0; first < rows; first += height) {
      const last = Math.min(first + height, rows);
      const tile = coupling.order.subarray(first, last);
      const shares = round === 0 ? sharesBefore(coupling, first, last) : sharesOfAll(coupling, first, last);
      const own = await products.multiply(shares, differences, tile.length, rows, columns);
      for (const [place, row] of tile.entries()) {
        for (let column = 0; column < columns; column++)
          own[place * columns + column] += target[row * columns + column];
      }
      const { matrix, fallback } = await compensate(own, tile.length, columns, rowsOf(current, tile), {
        ...{ curvature, refit: round > 0, reduceRange, kernel, ...(tile.length > 1 ? { products } : {}) },
        ...(sweeps ? { sweeps } : {}),
      });
      if (fallback) return best;
      putRows(current, tile, matrix);
      const made = dequantizeMatrix(matrix, kernel);
      for (const [place, row] of tile.entries()) {
        for (let column = 0; column < columns; column++) {
          differences[row * columns + column] = target[row * columns + column] - made[place * columns + column];
        }
      }
    }
    const loss = await lossOf(differences);
    if (!(loss < best.loss)) break;
    best = { matrix: ownCopy(current), loss, before };
  }
  return best;
}

/**
 * How many rows are chosen at once, as if they were not coupled: each time all of H is copied for products, which long rows
 * cannot afford one by one.
 */
function heightOf(rows: number, columns: number): number {
  const wanted = Math.max(Math.floor(rows / 64), Math.floor(columns / 64), 1);
  return Math.min(wanted, 16, Math.max(1, Math.floor(rows / 8)));
}

/** How much of the differences of all rows some rows take over, by their places: of those before them. */
function sharesBefore({ columns: rows, factor, order }: Curvature, first: number, last: number): Float32Array {
  const shares = new Float32Array((last - first) * rows);
  for (let place = first; place < last; place++) {
    for (let other = 0; other < first; other++) {
      shares[(place - first) * rows + order[other]] = factor.upper[other * rows + place];
    }
  }
  return shares;
}

/** The same of all others, once they have codes. */
function sharesOfAll({ columns: rows, matrix, order }: Curvature, first: number, last: number): Float32Array {
  const shares = new Float32Array((last - first) * rows);
  for (let place = first; place < last; place++) {
    const own = matrix[place * (rows + 1)];
    for (let other = 0; other < rows; other++) {
      if (other !== place) shares[(place - first) * rows + order[other]] = matrix[place * rows + other] / own;
    }
  }
  return shares;
}

/** tr(S·Δ·H·Δᵀ) of differences Δ of rows·columns; without S of rows that are not coupled. */
export async function coupledLoss(
  differences: Float32Array,
  columnMoment: Float32Array,
  rowMoment: Float32Array | undefined,
  [rows, columns]: readonly [number, number],
  products: MatrixProducts,
): Promise<number> {
  const right = await products.multiply(differences, columnMoment, rows, columns, columns);
  const both = rowMoment ? await products.multiply(rowMoment, right, rows, rows, columns) : right;
  return both.reduce((sum, value, index) => sum + value * differences[index], 0);
}

/** A matrix with arrays of its own. */
function ownCopy(matrix: QuantizedMatrix): QuantizedMatrix {
  const { scheme, rows, columns, codes, blockSize, scales, zeroPoints, factors } = matrix;
  return {
    ...{ scheme, rows, columns, blockSize },
    ...{ codes: codes.slice(), scales: scales.slice(), zeroPoints: zeroPoints.slice() },
    ...(factors ? { factors: factors.slice() } : {}),
  };
}

/** What some rows have of an array with the same number of elements for each. */
function picked<Numbers extends Float32Array | QuantizedMatrix['codes']>(
  all: Numbers,
  rows: number,
  some: Int32Array,
): Numbers {
  const size = all.length / rows;
  const own = all.slice(0, some.length * size) as Numbers;
  for (const [place, row] of some.entries()) own.set(all.subarray(row * size, (row + 1) * size), place * size);
  return own;
}

/** The inverse of `picked`. */
function put(all: Float32Array | QuantizedMatrix['codes'], rows: number, some: Int32Array, own: typeof all): void {
  const size = all.length / rows;
  for (const [place, row] of some.entries()) all.set(own.subarray(place * size, (place + 1) * size), row * size);
}

function rowsOf(matrix: QuantizedMatrix, some: Int32Array): QuantizedMatrix {
  const { rows, codes, scales, zeroPoints, factors } = matrix;
  return {
    ...matrix,
    rows: some.length,
    codes: picked(codes, rows, some),
    scales: picked(scales, rows, some),
    zeroPoints: picked(zeroPoints, rows, some),
    ...(factors ? { factors: factors.length === rows ? picked(factors, rows, some) : factors } : {}),
  };
}

function putRows(matrix: QuantizedMatrix, some: Int32Array, from: QuantizedMatrix): void {
  const { rows, codes, scales, zeroPoints, factors } = matrix;
  put(codes, rows, some, from.codes);
  put(scales, rows, some, from.scales);
  put(zeroPoints, rows, some, from.zeroPoints);
  if (from.factors && factors?.length === rows) put(factors, rows, some, from.factors);
}
