/** float16 and bfloat16 against ml_dtypes, and every code there and back. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { bytesIn, oracleFolder } from '../../test/oracles.ts';
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from './half.ts';

const folder = oracleFolder('minifloat');

const types = [
  { name: 'float16', encode: floatToHalf, decode: halfToFloat },
  { name: 'bfloat16', encode: floatToBfloat, decode: bfloatToFloat },
] as const;

describe.each(types)('$name', ({ name, encode, decode }) => {
  it('gives every code back', () => {
    const codes = Array.from({ length: 65536 }, (_, code) => code);
    const wrong = codes.filter((code) => {
      const value = decode(code);
      const back = encode(value);
      return Number.isNaN(value) ? !Number.isNaN(decode(back)) : back !== code;
    });
    expect(wrong).toEqual([]);
  });

  it.skipIf(!folder)('rounds all values, midpoints and their neighbours as ml_dtypes does', () => {
    const inputs = new Float32Array(bytesIn(join(folder!, `${name}.in.f32`)));
    const expected = new Uint16Array(bytesIn(join(folder!, `${name}.code.u16`)));
    expect(inputs.length).toBe(expected.length);
    expect(Uint16Array.from(inputs, encode)).toEqual(expected);
  });
});

describe('half floats by hand', () => {
  it('knows the corners of float16', () => {
    const cases: [number, number][] = [
      [1, 0x3c00],
      [-2, 0xc000],
      [65504, 0x7bff],
      [65519.996, 0x7bff],
      [65520, 0x7c00],
      [2 ** -24, 1],
      [2 ** -25, 0],
      [1.0000001 * 2 ** -25, 1],
      [Number.NEGATIVE_INFINITY, 0xfc00],
      [-0, 0x8000],
    ];
    for (const [value, code] of cases) expect(floatToHalf(value)).toBe(code);
  });

  it('knows the corners of bfloat16', () => {
    const cases: [number, number][] = [
      [1, 0x3f80],
      [1 + 2 ** -8, 0x3f80],
      [1 + 3 * 2 ** -8, 0x3f82],
      [3.4028234663852886e38, 0x7f80],
      [-0, 0x8000],
    ];
    for (const [value, code] of cases) expect(floatToBfloat(value)).toBe(code);
  });
});
