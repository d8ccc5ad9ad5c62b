/** Learned rounding: it begins with the codes it was given, follows gradients, and stays within format and type of scale. */
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import { dequantizeMatrix, roundStored } from '../kernel/index.ts';
import { solverOf } from './index.ts';
import { Adam, LearnedRounding, learnsFrom } from './learned-rounding.ts';

const [rows, columns] = [6, 40];

const gaussians = (count: number, seed: number) =>
  Float32Array.from({ length: count }, createGaussian(createRandom(seed)));

const quantized = (values: Float32Array, scheme: string): QuantizedMatrix =>
  solverOf('search').solve(values, rows, columns, parseScheme(scheme), {});

/** Squared error, and its gradient by the values. */
function errorOf(values: Float32Array, target: Float32Array) {
  const gradient = values.map((value, index) => 2 * (value - target[index]));
  return { error: gradient.reduce((sum, slope) => sum + slope * slope, 0) / 4, gradient };
}

describe('Adam', () => {
  it('takes first steps of the rate, against the gradient', () => {
    const numbers = Float32Array.of(1, 1, 1);
    new Adam(3).step(numbers, Float32Array.of(1e-6, -50, 0), 0.01);
    expect([...numbers].map((number) => number.toFixed(5))).toEqual(['0.99000', '1.01000', '1.00000']);
  });

  it('follows the formulas of the paper', () => {
    const numbers = Float32Array.of(0);
    const adam = new Adam(1);
    let [mean, square, expected] = [0, 0, 0];
    for (const [index, gradient] of [3, -1, 0.5, 2].entries()) {
      adam.step(numbers, Float32Array.of(gradient), 0.1);
      mean = 0.9 * mean + 0.1 * gradient;
      square = 0.999 * square + 0.001 * gradient ** 2;
      expected -= (0.1 * (mean / (1 - 0.9 ** (index + 1)))) / Math.sqrt(square / (1 - 0.999 ** (index + 1)));
    }
    expect(numbers[0]).toBeCloseTo(expected, 5);
  });
});

describe('LearnedRounding', () => {
  const weights = gaussians(rows * columns, 1);

  it.each(['int8:channel', 'int4:g16:asym', 'int2:g16', 'ternary:channel', 'uint8:tensor:asym'])(
    '%s: begins with the values it was given, whatever weights they are for',
    (scheme) => {
      const start = quantized(weights, scheme);
      for (const others of [weights, gaussians(rows * columns, 2)]) {
        const learned = new LearnedRounding(start, others);
        expect(learned.values).toEqual(dequantizeMatrix(start));
        expect(learned.matrix().codes).toEqual(start.codes);
      }
    },
  );

  it('learns scales: a target that is larger by a factor is reached, in steps of the stored type', () => {
    const start = quantized(weights, 'int4:g16:asym');
    const target = dequantizeMatrix(start).map((value) => value * 1.1);
    const learned = new LearnedRounding(start, weights);
    for (let step = 0; step < 300; step++) {
      learned.step(errorOf(learned.values, target).gradient, { codes: 0, scales: 0.002 * (1 - step / 300) });
    }
    const { scales, codes } = learned.matrix();
    expect(codes).toEqual(start.codes);
    for (const [index, scale] of scales.entries()) {
      expect(scale / start.scales[index]).toBeCloseTo(1.1, 2);
      expect(roundStored(scale, 'float16')).toBe(scale);
    }
  });

  it('learns codes: 8-bit weights follow a target that is elsewhere, within the format', () => {
    const start = quantized(weights, 'int8:channel');
    const target = weights.map((weight, index) => weight + 0.1 * Math.sin(index));
    const learned = new LearnedRounding(start, weights);
    const before = errorOf(learned.values, target).error;
    for (let step = 0; step < 200; step++) {
      learned.step(errorOf(learned.values, target).gradient, { codes: 0.2 * (1 - step / 200), scales: 0 });
    }
    const matrix = learned.matrix();
    expect(errorOf(learned.values, target).error).toBeLessThan(0.05 * before);
    expect(dequantizeMatrix(matrix)).toEqual(learned.values);
    expect(matrix.scales).toEqual(start.scales);
    expect(matrix.codes.every((code) => code >= -127 && code <= 127)).toBe(true);
  });

  it('keeps codes within the range however far the target is', () => {
    const start = quantized(weights, 'int8:channel');
    const learned = new LearnedRounding(start, weights);
    const far = weights.map((weight) => 100 * weight);
    for (let step = 0; step < 100; step++) learned.step(errorOf(learned.values, far).gradient, { codes: 5, scales: 0 });
    expect(learned.matrix().codes.every((code) => Math.abs(code) <= 127)).toBe(true);
  });

  it('refuses formats without integers and scales that are stored in steps', () => {
    const start = quantized(weights, 'nf4:g16');
    expect(learnsFrom(start)).toBe(false);
    expect(() => new LearnedRounding(start, weights)).toThrow('expected 6×40 integers with plain scales');
  });
});
