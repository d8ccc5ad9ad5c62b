/** Levels, codebooks, ternary and sums of signs: published signal-to-noise ratios, exact optima, and what never fails. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { formatIds, formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { formatScheme, isAffine, parseScheme } from '../formats/scheme.ts';
import { blockLayout, dequantizeMatrix, matrixError, signalToNoise } from '../kernel/index.ts';
import { floatToHalf, halfToFloat } from '../tensor/half.ts';
import { solverOf } from './index.ts';

const count = 2 ** 17;
const columns = 1024;
const normal = Float32Array.from({ length: count }, createGaussian(createRandom(1)));
const uniform = createRandom(2);
const laplace = normal.map(() => {
  const u = uniform() - 0.5;
  return -Math.sign(u) * Math.log(1 - 2 * Math.abs(u));
});

const solve = (values: Float32Array, width: number, text: string, solver = 'search') =>
  solverOf(solver).solve(values, values.length / width, width, parseScheme(text));
const decibels = (values: Float32Array, text: string) => signalToNoise(values, solve(values, columns, text));

describe('signal to noise', () => {
  // ALGORITHMS, appendix A and section 1.7.
  it.each([
    ['nf4:g16', 21.85, undefined],
    ['nf4:g32', 21.19, 20.63],
    ['nf4:g64', 20.73, undefined],
    ['nf4:g128', 20.39, 18.92],
    ['mxfp4:g16', 18.6, undefined],
    ['mxfp4:g32', 18.78, 17.95],
    ['nvfp4:g16', 20.43, undefined],
    ['nvfp4:g32', 19.85, undefined],
    ['ternary:g16', 7.82, undefined],
    ['ternary:g32', 7.5, undefined],
    ['ternary:g128', 7.27, 5.93],
    ['int1:g16', 4.68, undefined],
    ['int1:g32', 4.53, undefined],
    ['kmeans2:g128', undefined, 7.53],
    ['kmeans3:g128', undefined, 13.22],
    ['kmeans4:g128', undefined, 18.97],
  ] as const)('%s: %s dB of a Gaussian, %s of a Laplace distribution', (text, gaussian, other) => {
    if (gaussian !== undefined) expect(decibels(normal, text)).toBeGreaterThan(gaussian - 0.1);
    if (other !== undefined) expect(decibels(laplace, text)).toBeGreaterThan(other - 0.1);
  });

  // Max 1960, table I; the Laplace values are the closed form of the same conditions.
  it.each([
    [2, 9.3, 7.54],
    [3, 14.62, 12.64],
    [4, 20.22, 18.13],
  ])('k-means of %s bits is the Lloyd-Max quantizer: %s dB, %s dB', (bits, gaussian, other) => {
    expect(Math.abs(decibels(normal, `kmeans${bits}:tensor`) - gaussian)).toBeLessThan(0.1);
    expect(Math.abs(decibels(laplace, `kmeans${bits}:tensor`) - other)).toBeLessThan(0.15);
  });

  it('of more signs grows, and two signs are the symmetric optimum of four levels', () => {
    const [one, two, three] = ['int1:channel', 'binary2:channel', 'binary3:channel'].map((text) =>
      decibels(normal, text),
    );
    expect(Math.abs(one - 4.4)).toBeLessThan(0.1);
    expect(Math.abs(two - 9.3)).toBeLessThan(0.1);
    expect(three).toBeGreaterThan(13.5);
    expect(three).toBeLessThan(14.7);
  });

  it('loses next to nothing to double quantization of scales', () => {
    for (const text of ['int4:g32', 'nf4:g32', 'binary2:g32', 'kmeans3:g32']) {
      expect(decibels(normal, `${text}:scale8`)).toBeGreaterThan(decibels(normal, text) - 0.1);
    }
  });

  it('is better searched than covered', () => {
    for (const text of ['nf4:g32', 'mxfp4', 'nvfp4', 'pot4', 'float6e3m2:g32', 'mxint8']) {
      const covered = solve(normal, columns, text, 'rtn');
      expect(matrixError(normal, solve(normal, columns, text))).toBeLessThanOrEqual(matrixError(normal, covered));
    }
  });
});

describe('ternary', () => {
  it('is the best of all splits of a group', () => {
    fc.assert(
      fc.property(fc.array(fc.float({ noNaN: true, min: -8, max: 8 }), { minLength: 1, maxLength: 12 }), (drawn) => {
        const values = Float32Array.from(drawn, (x) => (Math.abs(x) < 0.01 ? 0 : x));
        if (values.every((x) => x === 0)) return;
        const found = matrixError(values, solve(values, values.length, 'ternary:channel'));
        const sorted = [...values].map(Math.abs).sort((a, b) => b - a);
        let best = Number.POSITIVE_INFINITY;
        let sum = 0;
        const energy = sorted.reduce((total, x) => total + x * x, 0);
        sorted.forEach((x, index) => {
          sum += x;
          best = Math.min(best, energy - (sum * sum) / (index + 1));
        });
        expect(found).toBeLessThanOrEqual(best + 1e-5 * energy);
      }),
    );
  });

  it('uses −1, 0 and 1 alone', () => {
    const { codes, zeroPoints } = solve(normal.subarray(0, 4096), 256, 'ternary');
    expect([...new Set(codes)].sort()).toEqual([-1, 0, 1].sort());
    expect(zeroPoints.every((zero) => zero === 0)).toBe(true);
  });
});

/** Weights that have caused trouble: dead, constant, tiny, huge, one outlier, one sign. */
const awkward = Float32Array.from({ length: 7 * 40 }, (_, i) => {
  const value = normal[i];
  const row = Math.floor(i / 40);
  return [value, 0, 0.75, value * 1e-3, Math.abs(value), i % 40 === 3 ? 30 : value * 0.01, -Math.abs(value) - 2][row];
});

const schemes = formatIds
  .filter((id) => formatOf(id).kind !== 'float' && formatOf(id).bits <= 8 && id !== 'uint1')
  .flatMap((id) => [`${id}:tensor`, `${id}:channel`, `${id}:g16`, `${id}:g16:scale8`, `${id}:g16:sym:scale-e8m0`])
  .concat([
    'mxfp4',
    'nvfp4',
    'mxint8',
    'int4:g16:sym:scale-e4m3',
    'kmeans3:g16:scale-e4m3',
    'apot6:g16:scale-e4m3',
    'binary3:g16:scale-e4m3',
  ])
  .filter((text) => !isAffine(parseScheme(text)));

function checkScales({ scheme, scales, factors, rows }: QuantizedMatrix): void {
  const perFactor = scales.length / (factors?.length ?? 1);
  scales.forEach((scale, index) => {
    expect(Number.isFinite(scale)).toBe(true);
    const multiple = scale / (factors?.[Math.floor(index / perFactor)] ?? 1);
    if (scheme.scaleType === 'float16') expect(halfToFloat(floatToHalf(scale))).toBe(scale);
    if (scheme.scaleType === 'float8e8m0') expect(Number.isInteger(Math.log2(scale))).toBe(true);
    if (scheme.scaleType === 'int8') {
      expect(Math.abs(multiple - Math.round(multiple))).toBeLessThan(1e-4);
      expect(Math.abs(Math.round(multiple))).toBeLessThanOrEqual(127);
    }
  });
  if (scheme.scaleType === 'int8') expect(factors?.length).toBe(rows);
  if (scheme.scaleType === 'float8e4m3fn') expect(factors?.length).toBe(1);
}

describe.each(schemes)('%s', (text) => {
  it('is solved with scales as stored and the nearest codes, the same every time', () => {
    for (const solver of ['rtn', 'search']) {
      const matrix = solve(awkward, 40, text, solver);
      checkScales(matrix);
      expect({ ...matrix.scheme, scaleType: '' }).toEqual({ ...parseScheme(text), scaleType: '' });
      const values = dequantizeMatrix(matrix);
      expect(values.every(Number.isFinite)).toBe(true);
      expect(solve(awkward, 40, text, solver)).toEqual(matrix);
      // Dead rows stay next to dead.
      const dead = values.subarray(40, 80);
      if (!text.includes('tensor')) expect(dead.every((value) => Math.abs(value) < 1e-3)).toBe(true);
      expect(blockLayout(matrix.scheme, 7, 40).columns * blockLayout(matrix.scheme, 7, 40).rows).toBe(280);
    }
  });
});

it('refuses weights that are not finite, and turns to float32 scales where float16 cannot hold them', () => {
  const broken = Float32Array.of(1, Number.NaN, 2, 3);
  for (const text of ['nf4', 'kmeans2', 'binary2', 'mxint8', 'ternary']) {
    expect(() => solve(broken, 4, text)).toThrow('weights: expected finite numbers, got 1 NaN');
    const huge = awkward.map((value) => value * 1e6);
    const { scheme } = solve(huge, 40, text);
    if (parseScheme(text).scaleType === 'float16') expect(scheme.scaleType).toBe('float32');
    expect(formatScheme(scheme)).toContain(text);
  }
});

it('follows importance', () => {
  const values = normal.subarray(0, 2048);
  const importance = Float32Array.from({ length: 32 }, (_, i) => (i % 4 === 0 ? 100 : 1));
  const weighted = (text: string, own?: Float32Array) => {
    const matrix = solverOf('search').solve(values, 64, 32, parseScheme(text), own ? { importance: own } : {});
    const back = dequantizeMatrix(matrix);
    return values.reduce((sum, value, i) => sum + importance[i % 32] * (value - back[i]) ** 2, 0);
  };
  for (const text of ['nf4', 'kmeans2:channel', 'kmeans3:g32', 'binary2', 'mxfp4', 'ternary']) {
    expect(weighted(text, importance)).toBeLessThan(weighted(text));
  }
});
