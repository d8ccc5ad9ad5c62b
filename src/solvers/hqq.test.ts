/** `hqq` gives what a plain transcription of its source gives, beats min-max rounding, and resists outliers. */
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { roundHalfToEven } from '../base/round.ts';
import { parseScheme } from '../formats/scheme.ts';
import { dequantizeMatrix, matrixError } from '../kernel/index.ts';
import { solverOf } from './index.ts';

const hqq = solverOf('hqq');
const [rows, columns] = [32, 256];

/** Gaussian weights, a few of them far out. */
const gaussian = createGaussian(createRandom(5));
const values = Float32Array.from({ length: rows * columns }, (_, i) => gaussian() * (i % 41 === 0 ? 4 : 1));

/**
 * `optimize_weights_proximal_legacy` of hqq/core/optimize.py for one group: codes from 0, the scale as its inverse, the
 * shrinkage of all errors, float32 where it keeps something; a list of all zero points that it comes by, and their mean errors.
 */
function published(weights: readonly number[], bits: number): { zero: number; error: number }[] {
  const top = 2 ** bits - 1;
  const [low, high] = [Math.min(...weights), Math.max(...weights)];
  const scale = 1 / Math.fround((high - low) / top);
  let zero = Math.fround(-low * scale);
  let beta = 10;
  const found: { zero: number; error: number }[] = [];
  for (let k = 0; k < 20; k++) {
    const codes = weights.map((w) => Math.min(Math.max(roundHalfToEven(w * scale + zero), 0), top));
    const errors = weights.map((w, i) => w - (codes[i] - zero) / scale);
    const error = errors.reduce((sum, e) => sum + Math.abs(e), 0) / weights.length;
    found.push({ zero, error });
    if (found.length > 1 && error >= found[found.length - 2].error) break;
    const shrunk = errors.map((e) => Math.sign(e) * Math.max(Math.abs(e) - Math.abs(e) ** (0.7 - 1) / beta, 0));
    zero = Math.fround(
      codes.reduce((sum, code, i) => sum + code - (weights[i] - shrunk[i]) * scale, 0) / weights.length,
    );
    beta *= 1.01;
  }
  return found;
}

describe('hqq', () => {
  it.each([2, 3, 4])('finds the zero points of the published algorithm at %i bits', (bits) => {
    const size = 64;
    const { zeroPoints, scales } = hqq.solve(
      values,
      rows,
      columns,
      parseScheme(`uint${bits}:g64:asym:float-zero:scale32`),
    );
    let moved = 0;
    zeroPoints.forEach((zeroPoint, group) => {
      const own = Array.from(values.subarray(group * size, (group + 1) * size));
      const steps = published(own, bits);
      const best = steps.reduce((least, step) => (step.error < least.error ? step : least));
      expect(Math.abs(zeroPoint - best.zero)).toBeLessThan(1e-4);
      if (best !== steps[0]) moved++;
      expect(scales[group]).toBeCloseTo((Math.max(...own) - Math.min(...own)) / (2 ** bits - 1), 6);
    });
    expect(moved).toBeGreaterThan(zeroPoints.length / 2);
  });

  it('has a smaller mean error than min-max rounding in every group, and shifts codes where zero points are signed', () => {
    for (const text of ['uint3:g32', 'int3:g32', 'int4:channel'].flatMap((one) => [
      `${one}:asym`,
      `${one}:asym:float-zero`,
    ])) {
      const scheme = parseScheme(text);
      const [own, plain] = [hqq, solverOf('rtn')].map((solver) => solver.solve(values, rows, columns, scheme));
      expect(own.scales).toEqual(plain.scales);
      const size = own.blockSize;
      const [ownBack, plainBack] = [own, plain].map((matrix) => dequantizeMatrix(matrix));
      for (let start = 0; start < values.length; start += size) {
        let [ownError, plainError] = [0, 0];
        for (let i = start; i < start + size; i++) {
          ownError += Math.abs(values[i] - ownBack[i]);
          plainError += Math.abs(values[i] - plainBack[i]);
        }
        expect(ownError).toBeLessThanOrEqual(plainError * (1 + 1e-5));
      }
    }
    const [signed, unsigned] = ['int4', 'uint4'].map((format) =>
      hqq.solve(values, rows, columns, parseScheme(`${format}:g32:asym:float-zero:scale32`)),
    );
    signed.codes.forEach((code, i) => {
      expect(code).toBe(unsigned.codes[i] - 8);
    });
  });

  it('is between min-max rounding and search in squared error', () => {
    const normal = Float32Array.from({ length: 2 ** 14 }, createGaussian(createRandom(6)));
    for (const text of ['int2', 'int3', 'int4'].map((format) => `${format}:g32:asym:float-zero`)) {
      const [best, own, plain] = ['search', 'hqq', 'rtn'].map((id) =>
        matrixError(normal, solverOf(id).solve(normal, 64, 256, parseScheme(text))),
      );
      expect(own).toBeLessThan(0.98 * plain);
      expect(best).toBeLessThan(own);
    }
  });

  it('gives what rtn gives where there is no zero point to find', () => {
    for (const text of [
      'int4:g32:sym',
      'int8',
      'int1:g32',
      'uint1:g32',
      'ternary:g32',
      'nf4:g32',
      'mxfp4',
      'binary2:g32',
    ]) {
      const scheme = parseScheme(text);
      expect(hqq.solve(values, rows, columns, scheme)).toEqual(solverOf('rtn').solve(values, rows, columns, scheme));
    }
  });

  it('gives rows the same in any parts, whatever the importance', () => {
    const scheme = parseScheme('int3:g32:asym:float-zero');
    const whole = hqq.solve(values, rows, columns, scheme);
    const importance = Float32Array.from({ length: columns }, (_, i) => i % 7);
    const part = hqq.solve(values.subarray(0, 5 * columns), 5, columns, scheme, { importance });
    expect(part.codes).toEqual(whole.codes.slice(0, 5 * columns));
    expect(part.zeroPoints).toEqual(whole.zeroPoints.slice(0, part.zeroPoints.length));
  });
});
