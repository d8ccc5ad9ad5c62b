/** Factors multiply to what they are of, whichever way they are found, and systems are solved. */
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { type Factor, factorize, plainProducts, solveRight } from './factorize.ts';

/** The mean of x·xᵀ of some correlated x, with a little more on its diagonal. */
function momentOf(size: number, samples: number, seed: number): Float32Array {
  const gaussian = createGaussian(createRandom(seed));
  const x = Float64Array.from({ length: samples * size }, gaussian);
  for (let i = 0; i < x.length; i++) if (i % size > 0) x[i] += 0.9 * x[i - 1];
  const moment = new Float32Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      let sum = i === j ? 0.01 * samples : 0;
      for (let t = 0; t < samples; t++) sum += x[t * size + i] * x[t * size + j];
      moment[i * size + j] = sum / samples;
    }
  }
  return moment;
}

/** The largest difference of U·diag(pivots)·Uᵀ from a matrix, beside the matrix's largest element. */
function deviation({ size, upper, pivots }: Factor, matrix: Float32Array): number {
  let [worst, largest] = [0, 0];
  for (let i = 0; i < size; i++) {
    for (let j = i; j < size; j++) {
      let sum = 0;
      for (let k = j; k < size; k++) sum += upper[i * size + k] * pivots[k] * upper[j * size + k];
      worst = Math.max(worst, Math.abs(sum - matrix[i * size + j]));
      largest = Math.max(largest, Math.abs(matrix[i * size + j]));
    }
  }
  return worst / largest;
}

async function factorOf(matrix: Float32Array, size: number): Promise<Factor> {
  const factor = await factorize(matrix, size);
  if (!factor) throw new Error('expected a factor');
  return factor;
}

describe('factorize', () => {
  it.each([1, 2, 40, 128, 129, 300])('of %i columns gives factors that multiply to the matrix', async (size) => {
    const matrix = momentOf(size, 2 * size + 3, size);
    const factor = await factorOf(matrix, size);
    expect(deviation(factor, matrix)).toBeLessThan(2e-6);
    for (let i = 0; i < size; i++) {
      expect(factor.upper[i * size + i]).toBe(1);
      for (let j = 0; j < i; j++) expect(factor.upper[i * size + j]).toBe(0);
    }
  });

  it('gives the factor that GPTQ works with: V = diag(pivots)^−½·U⁻¹, VᵀV·H = I', async () => {
    const size = 24;
    const matrix = momentOf(size, 100, 3);
    const { upper, pivots } = await factorOf(matrix, size);
    const inverse = Array.from({ length: size }, (_, i) => Array.from({ length: size }, (_, j) => (i === j ? 1 : 0)));
    for (let i = size - 1; i >= 0; i--) {
      for (let k = i + 1; k < size; k++) {
        for (let j = 0; j < size; j++) inverse[i][j] -= upper[i * size + k] * inverse[k][j];
      }
    }
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        let sum = 0;
        for (let a = 0; a < size; a++) {
          for (let k = 0; k < size; k++) {
            sum += (inverse[k][i] * inverse[k][a] * matrix[a * size + j]) / pivots[k];
          }
        }
        expect(Math.abs(sum - (i === j ? 1 : 0))).toBeLessThan(1e-4);
      }
    }
  });

  it('does not mind columns of very different sizes', async () => {
    const size = 150;
    const matrix = momentOf(size, 400, 4).map(
      (value, index) => value * 10 ** (((index % size) % 7) - 3) * 10 ** ((Math.floor(index / size) % 7) - 3),
    );
    const { upper, pivots } = await factorOf(matrix, size);
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let k = i; k < size; k++) sum += upper[i * size + k] ** 2 * pivots[k];
      expect(Math.abs(sum / matrix[i * size + i] - 1)).toBeLessThan(1e-5);
    }
  });

  it('turns to double precision where float32 breaks down', async () => {
    const size = 200;
    // Neighbours correlated by 1 − 4e-7, in numbers that float32 holds: pivots are less than float32 can tell from zero.
    const correlation = 1 - 2 ** -21;
    const matrix = Float32Array.from({ length: size * size }, (_, index) =>
      Math.floor(index / size / 2) === Math.floor((index % size) / 2) && index % (size + 1) !== 0 ? correlation : 0,
    );
    for (let i = 0; i < size; i++) matrix[i * (size + 1)] = 1;
    const { pivots } = await factorOf(matrix, size);
    expect(pivots[0] / (1 - correlation ** 2)).toBeCloseTo(1, 5);
    expect(pivots[1]).toBe(1);
  });

  it('refuses what is not positive definite, or not finite', async () => {
    expect(await factorize(Float32Array.of(1, 2, 2, 1), 2)).toBeUndefined();
    expect(await factorize(Float32Array.of(0, 0, 0, 1), 2)).toBeUndefined();
    expect(await factorize(Float32Array.of(1, Number.NaN, Number.NaN, 1), 2)).toBeUndefined();
    expect(await factorize(Float32Array.of(Number.POSITIVE_INFINITY, 0, 0, 1), 2)).toBeUndefined();
  });
});

describe('solveRight', () => {
  it.each([1, 17, 128, 260])('solves for %i columns', async (size) => {
    const rows = 5;
    const matrix = momentOf(size, 3 * size, 9);
    const gaussian = createGaussian(createRandom(8));
    const expected = Float32Array.from({ length: rows * size }, gaussian);
    const right = await plainProducts.multiply(expected, matrix, rows, size, size);
    const found = await solveRight(right, rows, await factorOf(matrix, size));
    found.forEach((value, index) => {
      expect(Math.abs(value - expected[index])).toBeLessThan(2e-3);
    });
  });
});
