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

/** Rows that a sweep brings less of their loss than this are done. */
const leastGain = 1e-3;

/**
 * Up to `sweeps` passes over all columns, or until they gain next to nothing: with the gradient G = Δ·H, the best number in
 * place of a code's value q is q + G / H's diagonal, and the code nearest to that is the best code (ALGORITHMS 3.6 c). The
 * loss of no row rises. Residuals are not kept up to date.
 * @returns how many codes changed
 */
export async function descend(choice: Choice, sweeps: number): Promise<number> {
  const { curvature, losses } = choice;
  const { columns } = choice.residuals;
  let { residuals } = choice;
  let active = Int32Array.from({ length: residuals.rows }, (_, row) => row);
  let total = 0;
  for (let sweep = 0; sweep < sweeps && active.length > 0; sweep++) {
    const before = losses.slice();
    for (let first = 0; first < columns; first += width) {
      const last = Math.min(first + width, columns);
      const gradients = await residuals.times(curvature.matrix, first, last);
      total += descendBlock(choice, residuals, active, first, last, gradients);
    }
    if (sweep + 1 === sweeps) break;
    const going = Int32Array.from(active.keys()).filter((place) => {
      const row = active[place];
      return before[row] - losses[row] > leastGain * before[row];
    });
    if (going.length < active.length) residuals = residuals.pick(going);
    active = going.map((place) => active[place]);
  }
  return total;
}

/** @param rows the rows of codes and losses that those of the residuals are */
function descendBlock(
  { codes, losses, rounding, curvature, blockSize }: Choice,
  residuals: Residuals,
  rows: Int32Array,
  first: number,
  last: number,
  gradients: Float32Array,
): number {
  const { columns } = residuals;
  const { matrix, order } = curvature;
  const { panel, width: panelWidth, offset } = residuals.panelOf(first);
  const count = last - first;
  const inverse = Float64Array.from({ length: count }, (_, i) => 1 / matrix[(first + i) * (columns + 1)]);
  const blocks = Int32Array.from({ length: count }, (_, i) => Math.floor(order[first + i] / blockSize));
  let changes = 0;
  for (let own = 0; own < rows.length; own++) {
    const row = rows[own];
    const start = own * count;
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
      panel[own * panelWidth + offset + i] -= difference;
      const from = (first + i) * columns + first;
      for (let k = i + 1; k < count; k++) gradients[start + k] -= difference * matrix[from + k];
    }
  }
  return changes;
}
