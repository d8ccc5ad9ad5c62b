/** Coordinate descent: each code in turn becomes the best one while all others stay. */
import { type Choice, countTo, putBlock, squareOf, takeBlock } from './choice.ts';

/** Columns whose gradients are computed at a time. */
const width = 64;

/** Rows that a sweep brings less of their loss than this are done. */
const leastGain = 1e-3;

/**
 * Up to `sweeps` passes over all columns, or until they gain next to nothing: with the gradient G = Δ·H, the best number in
 * place of a code's value q is q + G / H's diagonal, and the code nearest to that is the best code (ALGORITHMS 3.6 c). The
 * loss of no row rises. Residuals are not kept up to date.
 * @returns how many codes changed
 */
export async function descend(choice: Choice, sweeps: number): Promise<number> {
  const { curvature, losses, rounding, kernel } = choice;
  const { columns, matrix } = curvature;
  let { residuals } = choice;
  let active = countTo(residuals.rows);
  let total = 0;
  for (let sweep = 0; sweep < sweeps && active.length > 0; sweep++) {
    const before = losses.slice();
    for (let first = 0; first < columns; first += width) {
      const last = Math.min(first + width, columns);
      const gradients = await residuals.times(matrix, first, last);
      const block = takeBlock(choice, residuals, active, first, last);
      total += rounding.improve(block, gradients, squareOf(matrix, columns, first, last), kernel);
      putBlock(choice, residuals, block, first);
    }
    if (sweep + 1 === sweeps) break;
    const going = countTo(active.length).filter((place) => {
      const row = active[place];
      return before[row] - losses[row] > leastGain * before[row];
    });
    if (going.length < active.length) residuals = residuals.pick(going);
    active = going.map((place) => active[place]);
  }
  return total;
}
