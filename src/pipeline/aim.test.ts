/** Aims: what linear maps can make up for is made up for, and what only fits the samples is left. */
import { afterAll, describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { openRuntime } from '../runtime/node.ts';
import { openProducts } from '../runtime/products.ts';
import { type AimedRows, aimOf, mixedCrossMoments } from './aim.ts';
import type { CrossMoments } from './moments.ts';

const products = openProducts(await openRuntime('onnxruntime-node'));
afterAll(() => products.close());

const [rows, columns] = [6, 12];
const gaussian = createGaussian(createRandom(11));
const values = Float32Array.from({ length: rows * columns }, gaussian);

/** Of pairs x, x̃. */
function momentsOf(pairs: readonly (readonly [Float64Array, Float64Array])[]): CrossMoments {
  const count = pairs.length;
  const moment = new Float32Array(columns ** 2);
  const cross = new Float32Array(columns ** 2);
  const means = [new Float32Array(columns), new Float32Array(columns)];
  for (const [x, other] of pairs) {
    for (let i = 0; i < columns; i++) {
      means[0][i] += x[i] / count;
      means[1][i] += other[i] / count;
      for (let j = 0; j < columns; j++) {
        moment[i * columns + j] += (other[i] * other[j]) / count;
        cross[i * columns + j] += (x[i] * other[j]) / count;
      }
    }
  }
  return { moments: { moment, mean: means[1], count }, cross, mean: means[0] };
}

const sample = (mean = 0) => Float64Array.from({ length: columns }, () => mean + gaussian());

/** Mean squared difference of W·x and A·x̃, but for its mean where that is made up for. */
function errorOf(
  aim: Float32Array,
  pairs: readonly (readonly [Float64Array, Float64Array])[],
  isCentred: boolean,
): number {
  let sum = 0;
  for (let row = 0; row < rows; row++) {
    const errors = pairs.map(([x, other]) =>
      x.reduce((total, value, i) => total + value * values[row * columns + i] - other[i] * aim[row * columns + i], 0),
    );
    const mean = isCentred ? errors.reduce((a, b) => a + b, 0) / errors.length : 0;
    sum += errors.reduce((total, error) => total + (error - mean) ** 2, 0) / errors.length;
  }
  return sum;
}

const groupOf = (fitted: CrossMoments, checked: CrossMoments): AimedRows => ({
  values,
  rows,
  columns,
  fitted,
  checked,
  all: mixedCrossMoments(fitted, checked),
});

describe('aimOf', () => {
  it.each([true, false])('undoes what a linear map did to the inputs (centred: %s)', async (isCentred) => {
    const scales = Array.from({ length: columns }, (_, i) => 0.5 + i / columns);
    const pair = () => {
      const x = sample(isCentred ? 3 : 0);
      return [x, x.map((value, i) => value * scales[i] + (isCentred ? 0.7 : 0))] as const;
    };
    const make = (count: number) => Array.from({ length: count }, pair);
    const [aim] = await aimOf([groupOf(momentsOf(make(600)), momentsOf(make(200)))], isCentred, products);
    const test = make(300);
    expect(errorOf(aim, test, isCentred)).toBeLessThan(errorOf(values, test, isCentred) / 100);
  });

  it('keeps the weights where inputs are what they were', async () => {
    const same = () => Array.from({ length: 200 }, () => sample()).map((x) => [x, x] as const);
    const [aim] = await aimOf([groupOf(momentsOf(same()), momentsOf(same()))], true, products);
    for (const [i, value] of aim.entries()) expect(value).toBeCloseTo(values[i], 3);
  });

  it('keeps the weights exactly where samples that were not fitted to disagree', async () => {
    // So few that a map that fits them perfectly means nothing.
    const noisy = (count: number) => Array.from({ length: count }, () => [sample(), sample()] as const);
    const opposite = noisy(13).map(([x]) => [x, x.map((value) => -value)] as const);
    const straight = noisy(13).map(([x]) => [x, x] as const);
    const [aim] = await aimOf([groupOf(momentsOf(opposite), momentsOf(straight))], false, products);
    expect(aim).toBe(values);
  });

  it('keeps the weights without samples that could choose', async () => {
    const some = momentsOf(Array.from({ length: 50 }, () => [sample(), sample()] as const));
    const none = { ...some, moments: { ...some.moments, count: 0 } };
    expect(await aimOf([groupOf(some, none)], false, products)).toEqual([values]);
  });
});

it('together gives the moments of all samples', () => {
  const pairs = Array.from({ length: 40 }, () => [sample(1), sample(2)] as const);
  const mixed = mixedCrossMoments(momentsOf(pairs.slice(0, 30)), momentsOf(pairs.slice(30)));
  const whole = momentsOf(pairs);
  expect(mixed.moments.count).toBe(40);
  for (const [a, b] of [
    [mixed.cross, whole.cross],
    [mixed.moments.moment, whole.moments.moment],
    [mixed.mean, whole.mean],
    [mixed.moments.mean, whole.moments.mean],
  ]) {
    for (const [i, value] of a.entries()) expect(value).toBeCloseTo(b[i], 4);
  }
});
