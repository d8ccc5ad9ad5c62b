/** Codes that are being chosen, a block of columns at a time. */
import type { Codes } from '../formats/quantized.ts';
import type { CodeBlock, Kernel } from '../kernel/index.ts';
import type { Curvature } from './curvature.ts';
import type { Residuals } from './residuals.ts';
import type { Rounding } from './rounding.ts';

/** Columns are in the order of the curvature. */
export interface Choice {
  /** rows·columns codes, row-major. */
  readonly codes: Codes;
  /** Weights less what their codes stand for. */
  readonly residuals: Residuals;
  /** Δ·H·Δᵀ of each row. */
  readonly losses: Float64Array;
  readonly rounding: Rounding;
  readonly curvature: Curvature;
  /** Columns that share a scale, in the matrix's own order. */
  readonly blockSize: number;
  readonly kernel: Kernel;
}

/** The first `count` numbers. */
export function countTo(count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, index) => index);
}

/**
 * Copies of the columns `first` to `last` of some rows, with room for their codes.
 * @param residuals of these rows alone
 */
export function openBlock(
  { codes, curvature, blockSize, losses }: Choice,
  residuals: Residuals,
  rows: Int32Array,
  first: number,
  last: number,
): CodeBlock {
  const Room = codes.constructor as new (length: number) => Codes;
  return {
    rows,
    parameters: Int32Array.from({ length: last - first }, (_, i) => Math.floor(curvature.order[first + i] / blockSize)),
    residuals: residuals.take(first, last),
    codes: new Room(rows.length * (last - first)),
    losses,
  };
}

/** The same with their codes. */
export function takeBlock(
  choice: Choice,
  residuals: Residuals,
  rows: Int32Array,
  first: number,
  last: number,
): CodeBlock {
  const block = openBlock(choice, residuals, rows, first, last);
  const width = last - first;
  for (let own = 0; own < rows.length; own++) {
    const from = rows[own] * choice.curvature.columns + first;
    for (let i = 0; i < width; i++) block.codes[own * width + i] = choice.codes[from + i];
  }
  return block;
}

/** Puts codes and residuals of a block back; losses are shared. */
export function putBlock({ codes, curvature }: Choice, residuals: Residuals, block: CodeBlock, first: number): void {
  const width = block.parameters.length;
  residuals.put(first, first + width, block.residuals);
  for (let own = 0; own < block.rows.length; own++) {
    const to = block.rows[own] * curvature.columns + first;
    for (let i = 0; i < width; i++) codes[to + i] = block.codes[own * width + i];
  }
}

/** The square block of a matrix on its diagonal. */
export function squareOf(matrix: Float32Array, columns: number, first: number, last: number): Float32Array {
  const width = last - first;
  const square = new Float32Array(width * width);
  for (let i = 0; i < width; i++) {
    const from = (first + i) * columns;
    square.set(matrix.subarray(from + first, from + last), i * width);
  }
  return square;
}
