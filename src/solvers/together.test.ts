/** Rows that make up for each other: the loss is what it says, and falls where rows are coupled. */
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { parseScheme } from '../formats/scheme.ts';
import { dequantizeMatrix } from '../kernel/index.ts';
import { type Curvature, compensate, type Moments, prepareCurvature } from './gptq.ts';
import { rtn } from './rtn.ts';
import { compensateTogether, hasOwnRows } from './together.ts';

const gaussian = createGaussian(createRandom(7));
const numbers = (length: number) => Float32Array.from({ length }, gaussian);

/** The second moment of vectors that `factors` numbers make: of a low rank where they are few. */
function momentsOf(columns: number, factors: number): Moments {
  const mixing = numbers(columns * factors);
  const moment = new Float32Array(columns * columns);
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < columns; j++) {
      for (let k = 0; k < factors; k++) moment[i * columns + j] += mixing[i * factors + k] * mixing[j * factors + k];
    }
  }
  return { moment, mean: new Float32Array(columns), count: 1e6 };
}

async function curvature(columns: number, factors: number): Promise<Curvature> {
  const found = await prepareCurvature(momentsOf(columns, factors), columns, { damping: 0.02 });
  if (typeof found === 'string') throw new Error(found);
  return found;
}

/** A symmetric matrix back from the order of processing. */
function plain({ columns, matrix, order }: Curvature): (i: number, j: number) => number {
  const places = new Int32Array(columns);
  for (const [place, index] of order.entries()) places[index] = place;
  return (i, j) => matrix[places[i] * columns + places[j]];
}

async function example(rows: number, columns: number, factors: number, scheme: string) {
  const [target, columnsOf, rowsOf] = [
    numbers(rows * columns),
    await curvature(columns, columns * 2),
    await curvature(rows, factors),
  ];
  const start = rtn.solve(target, rows, columns, parseScheme(scheme), {});
  const { matrix } = await compensate(target, rows, columns, start, { curvature: columnsOf });
  return { target, matrix, options: { curvature: columnsOf, coupling: rowsOf, target } };
}

describe('compensateTogether', () => {
  it('tells the loss of its codes', async () => {
    const { target, matrix, options } = await example(9, 12, 20, 'int4:g4:asym');
    const { matrix: found, loss } = await compensateTogether(matrix, options);
    const values = dequantizeMatrix(found);
    const error = target.map((value, index) => value - values[index]);
    const [h, s] = [plain(options.curvature), plain(options.coupling)];
    let sum = 0;
    for (let a = 0; a < 9; a++) {
      for (let b = 0; b < 9; b++) {
        for (let i = 0; i < 12; i++) {
          for (let j = 0; j < 12; j++) sum += s(a, b) * error[a * 12 + i] * h(i, j) * error[b * 12 + j];
        }
      }
    }
    expect(loss / sum).toBeCloseTo(1, 4);
  });

  it.each(['int3:g8:asym', 'int4', 'nf4:g8', 'int8', 'int4:g8:asym:scale16'])(
    'loses less where few directions of the rows count: %s',
    async (scheme) => {
      const { matrix, options } = await example(48, 16, 4, scheme);
      const { loss, before } = await compensateTogether(matrix, options);
      expect(loss).toBeLessThan(0.5 * before);
    },
  );

  it('leaves what it was given where nothing is better', async () => {
    const { matrix, options } = await example(8, 8, 16, 'int4:g8:asym');
    const first = await compensateTogether(matrix, { ...options, rounds: 6 });
    const again = await compensateTogether(first.matrix, { ...options, rounds: 0 });
    expect(again.loss).toBeLessThanOrEqual(first.loss * (1 + 1e-6));
    expect(first.loss).toBeLessThanOrEqual(first.before);
  });

  it('repeats, and leaves its input alone', async () => {
    const { matrix, options } = await example(40, 70, 10, 'int4:g32:asym');
    const codes = matrix.codes.slice();
    const [one, two] = [await compensateTogether(matrix, options), await compensateTogether(matrix, options)];
    expect(one).toEqual(two);
    expect(matrix.codes).toEqual(codes);
  });

  it('is for rows with scales of their own', () => {
    const of = (scheme: string) => hasOwnRows(parseScheme(scheme));
    expect(of('int8')).toBe(true);
    expect(of('int4:g8')).toBe(true);
    expect(of('int8:tensor')).toBe(false);
  });
});
