/** Rounding: halves go to the even neighbour, everything else to the nearest. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { roundHalfToEven } from './round.ts';

describe('roundHalfToEven', () => {
  it('sends halves to the even neighbour', () => {
    const halves = [
      -3.5,
      -2.5,
      -1.5,
      -0.5,
      0.5,
      1.5,
      2.5,
      3.5,
      254.5,
      255.5,
      2 ** 50 + 0.5,
      2 ** 51 + 0.5,
      2 ** 51 + 1.5,
    ];
    const even = [-4, -2, -2, 0, 0, 2, 2, 4, 254, 256, 2 ** 50, 2 ** 51, 2 ** 51 + 2];
    expect(halves.map((value) => roundHalfToEven(value) + 0)).toEqual(even);
  });

  it('keeps integers, infinities and NaN', () => {
    for (const value of [0, 1, -7, 2 ** 51, 2 ** 52 + 1, -(2 ** 53), 1e300, Number.POSITIVE_INFINITY, Number.NaN]) {
      expect(roundHalfToEven(value)).toBe(value);
    }
  });

  it('is the nearest integer, the even one at a tie', () => {
    fc.assert(
      fc.property(fc.double({ min: -(2 ** 53), max: 2 ** 53, noNaN: true }), (value) => {
        const found = roundHalfToEven(value);
        const distance = Math.abs(found - value);
        return Number.isInteger(found) && (distance < 0.5 || (distance === 0.5 && found % 2 === 0));
      }),
      { numRuns: 2000 },
    );
  });
});
