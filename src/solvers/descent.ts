/** Coordinate descent: each code in turn becomes the best one while all others stay. */
import type { Codes } from '../formats/quantized.ts';
import type { Curvature } from './curvature.ts';
import type { Residuals } from './residuals.ts';
import type { Rounding } from './rounding.ts';

/** Codes that are being chosen, with columns in the order of a curvature. */
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
}

/** Columns whose gradients are computed at a time. */
const width = 128;

/**
 * Up to `sweeps` passes over all columns, or until no code changes: with the gradient G = Δ·H, the best number in place of
 * a code's value q is q + G / H's diagonal, and the code nearest to that is the best code (ALGORITHMS 3.6 c). The loss of
 * no row rises.
 * @returns how many codes changed
 */
export async function descend(choice: Choice, sweeps: number): Promise<number> {
  const { residuals, curvature } = choice;
  const { rows, columns } = residuals;
  const isActive = new Uint8Array(rows).fill(1);
  const hasChanged = new Uint8Array(rows);
  let total = 0;
  for (let sweep = 0; sweep < sweeps; sweep++) {
    hasChanged.fill(0);
    let changes = 0;
    for (let first = 0; first < columns; first += width) {
      const last = Math.min(first + width, columns);
      const gradients = await residuals.times(curvature.matrix, first, last);
      changes += descendBlock(choice, first, last, gradients, isActive, hasChanged);
    }
    if (changes === 0) break;
    total += changes;
    isActive.set(hasChanged);
  }
  return total;
}

function descendBlock(
  { codes, residuals, losses, rounding, curvature, blockSize }: Choice,
  first: number,
  last: number,
  gradients: Float32Array,
  isActive: Uint8Array,
  hasChanged: Uint8Array,
): number {
  const { rows, columns } = residuals;
  const { matrix, order } = curvature;
  const { panel, width: panelWidth, offset } = residuals.panelOf(first);
  const count = last - first;
  const inverse = Float64Array.from({ length: count }, (_, i) => 1 / matrix[(first + i) * (columns + 1)]);
  const blocks = Int32Array.from({ length: count }, (_, i) => Math.floor(order[first + i] / blockSize));
  let changes = 0;
  for (let row = 0; row < rows; row++) {
    if (isActive[row] === 0) continue;
    const start = row * count;
    const before = changes;
    for (let i = 0; i < count; i++) {
      const place = row * columns + first + i;
      const code = codes[place];
      const value = rounding.value(row, blocks[i], code);
      const move = gradients[start + i] * inverse[i];
      const wanted = value + move;
      const better = rounding.nearest(row, blocks[i], wanted);
      if (better === code) continue;
      const found = rounding.value(row, blocks[i], better);
      const rest = wanted - found;
      const gain = (move * move - rest * rest) / inverse[i];
      if (!(gain > 0)) continue;
      changes++;
      codes[place] = better;
      losses[row] -= gain;
      const difference = found - value;
      panel[row * panelWidth + offset + i] -= difference;
      const from = (first + i) * columns + first;
      for (let k = i + 1; k < count; k++) gradients[start + k] -= difference * matrix[from + k];
    }
    if (changes > before) hasChanged[row] = 1;
  }
  return changes;
}
