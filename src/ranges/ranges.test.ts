/** What every range method promises, and what distinguishes each. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { intFormatOf } from '../formats/index.ts';
import { dequantizeValue, quantizeValue } from '../kernel/index.ts';
import { type StatisticState, statisticOf } from '../statistics/index.ts';
import { affineParameters, codeRange, type Interval, type Range, type RangeOptions, rangeOf, ranges } from './index.ts';

function collect(range: Range, values: Float32Array): StatisticState {
  const accumulator = statisticOf(range.needs).create();
  accumulator.observe(values);
  return accumulator.state();
}

function histogramOf(values: Float32Array): StatisticState {
  const accumulator = statisticOf('histogram').create();
  accumulator.observe(values);
  return accumulator.state();
}

const gaussian = createGaussian(createRandom(7));
const normal = Float32Array.from({ length: 2 ** 16 }, gaussian);
const rectified = normal.map((value) => Math.max(value, 0));
const withOutlier = Float32Array.from(normal);
withOutlier[11] = 50;

function squaredError(values: Float32Array, interval: Interval, { format, symmetric }: RangeOptions): number {
  const { scale, zeroPoint } = affineParameters(interval, format, symmetric);
  const { min, max } = codeRange(format, symmetric);
  return values.reduce((sum, value) => {
    const back = dequantizeValue(quantizeValue(value, scale, zeroPoint, min, max), scale, zeroPoint);
    return sum + (value - back) ** 2;
  }, 0);
}

const optionsOf = (id: string, symmetric = false): RangeOptions => ({ format: intFormatOf(id), symmetric });

describe.each(ranges)('$id', (range) => {
  it('gives parameters that work, for any values', () => {
    const values = fc.array(fc.oneof(fc.float(), fc.constantFrom(0, 1, -1)), { maxLength: 50 });
    const format = fc.constantFrom('int8', 'uint8', 'int4', 'uint2', 'int16', 'uint1');
    fc.assert(
      fc.property(values, format, fc.boolean(), (drawn, id, symmetric) => {
        const floats = Float32Array.from(drawn);
        const options = optionsOf(id, symmetric);
        for (const { min, max } of [
          range.choose(collect(range, floats), options),
          range.choose(histogramOf(floats), options),
          range.chooseFrom(floats, options),
        ]) {
          expect(Number.isFinite(min) && Number.isFinite(max) && min <= max).toBe(true);
          const { scale } = affineParameters({ min, max }, options.format, symmetric);
          expect(scale > 0 && Number.isFinite(scale)).toBe(true);
        }
      }),
      { numRuns: 150 },
    );
  });

  it('stays within what was seen', () => {
    for (const values of [normal, rectified, withOutlier]) {
      const bound = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      for (const symmetric of [false, true]) {
        const { min, max } = range.choose(collect(range, values), optionsOf('int8', symmetric));
        expect(min).toBeGreaterThanOrEqual(-bound);
        expect(max).toBeLessThanOrEqual(bound);
        expect(Math.max(-min, max)).toBeGreaterThan(1);
      }
    }
  });

  it('reads a histogram, if only that was collected', () => {
    expect(range.choose(histogramOf(normal), optionsOf('int8')).max).toBeGreaterThan(1);
  });

  it('refuses moments', () => {
    const state = statisticOf('moments').create().state();
    expect(() => range.choose(state, optionsOf('int8'))).toThrow(/^range: expected a .* state, got moments$/);
  });

  it('is found by its id', () => {
    expect(rangeOf(range.id)).toBe(range);
  });
});

it('unknown ranges are refused by listing the known ones', () => {
  expect(() => rangeOf('best')).toThrow(
    'range: expected one of min-max, moving-average, percentile, entropy, mse, got "best"',
  );
});

describe('percentile', () => {
  const range = rangeOf('percentile');
  const thousand = Float32Array.from({ length: 1000 }, (_, i) => i - 499.5);

  it('cuts half of the rest on each side, or all of it from the magnitudes', () => {
    for (const choose of [
      (options: RangeOptions) => range.choose(histogramOf(thousand), options),
      (options: RangeOptions) => range.chooseFrom(thousand, options),
    ]) {
      const asymmetric = choose({ ...optionsOf('int8'), percentile: 99 });
      expect(asymmetric.min).toBeCloseTo(-494.75, -0.4);
      expect(asymmetric.max).toBeCloseTo(494.75, -0.4);
      const symmetric = choose({ ...optionsOf('int8', true), percentile: 98 });
      expect(symmetric.max).toBeCloseTo(489.75, -0.4);
      expect(symmetric.min).toBe(-symmetric.max);
      expect(choose({ ...optionsOf('int8'), percentile: 100 })).toEqual({ min: -499.5, max: 499.5 });
    }
  });

  it('counts zeros as values', () => {
    const mostlyZero = new Float32Array(1000);
    mostlyZero[0] = 5;
    expect(range.choose(histogramOf(mostlyZero), { ...optionsOf('uint8'), percentile: 99 })).toEqual({
      min: 0,
      max: 0,
    });
    expect(range.choose(histogramOf(mostlyZero), { ...optionsOf('uint8'), percentile: 99.99 }).max).toBeCloseTo(5, 2);
  });

  it('ignores one outlier in many by default', () => {
    const many = Float32Array.from({ length: 2 ** 18 }, (_, i) => Math.sin(i));
    many[3] = 1000;
    expect(range.choose(histogramOf(many), optionsOf('int8')).max).toBeLessThan(1.3);
  });

  it('refuses impossible percentages', () => {
    expect(() => range.choose(histogramOf(normal), { ...optionsOf('int8'), percentile: 101 })).toThrow(
      'percentile: expected a number above 0 and up to 100, got 101',
    );
  });
});

describe('mse', () => {
  const range = rangeOf('mse');

  it('finds the optimal clipping of a Gaussian', () => {
    // Optimal loading of uniform quantizers (Max 1960, table II; restricted grids: ALGORITHMS 2.6): 15 levels near 2.5 σ.
    const four = range.choose(histogramOf(normal), optionsOf('int4', true));
    expect(four.max).toBeGreaterThan(2.3);
    expect(four.max).toBeLessThan(2.7);
    const two = range.choose(histogramOf(normal), optionsOf('int2', true));
    expect(two.max).toBeGreaterThan(1.1);
    expect(two.max).toBeLessThan(1.35);
  });

  it('is no worse than min-max, from a histogram and from the values', () => {
    for (const values of [normal, rectified, withOutlier]) {
      for (const id of ['int8', 'uint4', 'int2']) {
        for (const symmetric of [false, true]) {
          const options = optionsOf(id, symmetric);
          const least = squaredError(values, rangeOf('min-max').chooseFrom(values, options), options);
          expect(squaredError(values, range.choose(histogramOf(values), options), options)).toBeLessThanOrEqual(least);
          const some = values.subarray(0, 4096);
          expect(squaredError(some, range.chooseFrom(some, options), options)).toBeLessThanOrEqual(
            squaredError(some, rangeOf('min-max').chooseFrom(some, options), options),
          );
        }
      }
    }
  });

  it('shrinks only the side that pays', () => {
    const { min, max } = range.choose(histogramOf(withOutlier), optionsOf('uint4'));
    expect(max).toBeLessThan(4);
    expect(min).toBeLessThan(-1.5);
  });
});

describe('entropy', () => {
  const range = rangeOf('entropy');

  it('cuts outliers and keeps the bulk, symmetric and not, one-sided and not', () => {
    const cut = range.choose(histogramOf(withOutlier), optionsOf('int8', true));
    expect(cut.max).toBeLessThan(20);
    expect(cut.max).toBeGreaterThan(2.5);
    const oneSided = rectified.map((value, i) => (i === 5 ? 50 : value));
    const positive = range.choose(histogramOf(oneSided), optionsOf('uint8'));
    expect(positive.min).toBe(0);
    expect(positive.max).toBeLessThan(30);
    const skewed = range.choose(histogramOf(withOutlier), optionsOf('uint4'));
    expect(skewed.max).toBeLessThan(8);
    expect(skewed.min).toBeLessThan(-1.5);
  });

  it('clips a Gaussian little at 8 bits and more at 4', () => {
    const eight = range.choose(histogramOf(normal), optionsOf('int8', true));
    const four = range.choose(histogramOf(normal), optionsOf('int4', true));
    expect(eight.max).toBeGreaterThan(3.5);
    expect(four.max).toBeLessThan(eight.max);
    expect(four.max).toBeGreaterThan(2);
  });
});
