/** Fitted scales solve the normal equations, and losses say what was gained. */
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import { bestKernel, dequantizeMatrix } from '../kernel/index.ts';
import { type Curvature, prepareCurvature } from './curvature.ts';
import { plainProducts } from './factorize.ts';
import { solverOf } from './index.ts';
import { refitScales } from './refit.ts';
import { Residuals } from './residuals.ts';

const [rows, columns] = [6, 320];
const values = Float32Array.from({ length: rows * columns }, createGaussian(createRandom(3)));

async function curvatureOf(): Promise<Curvature> {
  const gaussian = createGaussian(createRandom(4));
  const sizes = Float64Array.from({ length: columns }, () => 1 + Math.abs(gaussian()));
  const moment = Float32Array.from({ length: columns * columns }, (_, index) => {
    const [i, j] = [Math.floor(index / columns), index % columns];
    return sizes[i] * sizes[j] * 0.8 ** Math.abs(i - j);
  });
  const found = await prepareCurvature({ moment, mean: new Float32Array(columns), count: 1e4 }, columns);
  if (typeof found === 'string') throw new Error(found);
  return found;
}

/** a·H·bᵀ, with H in the matrix's own order. */
function product({ matrix, order }: Curvature, a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < columns; j++) sum += a[order[i]] * matrix[i * columns + j] * b[order[j]];
  }
  return sum;
}

const differences = (matrix: QuantizedMatrix) => dequantizeMatrix(matrix).map((value, i) => values[i] - value);

function lossesOf(matrix: QuantizedMatrix, curvature: Curvature): Float64Array {
  const all = differences(matrix);
  return Float64Array.from({ length: rows }, (_, row) => {
    const own = all.subarray(row * columns, (row + 1) * columns);
    return product(curvature, own, own);
  });
}

async function refit(matrix: QuantizedMatrix, curvature: Curvature) {
  const losses = lossesOf(matrix, curvature);
  const before = losses.slice();
  const residuals = new Residuals(differences(matrix), rows, columns, undefined, plainProducts, 0);
  const options = { products: plainProducts, kernel: bestKernel(), reduceRange: false };
  const found = await refitScales(matrix, residuals, losses, curvature, options);
  if (!found) throw new Error('expected scales');
  const after = lossesOf(found.matrix, curvature);
  after.forEach((loss, row) => {
    expect(loss).toBeLessThanOrEqual(before[row] * (1 + 1e-6));
    expect(Math.abs(losses[row] - loss)).toBeLessThan(1e-4 * before[row]);
  });
  const left = residuals.take(0, columns);
  differences(found.matrix).forEach((difference, i) => {
    expect(Math.abs(left[i] - difference)).toBeLessThan(1e-5);
  });
  return found;
}

/** The units of one group of a row, zeros elsewhere. */
function unitsOf({ codes, zeroPoints, blockSize }: QuantizedMatrix, row: number, group: number): Float64Array {
  const perRow = columns / blockSize;
  return Float64Array.from({ length: columns }, (_, i) =>
    Math.floor(i / blockSize) === group ? codes[row * columns + i] - zeroPoints[row * perRow + group] : 0,
  );
}

describe('refitScales', () => {
  it('gives a row’s only scale its closed form', async () => {
    const curvature = await curvatureOf();
    const start = solverOf('rtn').solve(values, rows, columns, parseScheme('int3:channel:sym'));
    const { matrix, descended } = await refit(start, curvature);
    expect(descended).toBe(false);
    expect(matrix.codes).toEqual(start.codes);
    for (let row = 0; row < rows; row++) {
      const own = values.subarray(row * columns, (row + 1) * columns);
      const units = unitsOf(start, row, 0);
      const best = product(curvature, own, units) / product(curvature, units, units);
      expect(matrix.scales[row] / best).toBeCloseTo(1, 4);
    }
  });

  it('comes to the solution of the normal equations of two scales', async () => {
    const curvature = await curvatureOf();
    let matrix = solverOf('rtn').solve(values, rows, columns, parseScheme('int3:g160:asym:scale32'));
    for (let round = 0; round < 4; round++) ({ matrix } = await refit(matrix, curvature));
    for (let row = 0; row < rows; row++) {
      const own = values.subarray(row * columns, (row + 1) * columns);
      const [a, b] = [unitsOf(matrix, row, 0), unitsOf(matrix, row, 1)];
      const [aa, ab, bb] = [product(curvature, a, a), product(curvature, a, b), product(curvature, b, b)];
      const [ra, rb] = [product(curvature, own, a), product(curvature, own, b)];
      const determinant = aa * bb - ab * ab;
      expect(matrix.scales[2 * row] / ((ra * bb - rb * ab) / determinant)).toBeCloseTo(1, 4);
      expect(matrix.scales[2 * row + 1] / ((rb * aa - ra * ab) / determinant)).toBeCloseTo(1, 4);
    }
  });

  it.each(['int4:g32', 'int2:g64:sym', 'nf4:g32', 'mxfp4', 'int4:g32:scale8', 'binary2:g32', 'kmeans3:g32'])(
    'improves scales and codes of %s together',
    async (text) => {
      const curvature = await curvatureOf();
      const start = solverOf('rtn').solve(values, rows, columns, parseScheme(text));
      const { matrix, descended } = await refit(start, curvature);
      expect(descended).toBe(true);
      expect(matrix.codes).not.toEqual(start.codes);
      expect(matrix.zeroPoints).toEqual(start.zeroPoints);
      const sum = (losses: Float64Array) => losses.reduce((total, loss) => total + loss, 0);
      expect(sum(lossesOf(matrix, curvature))).toBeLessThan(0.8 * sum(lossesOf(start, curvature)));
    },
  );
});
