/** Codes of rows, chosen one column after the other with regard to what the columns before lost: for any rounding. */
import { HalftoneError } from '../base/errors.ts';
import type { CodeBlock } from './kernel.ts';

/** How numbers are rounded. `parameter` is the number of a row's scale. */
export interface Rounder {
  /** The code nearest to a number. */
  nearest(row: number, parameter: number, number: number): number;
  /** What a code stands for, as a float32. */
  value(row: number, parameter: number, code: number): number;
}

/** @throws HalftoneError `internal` where arrays are not as long as a block of codes wants them. */
export function checkCodeBlock({ rows, parameters, residuals, codes }: CodeBlock, ...matrices: Float32Array[]): void {
  const columns = parameters.length;
  const [more, square] = matrices;
  const elements = rows.length * columns;
  if (residuals.length === elements && codes.length === elements && more.length >= elements) {
    if (square.length === columns * columns) return;
  }
  throw new HalftoneError(
    'internal',
    `codes: expected ${rows.length}×${columns} of all, got ${[residuals, codes, ...matrices].map((one) => one.length)}`,
  );
}

/** numbers[start + k] += factor · shares[from + k] for the columns k behind `column`, in single precision. */
function pass(
  numbers: Float32Array,
  start: number,
  shares: Float32Array,
  from: number,
  factor: number,
  column: number,
  columns: number,
): void {
  for (let k = column + 1; k < columns; k++) {
    numbers[start + k] = Math.fround(numbers[start + k] + Math.fround(factor * shares[from + k]));
  }
}

/** See `Kernel.chooseCodes`. */
export function chooseCodes(
  block: CodeBlock,
  rounder: Rounder,
  feed: Float32Array,
  upper: Float32Array,
  pivots: Float64Array,
): void {
  checkCodeBlock(block, feed, upper);
  const { rows, parameters, residuals, codes, losses } = block;
  const columns = parameters.length;
  for (let own = 0; own < rows.length; own++) {
    const row = rows[own];
    const start = own * columns;
    for (let column = 0; column < columns; column++) {
      const at = start + column;
      const weight = residuals[at];
      const wanted = Math.fround(weight + feed[at]);
      const code = rounder.nearest(row, parameters[column], wanted);
      const value = rounder.value(row, parameters[column], code);
      const rest = wanted - value;
      losses[row] += pivots[column] * rest * rest;
      residuals[at] = weight - value;
      codes[at] = code;
      pass(feed, start, upper, column * columns, residuals[at], column, columns);
    }
  }
}

/** See `Kernel.improveCodes`. */
export function improveCodes(
  block: CodeBlock,
  rounder: Rounder,
  gradients: Float32Array,
  curvature: Float32Array,
): number {
  checkCodeBlock(block, gradients, curvature);
  const { rows, parameters, residuals, codes, losses } = block;
  const columns = parameters.length;
  let changes = 0;
  for (let own = 0; own < rows.length; own++) {
    const row = rows[own];
    const start = own * columns;
    for (let column = 0; column < columns; column++) {
      const at = start + column;
      const curve = curvature[column * (columns + 1)];
      const value = rounder.value(row, parameters[column], codes[at]);
      const move = gradients[at] / curve;
      const wanted = value + move;
      const better = rounder.nearest(row, parameters[column], wanted);
      if (better === codes[at]) continue;
      const found = rounder.value(row, parameters[column], better);
      const rest = wanted - found;
      const gain = (move * move - rest * rest) * curve;
      if (!(gain > 0)) continue;
      changes++;
      losses[row] -= gain;
      codes[at] = better;
      const change = Math.fround(value - found);
      residuals[at] = Math.fround(residuals[at] + change);
      pass(gradients, start, curvature, column * columns, change, column, columns);
    }
  }
  return changes;
}
