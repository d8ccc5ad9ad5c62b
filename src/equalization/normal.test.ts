/** Closed forms of normal variables behind activation functions, against seeded draws and tables. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { clippedNormal, leakyNormal, normalDistribution } from './normal.ts';

const draws = 40_000;
const normals = (() => {
  const gaussian = createGaussian(createRandom(7));
  return Float64Array.from({ length: draws }, gaussian);
})();

/** Mean and deviation of f over the draws. */
function drawn(mean: number, deviation: number, f: (x: number) => number) {
  let [sum, square] = [0, 0];
  for (const z of normals) {
    const y = f(mean + deviation * z);
    sum += y;
    square += y * y;
  }
  return { mean: sum / draws, deviation: Math.sqrt(square / draws - (sum / draws) ** 2) };
}

test('the distribution is that of tables (Abramowitz and Stegun, table 26.1)', () => {
  const table = [
    [0, 0.5],
    [1, 0.841344746068543],
    [2, 0.977249868051821],
    [3, 0.99865010196837],
    [5, 0.9999997133484281],
  ];
  for (const [x, p] of table) {
    expect(normalDistribution(x)).toBeCloseTo(p, 14);
    expect(normalDistribution(-x)).toBeCloseTo(1 - p, 14);
  }
  // The tail keeps its digits: 1 − Φ(8) = 6.22096057427178e-16.
  expect(normalDistribution(-8) / 6.22096057427178e-16).toBeCloseTo(1, 10);
});

describe('moments behind', () => {
  const parameters = fc.record({
    mean: fc.double({ min: -4, max: 8, noNaN: true }),
    deviation: fc.double({ min: 0.05, max: 4, noNaN: true }),
  });
  const cases = [
    ['Relu', 0, Number.POSITIVE_INFINITY],
    ['Relu6', 0, 6],
    ['Clip', -1, 0.5],
    ['Clip above', Number.NEGATIVE_INFINITY, 1],
    ['nothing', Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY],
  ] as const;
  // Six standard errors of the mean and, for these tails, more than that of the deviation.
  const tolerance = (deviation: number) => (6 * deviation) / Math.sqrt(draws) + 1e-9;

  test.each(cases)('%s', (_, low, high) => {
    fc.assert(
      fc.property(parameters, ({ mean, deviation }) => {
        const found = clippedNormal({ mean, deviation }, low, high);
        const wanted = drawn(mean, deviation, (x) => Math.min(Math.max(x, low), high));
        expect(Math.abs(found.mean - wanted.mean)).toBeLessThan(tolerance(deviation));
        expect(Math.abs(found.deviation - wanted.deviation)).toBeLessThan(2 * tolerance(deviation));
      }),
      { numRuns: 20, seed: 1 },
    );
  });

  test('LeakyRelu', () => {
    fc.assert(
      fc.property(parameters, fc.double({ min: -0.5, max: 1, noNaN: true }), ({ mean, deviation }, slope) => {
        const found = leakyNormal({ mean, deviation }, slope);
        const wanted = drawn(mean, deviation, (x) => (x >= 0 ? x : slope * x));
        expect(Math.abs(found.mean - wanted.mean)).toBeLessThan(tolerance(deviation));
        expect(Math.abs(found.deviation - wanted.deviation)).toBeLessThan(2 * tolerance(deviation));
      }),
      { numRuns: 20, seed: 2 },
    );
  });

  test('channels that do not vary', () => {
    expect(clippedNormal({ mean: 7, deviation: 0 }, 0, 6)).toEqual({ mean: 6, deviation: 0 });
    expect(clippedNormal({ mean: -50, deviation: 1 }, 0, 6)).toEqual({ mean: 0, deviation: 0 });
  });
});
