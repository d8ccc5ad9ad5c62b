/** Fixed levels against their tables and closed forms. */
import { describe, expect, it } from 'vitest';
import { formatOf, formats, type LevelsFormat } from './index.ts';

const levelsOf = (id: string) => {
  const format = formatOf(id) as LevelsFormat;
  return format.levels;
};

const ascending = (id: string) => [...levelsOf(id)].filter(Number.isFinite).sort((a, b) => a - b);

describe.each(formats.filter((format) => format.kind === 'levels'))('$id', ({ levels, bits }) => {
  it('has a level or NaN for every code, zero among them, each level once', () => {
    expect(levels.length).toBe(2 ** bits);
    const finite = levels.filter(Number.isFinite).map((level) => level + 0);
    expect(finite.includes(0)).toBe(true);
    const zeros = finite.filter((level) => level === 0).length;
    expect(new Set(finite).size).toBe(finite.length - (zeros - 1));
  });
});

it('powers of two are powers of two', () => {
  expect(ascending('pot3')).toEqual([-1, -0.5, -0.25, 0, 0.25, 0.5, 1]);
  expect(ascending('pot4').filter((level) => level > 0)).toEqual([1, 2, 4, 8, 16, 32, 64].map((n) => n / 64));
  expect(levelsOf('pot5').length).toBe(32);
  expect(ascending('pot5')[30]).toBe(1);
  expect(ascending('pot5')[16]).toBe(2 ** -14);
});

it('additive powers of two are sums of the powers of the paper, scaled to one', () => {
  // Li, Dong & Wang 2020: {0, 2^-1, 2^-2, 2^-4} + {0, 2^-3}; the largest is 5/8.
  const three = [0, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8].map((sum) => Math.fround(sum / 0.625));
  expect(ascending('apot4').filter((level) => level >= 0)).toEqual(three);
  // {0, 2^-1, 2^-3, 2^-5} + {0, 2^-2, 2^-4, 2^-6}: the odd and the even powers.
  const [odd, even] = [
    [0, 1 / 2, 1 / 8, 1 / 32],
    [0, 1 / 4, 1 / 16, 1 / 64],
  ];
  const sums = odd.flatMap((a) => even.map((b) => a + b)).sort((a, b) => a - b);
  expect(ascending('apot5').filter((level) => level >= 0)).toEqual(sums.map((sum) => Math.fround(sum / 0.75)));
  expect(ascending('apot8').length).toBe(255);
});

it('nf4 is made of quantiles of the normal distribution', () => {
  const levels = levelsOf('nf4');
  // QLoRA, appendix E: the quantiles at 8 even steps up from 1/2 to 0.9677, divided by the last; 7 downwards.
  expect(levels[8] / levels[15]).toBeCloseTo(0.0796, 4);
  expect(levels[0]).toBe(-1);
  expect(levels[7]).toBe(0);
  expect([...levels].every((level, index) => index === 0 || level > levels[index - 1])).toBe(true);
});

it('fp4 has the twelfths of bitsandbytes', () => {
  expect([...levelsOf('fp4')].slice(0, 8)).toEqual([0, 0.0625, 8, 12, 4, 6, 2, 3].map((n) => Math.fround(n / 12)));
  expect(levelsOf('fp4')[8]).toBeNaN();
  expect(levelsOf('fp4')[11]).toBe(-1);
});
