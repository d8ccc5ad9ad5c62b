/** What every statistic promises, and the numbers of each: merging above all. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { histogram, maxBins } from './histogram.ts';
import { deviations, type HistogramState, type MomentsState, statisticOf, statistics } from './index.ts';

/** Any floats, with a taste for zeros, extremes and what is not finite. */
const anyValues = fc.array(
  fc.oneof(
    fc.float(),
    fc.float({ min: -10, max: 10, noNaN: true }),
    fc.constantFrom(
      0,
      -0,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      2 ** -149,
      3.4028234663852886e38,
    ),
  ),
  { maxLength: 40 },
);

/** Deep equality by text: far faster than `toEqual` on thousands of bins. */
const sameAs = (expected: unknown) => (found: unknown) => JSON.stringify(found) === JSON.stringify(expected);

const layoutOf = (values: ArrayLike<number>) => ({ outer: 1, channels: 1, inner: values.length });

describe.each(statistics)('$id', (statistic) => {
  const observing = (...batches: number[][]) => {
    const accumulator = statistic.create();
    for (const batch of batches) accumulator.observe(Float32Array.from(batch), layoutOf(batch));
    return accumulator;
  };

  it('survives empty batches, and nothing at all', () => {
    const nothing = observing().state();
    expect(observing([], []).state()).toEqual(nothing);
    expect(observing([]).state()).toEqual(JSON.parse(JSON.stringify(nothing)));
  });

  it('has a state that JSON and structuredClone keep, and that later batches do not change', () => {
    const accumulator = observing([1, -2, 0, 3.5], [0.25]);
    const state = accumulator.state();
    const copy = structuredClone(state);
    expect(JSON.parse(JSON.stringify(state))).toEqual(state);
    accumulator.observe(Float32Array.from([100]), layoutOf([100]));
    expect(state).toEqual(copy);
    expect(accumulator.state()).not.toEqual(copy);
  });

  it('merges into an empty one without loss', () => {
    const state = observing([1, -2, 0, 3.5], [0.25]).state();
    const other = statistic.create();
    other.merge(state);
    expect(other.state()).toEqual(state);
    other.merge(statistic.create().state());
    expect(other.state()).toEqual(state);
  });

  it('refuses the state of another statistic', () => {
    const other = statistics[(statistics.indexOf(statistic) + 1) % statistics.length];
    expect(() => statistic.create().merge(other.create().state())).toThrow(
      `statistic: expected a state of ${statistic.id}, got ${other.id}`,
    );
  });

  it('is found by its id', () => {
    expect(statisticOf(statistic.id)).toBe(statistic);
  });
});

it('unknown statistics are refused by listing the known ones', () => {
  expect(() => statisticOf('mode')).toThrow(
    'statistic: expected one of min-max, moving-average, histogram, moments, got "mode"',
  );
});

describe('min-max', () => {
  it('ignores what is not finite', () => {
    const accumulator = statisticOf('min-max').create();
    accumulator.observe(Float32Array.from([Number.NaN, 2, Number.NEGATIVE_INFINITY]));
    accumulator.observe(Float32Array.from([3, Number.POSITIVE_INFINITY]));
    expect(accumulator.state()).toEqual({ statistic: 'min-max', count: 2, min: 2, max: 3 });
  });
});

describe('moving-average', () => {
  const create = (averagingConstant: number) => statisticOf('moving-average').create({ averagingConstant });

  it('starts at the first batch and moves by the constant', () => {
    const accumulator = create(0.25);
    accumulator.observe(Float32Array.from([-4, 8]));
    accumulator.observe(Float32Array.from([0, 0]));
    accumulator.observe(Float32Array.from([-7, 10]));
    expect(accumulator.state()).toMatchObject({ batches: 3, min: -4, max: 7, first: [-4, 8] });
    expect(statisticOf('moving-average').create().state()).toMatchObject({ constant: 0.01 });
  });

  it('joins consecutive shards as if they had been one', () => {
    const batch = fc.array(fc.float({ min: -100, max: 100, noNaN: true }), { minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(fc.array(batch, { maxLength: 6 }), fc.array(batch, { maxLength: 6 }), (early, late) => {
        const [whole, first, second] = [create(0.1), create(0.1), create(0.1)];
        for (const values of early) for (const one of [whole, first]) one.observe(Float32Array.from(values));
        for (const values of late) for (const one of [whole, second]) one.observe(Float32Array.from(values));
        first.merge(second.state());
        const [a, b] = [first.state(), whole.state()] as { min: number; max: number; batches: number }[];
        expect(a.batches).toBe(b.batches);
        expect(a.min).toBeCloseTo(b.min, 9);
        expect(a.max).toBeCloseTo(b.max, 9);
      }),
    );
  });

  it('refuses impossible constants, and states of another one', () => {
    expect(() => create(0)).toThrow('averagingConstant: expected a number above 0 and up to 1, got 0');
    expect(() => create(0.5).merge(create(0.25).state())).toThrow('got constant 0.25');
  });
});

describe('moments', () => {
  it('knows mean and deviation of each channel, channels first or last', () => {
    const first = statisticOf('moments').create();
    first.observe(Float32Array.from([1, 3, 10, 10, 5, 7, 10, 10]), { outer: 2, channels: 2, inner: 2 });
    const last = statisticOf('moments').create();
    last.observe(Float32Array.from([1, 10, 3, 10, 5, 10, 7, 10]), { outer: 4, channels: 2, inner: 1 });
    expect(first.state()).toEqual({ statistic: 'moments', count: 4, mean: [4, 10], meanSquare: [21, 100] });
    expect(last.state()).toEqual(first.state());
    expect(deviations(first.state() as MomentsState)).toEqual([Math.sqrt(5), 0]);
  });

  it('merges to the same numbers', () => {
    const gaussian = createGaussian(createRandom(5));
    const batches = Array.from({ length: 4 }, () => Float32Array.from({ length: 60 }, gaussian));
    const layout = { outer: 4, channels: 3, inner: 5 };
    const [whole, left, right] = [0, 1, 2].map(() => statisticOf('moments').create());
    batches.forEach((batch, i) => {
      whole.observe(batch, layout);
      (i < 2 ? left : right).observe(batch, layout);
    });
    left.merge(right.state());
    const [merged, direct] = [left.state() as MomentsState, whole.state() as MomentsState];
    expect(merged.count).toBe(80);
    merged.mean.forEach((mean, channel) => {
      expect(mean).toBeCloseTo(direct.mean[channel], 12);
    });
  });

  it('needs a layout that stays the same', () => {
    const accumulator = statisticOf('moments').create();
    expect(() => accumulator.observe(Float32Array.from([1]))).toThrow('moments: expected a channel layout, got none');
    accumulator.observe(Float32Array.from([1, 2]), { outer: 1, channels: 2, inner: 1 });
    expect(() => accumulator.observe(Float32Array.from([1]), layoutOf([1]))).toThrow('expected 2 channels, got 1');
  });
});

describe('histogram', () => {
  const stateOf = (...batches: ArrayLike<number>[]): HistogramState => {
    const accumulator = histogram.create();
    for (const batch of batches) accumulator.observe(Float32Array.from(batch));
    return accumulator.state() as HistogramState;
  };

  it('is the same for any split of the values, in any order, merged in any order', () => {
    fc.assert(
      fc.property(fc.array(anyValues, { maxLength: 6 }), fc.integer({ min: 0, max: 99 }), (batches, seed) => {
        const whole = stateOf(batches.flat());
        const random = createRandom(seed);
        const shuffled = [...batches].sort(() => random() - 0.5);
        expect(stateOf(...shuffled)).toSatisfy(sameAs(whole));
        const shards = shuffled.map((batch) => stateOf(batch));
        const merged = histogram.create();
        for (const shard of shards) merged.merge(shard);
        expect(merged.state()).toSatisfy(sameAs(whole));
        const [head, ...tail] = shards;
        if (!head) return;
        const nested = histogram.create();
        for (const shard of tail) nested.merge(shard);
        nested.merge(head);
        expect(nested.state()).toSatisfy(sameAs(whole));
      }),
      { numRuns: 200 },
    );
  });

  it('counts every value once, in a bin that holds it', () => {
    fc.assert(
      fc.property(anyValues, (values) => {
        const state = stateOf(values);
        const floats = Array.from(Float32Array.from(values));
        const finite = floats.filter(Number.isFinite);
        expect(state.count).toBe(finite.length);
        expect(state.nan + state.positiveInfinity + state.negativeInfinity).toBe(floats.length - finite.length);
        expect(state.zeros).toBe(finite.filter((value) => value === 0).length);
        expect(state.counts.length).toBeLessThanOrEqual(maxBins);
        const counted = new Map<number, number>();
        for (const value of finite) {
          if (value === 0) continue;
          const bin = Math.floor(value / 2 ** state.exponent) - state.first;
          counted.set(bin, (counted.get(bin) ?? 0) + 1);
        }
        expect(state.counts.every((count, bin) => count === (counted.get(bin) ?? 0))).toBe(true);
        expect(state.counts.reduce((sum, count) => sum + count, 0)).toBe(state.count - state.zeros);
      }),
      { numRuns: 200 },
    );
  });

  it('is fine enough: at least 4096 bins between the extremes and zero', () => {
    const { exponent } = stateOf([0.1, 3]);
    expect(3 / 2 ** exponent).toBeGreaterThanOrEqual(maxBins / 2);
    const signed = stateOf([-2.9, 3]);
    expect(5.9 / 2 ** signed.exponent).toBeGreaterThanOrEqual(maxBins / 2);
  });

  it('spends no memory on a range that explodes', () => {
    const state = stateOf([1e-30], [1], [1e30], [-1e38]);
    expect(state.counts.length).toBeLessThanOrEqual(maxBins);
    expect(state.counts.reduce((sum, count) => sum + count, 0)).toBe(4);
  });
});
