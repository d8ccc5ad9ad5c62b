/** Minifloats against ml_dtypes: every code's value, and codes for all values, midpoints and their neighbours. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { bytesIn, oracleFolder } from '../../test/oracles.ts';
import {
  decodeMinifloat,
  decodePower,
  encodeMinifloat,
  encodePower,
  type MinifloatId,
  minifloatIds,
  minifloatValues,
} from './minifloat.ts';

const folder = oracleFolder('minifloat');

/** The names that ml_dtypes has for them. */
const oracleNames: Record<MinifloatId, string> = {
  float8e4m3fn: 'float8_e4m3fn',
  float8e4m3fnuz: 'float8_e4m3fnuz',
  float8e5m2: 'float8_e5m2',
  float8e5m2fnuz: 'float8_e5m2fnuz',
  float6e2m3: 'float6_e2m3fn',
  float6e3m2: 'float6_e3m2fn',
  float4e2m1: 'float4_e2m1fn',
};

function oracle(name: string): { values: Float32Array; inputs: Float32Array; codes: Uint8Array } {
  return {
    values: new Float32Array(bytesIn(join(folder!, `${name}.values.f32`))),
    inputs: new Float32Array(bytesIn(join(folder!, `${name}.in.f32`))),
    codes: new Uint8Array(bytesIn(join(folder!, `${name}.code.u8`))),
  };
}

describe.each(minifloatIds)('%s', (id) => {
  it('gives every code back', () => {
    minifloatValues(id).forEach((value, code) => {
      if (Number.isNaN(value)) expect(decodeMinifloat(id, encodeMinifloat(id, value))).toBeNaN();
      else expect(encodeMinifloat(id, value, false)).toBe(code);
    });
  });

  it('rounds to the nearest value, and at midpoints to the even code', () => {
    const codes = Array.from(minifloatValues(id), (value, code) => ({ value, code }))
      .filter(({ value }) => Number.isFinite(value) && !Object.is(value, -0))
      .sort((a, b) => a.value - b.value);
    for (let i = 0; i + 1 < codes.length; i++) {
      const [low, high] = [codes[i], codes[i + 1]];
      const middle = (low.value + high.value) / 2;
      const even = low.code % 2 === 0 ? low.value : high.value;
      expect(decodeMinifloat(id, encodeMinifloat(id, middle)) + 0).toBe(even + 0);
      expect(decodeMinifloat(id, encodeMinifloat(id, middle - Math.abs(middle) * 1e-9)) + 0).toBe(low.value + 0);
      expect(decodeMinifloat(id, encodeMinifloat(id, middle + Math.abs(middle) * 1e-9)) + 0).toBe(high.value + 0);
    }
  });

  it.skipIf(!folder)('decodes and encodes as ml_dtypes does', () => {
    const { values, inputs, codes } = oracle(oracleNames[id]);
    expect(minifloatValues(id)).toEqual(values);
    expect(inputs.length).toBe(codes.length);
    const { max } = { max: Math.max(...values.filter(Number.isFinite)) };
    inputs.forEach((input, i) => {
      if (Math.abs(input) <= max) expect([input, encodeMinifloat(id, input)]).toEqual([input, codes[i]]);
    });
  });
});

describe('beyond the largest value', () => {
  it('saturates, or not, as ONNX says', () => {
    const beyond = (id: MinifloatId, value: number) =>
      [true, false].map((on) => decodeMinifloat(id, encodeMinifloat(id, value, on)));
    expect(beyond('float8e4m3fn', 464)).toEqual([448, 448]);
    expect(beyond('float8e4m3fn', 465)).toEqual([448, Number.NaN]);
    expect(beyond('float8e4m3fn', Number.NEGATIVE_INFINITY)).toEqual([-448, Number.NaN]);
    expect(beyond('float8e4m3fnuz', 1e9)).toEqual([240, Number.NaN]);
    expect(beyond('float8e5m2', 61440)).toEqual([57344, Number.POSITIVE_INFINITY]);
    expect(beyond('float8e5m2', -1e9)).toEqual([-57344, Number.NEGATIVE_INFINITY]);
    expect(beyond('float8e5m2fnuz', 1e300)).toEqual([57344, Number.NaN]);
    expect(beyond('float4e2m1', 100)).toEqual([6, 6]);
    expect(beyond('float6e3m2', Number.NEGATIVE_INFINITY)).toEqual([-28, -28]);
  });

  it('has no minus zero in the fnuz formats', () => {
    expect(encodeMinifloat('float8e4m3fnuz', -0)).toBe(0);
    expect(encodeMinifloat('float8e4m3fnuz', -1e-9)).toBe(0);
    expect(encodeMinifloat('float8e4m3fn', -1e-9)).toBe(0x80);
  });
});

describe('float8e8m0', () => {
  it('is a bare exponent', () => {
    for (let code = 0; code < 255; code++) {
      const value = decodePower(code);
      expect(Math.log2(value)).toBe(code - 127);
      for (const rounding of ['up', 'down', 'nearest'] as const) expect(encodePower(value, rounding)).toBe(code);
    }
    expect(decodePower(255)).toBeNaN();
    expect(encodePower(Number.NaN)).toBe(255);
  });

  it('rounds up, down, and to the nearest with ties up', () => {
    const codes = (value: number) =>
      (['up', 'down', 'nearest'] as const).map((rounding) => encodePower(value, rounding));
    expect(codes(1.0001)).toEqual([128, 127, 127]);
    expect(codes(1.5)).toEqual([128, 127, 128]);
    expect(codes(3.9)).toEqual([129, 128, 129]);
    expect(codes(0)).toEqual([0, 0, 0]);
    expect(codes(3e38)).toEqual([254, 254, 254]);
    expect(encodePower(3e38, 'up', false)).toBe(255);
    expect(encodePower(Number.POSITIVE_INFINITY, 'up', false)).toBe(255);
    expect(() => encodePower(1.5, 'sideways' as 'up')).toThrow(
      'round_mode: expected up, down or nearest, got "sideways"',
    );
  });

  it.skipIf(!folder)('decodes as ml_dtypes does, and rounds to nearest as it does away from ties', () => {
    const { values, inputs, codes } = oracle('float8_e8m0fnu');
    expect(Float32Array.from({ length: 256 }, (_, code) => decodePower(code))).toEqual(values);
    let compared = 0;
    inputs.forEach((input, i) => {
      const fraction = input / 2 ** Math.floor(Math.log2(input));
      if (!(input > 2 ** -126 && input < 2 ** 127) || fraction === 1.5) return;
      compared++;
      expect([input, encodePower(input, 'nearest')]).toEqual([input, codes[i]]);
    });
    expect(compared).toBeGreaterThan(700);
  });
});
