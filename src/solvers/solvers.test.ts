/** What every solver promises, for every format, granularity and kind of weight. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { formatIds, formats, intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { formatScheme, parseScheme, type Scheme } from '../formats/scheme.ts';
import { dequantizeMatrix, matrixError, quantizeMatrix } from '../kernel/index.ts';
import { floatToHalf, halfToFloat } from '../tensor/half.ts';
import { solverOf, solvers } from './index.ts';

const gaussian = createGaussian(createRandom(3));
const integerIds = formatIds.filter((id) => formats.find((format) => format.id === id)!.kind === 'int');

const schemeTexts = integerIds.flatMap((id) => {
  const shapes = ['tensor', 'channel', 'g16'];
  if (id === 'ternary') return shapes.map((shape) => `${id}:${shape}:sym`);
  const kinds = id.endsWith('int1') ? ['sym', 'asym'] : ['sym', 'asym', 'asym:float-zero'];
  return shapes.flatMap((shape) => kinds.map((kind) => `${id}:${shape}:${kind}`));
});

/** Weights that have caused trouble: dead, constant, tiny, huge, one outlier, one sign. */
const rows = 7;
const columns = 40;
const awkward = Float32Array.from({ length: rows * columns }, (_, i) => {
  const row = Math.floor(i / columns);
  const value = gaussian();
  return [value, 0, 0.75, value * 1e-3, Math.abs(value), i % columns === 3 ? 30 : value * 0.01, -Math.abs(value) - 2][
    row
  ];
});

function checkMatrix(matrix: QuantizedMatrix, scheme: Scheme): void {
  const format = intFormatOf(scheme.format);
  expect(matrix.codes.every((code) => code >= format.min && code <= format.max)).toBe(true);
  expect(matrix.scales.every((scale) => Number.isFinite(scale) && Math.abs(scale) >= 2 ** -126)).toBe(true);
  expect(matrix.scales.length).toBe(matrix.zeroPoints.length);
  if (matrix.scheme.scaleType === 'float16') {
    expect(matrix.scales.every((scale) => halfToFloat(floatToHalf(scale)) === scale)).toBe(true);
    expect(matrix.scales.every((scale) => Math.abs(scale) >= 2 ** -20)).toBe(true);
  }
  if (scheme.zeroPointType === 'integer') {
    expect(matrix.zeroPoints.every((zero) => Number.isInteger(zero) && zero >= format.min && zero <= format.max)).toBe(
      true,
    );
  }
  expect(dequantizeMatrix(matrix).every(Number.isFinite)).toBe(true);
}

describe.each(solvers)('$id', (solver) => {
  it.each(schemeTexts)('%s: valid codes and parameters, codes computed with the scale as stored', (text) => {
    const scheme = parseScheme(text);
    const matrix = solver.solve(awkward, rows, columns, scheme);
    checkMatrix(matrix, scheme);
    expect({ ...matrix.scheme, scaleType: scheme.scaleType }).toEqual(scheme);
    const again = quantizeMatrix(awkward, rows, columns, matrix.scheme, matrix.scales, matrix.zeroPoints);
    const inside = again.codes.every((code, i) => code === matrix.codes[i] || code === intFormatOf(scheme.format).min);
    expect(inside).toBe(true);
    expect(solver.solve(awkward, rows, columns, scheme)).toEqual(matrix);
  });

  it('never crashes on finite weights', () => {
    const scheme = fc.constantFrom(...schemeTexts).map(parseScheme);
    const weights = fc.array(fc.oneof(fc.float({ noNaN: true, noDefaultInfinity: true }), fc.constant(0)), {
      minLength: 1,
      maxLength: 40,
    });
    fc.assert(
      fc.property(scheme, weights, (drawn, values) => {
        if (values.some((value) => Math.abs(value) > 1e38)) return;
        checkMatrix(solver.solve(Float32Array.from(values), 1, values.length, drawn), drawn);
      }),
      { numRuns: 500 },
    );
  });

  it('is exact where the codes suffice', () => {
    const codes = Float32Array.from({ length: 64 }, (_, i) => ((i * 7) % 16) - 8);
    for (const text of ['int4:g16:asym', 'int4:channel:asym', 'uint4:tensor:asym']) {
      const values = codes.map((code) => code * 0.125);
      expect(dequantizeMatrix(solver.solve(values, 2, 32, parseScheme(text)))).toEqual(values);
    }
    const two = Float32Array.from({ length: 64 }, (_, i) => (i % 3 === 0 ? 0.75 : -0.25));
    expect(dequantizeMatrix(solver.solve(two, 2, 32, parseScheme('uint1')))).toEqual(two);
    const mirrored = two.map((value) => Math.sign(value) * 0.5);
    expect(dequantizeMatrix(solver.solve(mirrored, 2, 32, parseScheme('int1')))).toEqual(mirrored);
  });

  it('leaves zeros at zero, and dead rows too', () => {
    for (const text of ['int4:g16:sym', 'int4:g16:asym', 'uint4:g16:sym', 'int8:channel:sym', 'int2:tensor:asym']) {
      const back = dequantizeMatrix(solver.solve(awkward, rows, columns, parseScheme(text)));
      expect(back.subarray(columns, 2 * columns).every((value) => value === 0)).toBe(true);
    }
  });

  it('keeps dead rows next to zero even with two levels', () => {
    for (const text of ['int1:g16', 'uint1:g16', 'int1:channel']) {
      const back = dequantizeMatrix(solver.solve(awkward, rows, columns, parseScheme(text)));
      expect(back.subarray(columns, 2 * columns).every((value) => Math.abs(value) < 1e-4)).toBe(true);
    }
  });

  it('keeps symmetric 8 and 16 bits within ±127 and ±32767, with positive scales', () => {
    for (const [text, bound] of [
      ['int8', 127],
      ['int16', 32767],
    ] as const) {
      const { codes, scales, zeroPoints } = solver.solve(awkward, rows, columns, parseScheme(text));
      expect(codes.every((code) => Math.abs(code) <= bound)).toBe(true);
      expect(scales.every((scale) => scale > 0)).toBe(true);
      expect(zeroPoints.every((zero) => zero === 0)).toBe(true);
    }
    const unsigned = solver.solve(awkward, rows, columns, parseScheme('uint8:sym'));
    expect(unsigned.zeroPoints.every((zero) => zero === 128)).toBe(true);
    expect(unsigned.codes.every((code) => code >= 1)).toBe(true);
  });

  it('uses half of the codes if asked to', () => {
    const { codes } = solver.solve(awkward, rows, columns, parseScheme('int8'), { reduceRange: true });
    expect(codes.every((code) => Math.abs(code) <= 64)).toBe(true);
    expect(codes.some((code) => Math.abs(code) > 32)).toBe(true);
    const unsigned = solver.solve(awkward, rows, columns, parseScheme('uint8'), { reduceRange: true });
    expect(unsigned.codes.every((code) => code <= 127)).toBe(true);
  });

  it('turns to float32 scales where float16 cannot hold them', () => {
    const tiny = awkward.map((value) => value * 1e-7);
    expect(solver.solve(awkward, rows, columns, parseScheme('int4')).scheme.scaleType).toBe('float16');
    expect(solver.solve(tiny, rows, columns, parseScheme('int4')).scheme.scaleType).toBe('float32');
    for (const text of ['int1', 'uint1']) {
      const matrix = solver.solve(tiny, rows, columns, parseScheme(text));
      expect(matrix.scheme.scaleType).toBe('float32');
      expect(dequantizeMatrix(matrix).every((value) => Math.abs(value) < 0.01)).toBe(true);
    }
    const huge = awkward.map((value) => value * 1e6);
    const matrix = solver.solve(huge, rows, columns, parseScheme('int4'));
    expect(matrix.scheme.scaleType).toBe('float32');
    expect(formatScheme(matrix.scheme)).toBe('int4:g32:asym:scale32');
  });

  it('refuses what it cannot quantize', () => {
    const scheme = parseScheme('int4');
    const broken = Float32Array.from([1, Number.NaN, Number.POSITIVE_INFINITY, 2]);
    expect(() => solver.solve(broken, 1, 4, scheme)).toThrow(
      'weights: expected finite numbers, got 1 NaN and 1 infinite',
    );
    expect(() => solver.solve(broken, 2, 4, scheme)).toThrow('weights: expected 2×4 numbers, got 4');
    expect(() => solver.solve(new Float32Array(4), 1, 4, parseScheme('float16'))).toThrow('expected an integer format');
    const importance = (values: number[]) => () =>
      solver.solve(new Float32Array(4), 1, 4, scheme, { importance: Float32Array.from(values) });
    expect(importance([1, 2])).toThrow('importance: expected 4 numbers, got 2');
    expect(importance([1, 2, -1, 0])).toThrow('importance: expected finite numbers of at least 0, got -1');
    expect(importance([0, 0, 0, 0])).not.toThrow();
  });

  it('is found by its id', () => {
    expect(solverOf(solver.id)).toBe(solver);
  });
});

it('unknown solvers are refused by listing the known ones', () => {
  expect(() => solverOf('magic')).toThrow('solver: expected one of rtn, search, hqq, got "magic"');
});

describe('rtn', () => {
  const values = Float32Array.from({ length: 4096 }, gaussian);

  it('has the closed-form parameters of min-max', () => {
    const line = Float32Array.from([-1, 0.5, 2, 0]);
    const signed = solverOf('rtn').solve(line, 1, 4, parseScheme('int8'));
    expect(signed.scales[0]).toBe(Math.fround(2 / 127));
    expect(Array.from(signed.codes)).toEqual([-64, 32, 127, 0]);
    const unsigned = solverOf('rtn').solve(line, 1, 4, parseScheme('uint4:tensor'));
    expect(unsigned.scales[0]).toBe(Math.fround(3 / 15));
    expect(Array.from(unsigned.zeroPoints)).toEqual([5]);
    expect(Array.from(unsigned.codes)).toEqual([0, 7, 15, 5]);
  });

  it('takes any range of the weights', () => {
    const error = (range: 'min-max' | 'mse' | 'percentile' | 'entropy') =>
      matrixError(
        values,
        solverOf('rtn').solve(values, 4, 1024, parseScheme('int4:channel'), { range, percentile: 99 }),
      );
    expect(error('mse')).toBeLessThan(0.9 * error('min-max'));
    expect(error('percentile')).toBeLessThan(error('min-max'));
    expect(error('entropy')).toBeGreaterThan(0);
  });
});
