/** The nearest level, against trying all of them and against the rounding of minifloats. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formats } from '../formats/index.ts';
import { encodeMinifloat } from '../formats/minifloat.ts';
import { decodeLevels, decodeSigns, encodeLevels, Levels, levelsOf } from './levels.ts';

const fixed = formats.filter((format) => format.kind === 'levels');
const number = fc.oneof(
  fc.float({ noNaN: true, noDefaultInfinity: true }),
  fc.float({ noNaN: true, min: -2, max: 2 }),
  fc.float({ noNaN: true, min: -500, max: 500 }),
);

describe('Levels', () => {
  it.each(fixed)('$id: finds the nearest of all, with an index or without', ({ levels: table }) => {
    const plain = new Levels(table, false);
    const indexed = levelsOf(table);
    const finite = [...table].filter(Number.isFinite);
    fc.assert(
      fc.property(number, (x) => {
        const place = indexed.nearest(x);
        expect(plain.nearest(x)).toBe(place);
        const best = Math.min(...finite.map((level) => Math.abs(level - x)));
        expect(Math.abs(indexed.values[place] - x)).toBe(best);
        expect(table[indexed.codes[place]]).toBe(indexed.values[place]);
      }),
      { numRuns: 300 },
    );
  });

  it('rounds as minifloats do, ties included', () => {
    for (const { id, levels, dtype } of fixed) {
      if (!dtype) continue;
      const found = levelsOf(levels);
      const [low, high] = [found.values[0], found.values[found.values.length - 1]];
      const middles = [...found.values].slice(1).map((level, i) => (level + found.values[i]) / 2);
      for (const x of [...found.values, ...middles, low * 2, high * 2]) {
        const expected = levels[encodeMinifloat(dtype, x)];
        expect([id, x, found.values[found.nearest(x)]]).toEqual([id, x, expected === 0 ? 0 : expected]);
      }
    }
  });

  it('finds levels of any table, unsorted, repeated and single', () => {
    const table = Float32Array.of(3, -1, 3, Number.NaN, 0.5);
    const levels = new Levels(table, true);
    expect([...levels.values]).toEqual([-1, 0.5, 3]);
    expect([...levels.codes]).toEqual([1, 4, 0]);
    const codes = new Uint8Array(6);
    const layout = { rows: 2, columns: 3, blockSize: 3 };
    encodeLevels(Float32Array.of(-9, 0.1, 2, -18, 0.2, 4), layout, Float32Array.of(1, 2), levels, codes);
    expect([...codes]).toEqual([1, 4, 0, 1, 4, 0]);
    const values = new Float32Array(6);
    decodeLevels(codes, layout, Float32Array.of(1, 2), table, values);
    expect([...values]).toEqual([-1, 0.5, 3, -2, 1, 6]);
    expect(new Levels(Float32Array.of(7), true).nearest(-1e9)).toBe(0);
  });

  it('refuses tables without a level, and too long ones', () => {
    expect(() => new Levels(Float32Array.of(Number.NaN), false)).toThrow('expected 1 to 256 of them, got 0 of 1');
    expect(() => new Levels(new Float32Array(257), false)).toThrow('of 257');
  });

  it('takes the level of zero where the scale is zero', () => {
    const codes = new Uint8Array(2);
    const layout = { rows: 1, columns: 2, blockSize: 2 };
    encodeLevels(Float32Array.of(5, -5), layout, Float32Array.of(0), levelsOf(fixed[0].levels), codes);
    expect([...codes]).toEqual([0, 0]);
  });
});

it('decodeSigns adds scaled signs', () => {
  const values = new Float32Array(4);
  decodeSigns([0, 1, 2, 3], { rows: 1, columns: 4, blockSize: 4 }, Float32Array.of(2, 0.5), 2, values);
  expect([...values]).toEqual([-2.5, 1.5, -1.5, 2.5]);
});
