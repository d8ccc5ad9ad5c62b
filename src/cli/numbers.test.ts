import { describe, expect, it } from 'vitest';
import {
  bytes,
  bytesOf,
  count,
  decibels,
  duration,
  jsonText,
  measure,
  milliseconds,
  plural,
  ratio,
} from './numbers.ts';

describe('numbers', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [99_960, '100 kB'],
    [3_870_000, '3.87 MB'],
    [999_600, '1.00 MB'],
    [12_345_678, '12.3 MB'],
    [2_500_000_000, '2.50 GB'],
  ])('%i bytes are %s', (count, text) => {
    expect(bytes(count)).toBe(text);
  });

  it.each([
    [[0, 900], '0/900 B'],
    [[250, 1000], '0.3/1.0 kB'],
    [[812_000_000, 2_000_000_000], '0.8/2.0 GB'],
    [[1_500_000, 98_500_000], '1.5/98.5 MB'],
  ] as const)('%j bytes are %s', ([part, whole], text) => {
    expect(bytesOf(part, whole)).toBe(text);
  });

  it.each([
    [0.2, '1 s'],
    [59, '59 s'],
    [59.5, '1 min 0 s'],
    [200, '3 min 20 s'],
    [3599.5, '1 h 0 min'],
    [3_900, '1 h 5 min'],
  ])('%d seconds are %s', (seconds, text) => {
    expect(duration(seconds)).toBe(text);
  });

  it('are short, and never hide what is not finite', () => {
    expect([0, 1, 0.25, -0.30056, 12345.6, 123456, 0.00012].map(measure)).toEqual([
      '0',
      '1',
      '0.25',
      '-0.3006',
      '12346',
      '1.23e+5',
      '1.20e-4',
    ]);
    expect(measure(Number.POSITIVE_INFINITY)).toBe('Infinity');
    expect([32.46, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN].map(decibels)).toEqual([
      '32.5 dB',
      'exact',
      'not finite',
      'unknown',
    ]);
    expect([0.0934, 2.346, 26.71, 612.4].map(milliseconds)).toEqual(['0.093 ms', '2.35 ms', '26.7 ms', '612 ms']);
    expect([ratio(100, 40), ratio(153, 10), ratio(1, 0)]).toEqual(['2.50×', '15.3×', '–']);
    expect([0, 999, 1000, 1_234_567].map(count)).toEqual(['0', '999', '1,000', '1,234,567']);
    expect([plural(1, 'layer'), plural(1200, 'layer')]).toEqual(['1 layer', '1,200 layers']);
  });
});

describe('jsonText', () => {
  it('keeps infinities and NaN as texts', () => {
    const value = { a: Number.POSITIVE_INFINITY, b: [Number.NEGATIVE_INFINITY, Number.NaN, 1.5], c: null };
    expect(JSON.parse(jsonText(value))).toEqual({ a: 'Infinity', b: ['-Infinity', 'NaN', 1.5], c: null });
  });
});
