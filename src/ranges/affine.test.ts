/** Scale and zero point: known values, and what must hold for any interval. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatOf, formats, type IntFormat, intFormatOf, type LevelsFormat } from '../formats/index.ts';
import { dequantizeValue, quantizeValue } from '../kernel/index.ts';
import { affineParameters, codeRange } from './affine.ts';

const integers: IntFormat[] = formats.filter((format) => format.kind === 'int');
const f = Math.fround;

describe('affineParameters', () => {
  it('has the values of ONNX and ONNX Runtime', () => {
    const of = (id: string, min: number, max: number, symmetric: boolean, reduceRange = false) => {
      const { scale, zeroPoint } = affineParameters({ min, max }, intFormatOf(id), symmetric, { reduceRange });
      return [scale, zeroPoint];
    };
    expect(of('uint8', -3, 2, false)).toEqual([f(5 / 255), 153]);
    expect(of('int8', -3, 2, false)).toEqual([f(5 / 255), 25]);
    expect(of('int8', -3, 2, true)).toEqual([f(3 / 127), 0]);
    expect(of('uint8', -3, 2, true)).toEqual([f(3 / 127), 128]);
    expect(of('int16', -3, 2, true)).toEqual([f(3 / 32767), 0]);
    expect(of('int4', 0, 15, false)).toEqual([1, -8]);
    expect(of('int8', -3, 2, true, true)).toEqual([f(3 / 64), 0]);
    expect(of('int8', -3, 2, false, true)).toEqual([f(5 / 128), 13]);
    expect(of('uint8', 0, 2, false, true)).toEqual([f(2 / 127), 0]);
    expect(of('int4', -3, 2, true, true)).toEqual([f(3 / 7), 0]);
    expect(of('int1', -3, 2, true)).toEqual([6, 0.5]);
  });

  it('gives floats the scale that takes the larger side to their largest number, and no zero point', () => {
    const of = (id: string, min: number, max: number) =>
      affineParameters({ min, max }, formatOf(id) as LevelsFormat, false);
    expect(of('float8e4m3fn', -3, 2)).toEqual({ scale: f(3 / 448), zeroPoint: 0 });
    expect(of('float8e5m2', 1, 2)).toEqual({ scale: f(2 / 57344), zeroPoint: 0 });
    expect(of('float8e4m3fnuz', -3, 2)).toEqual({ scale: f(3 / 240), zeroPoint: 0 });
    expect(of('float8e5m2', 0, 0)).toEqual({ scale: 1, zeroPoint: 0 });
    expect(of('float8e4m3fn', Number.NEGATIVE_INFINITY, 0).scale).toBe(f(3.4028234663852886e38 / 448));
  });

  it('adds zero to intervals beside it', () => {
    const { scale, zeroPoint } = affineParameters({ min: 2, max: 4 }, intFormatOf('uint8'), false);
    expect([scale, zeroPoint]).toEqual([f(4 / 255), 0]);
    expect(affineParameters({ min: -4, max: -2 }, intFormatOf('uint8'), false).zeroPoint).toBe(255);
  });

  it('gives scale 1 where there is no range', () => {
    for (const format of integers) {
      for (const [min, max] of [
        [0, 0],
        [-1e-45, 1e-45],
        [Number.NaN, Number.NaN],
      ]) {
        expect(affineParameters({ min, max }, format, false)).toEqual({ scale: 1, zeroPoint: format.min });
        expect(affineParameters({ min, max }, format, true).scale).toBe(1);
      }
    }
  });

  it('refuses intervals the wrong way round', () => {
    expect(() => affineParameters({ min: 1, max: -1 }, intFormatOf('int8'), true)).toThrow(
      'range: expected min ≤ max, got 1 and -1',
    );
  });

  it('is always usable: scale normal and positive, zero exact, bounds within half a step', () => {
    const cases = fc.record({
      format: fc.constantFrom(...integers),
      symmetric: fc.boolean(),
      reduceRange: fc.boolean(),
      bounds: fc.tuple(fc.float({ noNaN: true }), fc.float({ noNaN: true })),
    });
    fc.assert(
      fc.property(cases, ({ format, symmetric, reduceRange, bounds }) => {
        const [min, max] = [Math.min(...bounds), Math.max(...bounds)];
        const { scale, zeroPoint } = affineParameters({ min, max }, format, symmetric, { reduceRange });
        expect(scale).toBeGreaterThanOrEqual(2 ** -126);
        expect(scale).toBeLessThan(Number.POSITIVE_INFINITY);
        expect(f(scale)).toBe(scale);
        const codes = codeRange(format, symmetric, { reduceRange });
        expect(zeroPoint).toBeGreaterThanOrEqual(codes.min);
        expect(zeroPoint).toBeLessThanOrEqual(codes.max);
        if (format.bits === 1 && symmetric) return;
        const back = (value: number) =>
          dequantizeValue(quantizeValue(value, scale, zeroPoint, codes.min, codes.max), scale, zeroPoint);
        expect(back(0)).toBe(0);
        for (const bound of [min, max]) {
          if (!(Math.abs(bound) < 1e38)) continue;
          expect(Math.abs(back(bound) - bound)).toBeLessThanOrEqual(scale * (symmetric ? 0.51 : 1.01));
        }
      }),
      { numRuns: 3000 },
    );
  });
});
