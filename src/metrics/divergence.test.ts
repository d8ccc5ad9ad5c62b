import { expect, test } from 'vitest';
import { createDivergenceMeter } from './divergence.ts';

const divergence = (a: readonly number[], b: readonly number[], classes = a.length) => {
  const meter = createDivergenceMeter();
  meter.add(Float32Array.from(a), Float32Array.from(b), classes);
  return meter.mean();
};

test('is that of two distributions', () => {
  const [p, q] = [
    [0.5, 0.25, 0.25],
    [0.25, 0.5, 0.25],
  ];
  const expected = p.reduce((sum, value, i) => sum + value * Math.log(value / q[i]), 0);
  expect(divergence(p, q)).toBeCloseTo(expected, 6);
  expect(divergence(p, p)).toBeCloseTo(0, 9);
});

test('takes scores as logits, whatever their level', () => {
  const scores = [2, -1, 0.5];
  expect(
    divergence(
      scores,
      scores.map((score) => score + 7),
    ),
  ).toBeCloseTo(0, 6);
  const softmax = (row: readonly number[]) => {
    const total = row.reduce((sum, value) => sum + Math.exp(value), 0);
    return row.map((value) => Math.exp(value) / total);
  };
  const other = [1, 0, 0.5];
  expect(divergence(scores, other)).toBeCloseTo(divergence(softmax(scores), softmax(other)), 5);
});

test('is the mean over rows, without those that hold no numbers', () => {
  expect(divergence([0, 0, 1, 3], [0, 0, 3, 1], 2)).toBeCloseTo(divergence([1, 3], [3, 1]) / 2, 6);
  expect(divergence([Number.NaN, 0, 1, 3], [0, 0, 3, 1], 2)).toBeCloseTo(divergence([1, 3], [3, 1]), 6);
  expect(createDivergenceMeter().mean()).toBeNaN();
});

test('classes that are never chosen cost nothing, and classes that must not be lost cost much', () => {
  expect(divergence([1, 0], [1, 0])).toBeCloseTo(0, 9);
  expect(divergence([1, 0], [0, 1])).toBeGreaterThan(20);
});
