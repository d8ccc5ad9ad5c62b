/** GPTQ: what a naive one gives, exact special cases, never a greater loss, and the same for rows in any parts. */
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import { dequantizeMatrix, quantizeValue } from '../kernel/index.ts';
import { openRuntime } from '../runtime/node.ts';
import { openProducts } from '../runtime/products.ts';
import { compensate, type Moments, prepareCurvature, retarget } from './gptq.ts';
import { solverOf } from './index.ts';

const gaussians = (count: number, seed: number) =>
  Float32Array.from({ length: count }, createGaussian(createRandom(seed)));

/** Samples of correlated inputs of different sizes and means. */
function samplesOf(count: number, columns: number, seed: number): Float64Array {
  const own = gaussians(count * columns, seed);
  const common = gaussians(count * 3, seed + 1);
  const mix = gaussians(columns * 3, seed + 2);
  return Float64Array.from({ length: count * columns }, (_, index) => {
    const [sample, column] = [Math.floor(index / columns), index % columns];
    let value = 0.4 * own[index];
    for (let k = 0; k < 3; k++) value += common[sample * 3 + k] * mix[column * 3 + k];
    return value * (1 + (column % 5)) + (column % 3);
  });
}

function momentsOf(samples: Float64Array, columns: number): Moments {
  const count = samples.length / columns;
  const moment = new Float64Array(columns * columns);
  const mean = new Float64Array(columns);
  for (let t = 0; t < count; t++) {
    for (let i = 0; i < columns; i++) {
      mean[i] += samples[t * columns + i] / count;
      for (let j = 0; j < columns; j++) {
        moment[i * columns + j] += (samples[t * columns + i] * samples[t * columns + j]) / count;
      }
    }
  }
  return { moment: Float32Array.from(moment), mean: Float32Array.from(mean), count };
}

function identityOf(columns: number): Moments {
  const moment = Float32Array.from({ length: columns * columns }, (_, i) => (i % (columns + 1) === 0 ? 1 : 0));
  return { moment, mean: new Float32Array(columns), count: 1000 * columns };
}

function search(values: Float32Array, columns: number, text: string, moments?: Moments): QuantizedMatrix {
  const importance = moments && Float32Array.from(moments.mean, (_, i) => moments.moment[i * (columns + 1)]);
  return solverOf('search').solve(values, values.length / columns, columns, parseScheme(text), { importance });
}

/** The mean squared error of the output, but for its mean, of all rows. */
function outputError(values: Float32Array, matrix: QuantizedMatrix, samples: Float64Array): number {
  const { rows, columns } = matrix;
  const back = dequantizeMatrix(matrix);
  const count = samples.length / columns;
  let error = 0;
  for (let row = 0; row < rows; row++) {
    let [sum, squares] = [0, 0];
    for (let t = 0; t < count; t++) {
      let own = 0;
      for (let i = 0; i < columns; i++) {
        own += (values[row * columns + i] - back[row * columns + i]) * samples[t * columns + i];
      }
      sum += own / count;
      squares += (own * own) / count;
    }
    error += squares - sum * sum;
  }
  return error;
}

const [rows, columns] = [12, 96];
const values = gaussians(rows * columns, 11);
const samples = samplesOf(600, columns, 21);
const moments = momentsOf(samples, columns);

const schemes = [
  'int2:g32',
  'int3:g32',
  'int4:g16:asym',
  'int4:channel:sym',
  'int3:g40',
  'int3:g32:asym:float-zero',
  'int8:channel',
  'uint4:tensor',
  'int1:g32',
  'uint1:g32',
  'ternary:g32',
  'nf4:g32',
  'mxfp4',
  'nvfp4',
  'int4:g16:sym:scale-e8m0',
  'int4:g32:scale8',
  'kmeans3:g32',
  'kmeans3:channel',
  'kmeans2:tensor',
  'quantile4:channel',
  'binary2:g32',
  'binary3:g32:scale8',
];

describe.each(schemes)('%s', (text) => {
  it('loses less than the nearest codes, at the output itself, and not more with sweeps and fitted scales', async () => {
    const start = search(values, columns, text, moments);
    const plain = await compensate(values, rows, columns, start, { moments, sweeps: 0 });
    expect(plain.fallback).toBeUndefined();
    expect(plain.loss).toBeLessThan(plain.before);
    expect(outputError(values, plain.matrix, samples)).toBeLessThan(outputError(values, start, samples));
    let last = plain.loss;
    for (const sweeps of [1, 2, 4]) {
      const { loss } = await compensate(values, rows, columns, start, { moments, sweeps });
      expect(loss).toBeLessThanOrEqual(last * (1 + 1e-6));
      last = loss;
    }
    const refitted = await compensate(values, rows, columns, start, { moments, refit: true });
    expect(refitted.loss).toBeLessThanOrEqual(last * (1 + 1e-6));
    // The loss that is reported is that of the matrix.
    const again = await compensate(values, rows, columns, refitted.matrix, { moments, sweeps: 0 });
    expect(again.before / refitted.loss).toBeCloseTo(1, 3);
    for (const key of ['zeroPoints', 'codebook', 'scheme', 'blockSize'] as const) {
      expect(refitted.matrix[key]).toEqual(start[key]);
    }
    expect(plain.matrix.scales).toEqual(start.scales);
  });

  it('takes the nearest codes of independent inputs', async () => {
    const start = search(values, columns, text);
    const { matrix, loss, before } = await compensate(values, rows, columns, start, { moments: identityOf(columns) });
    expect(matrix.codes).toEqual(start.codes);
    expect(loss).toBeCloseTo(before, 4);
  });

  it('gives rows the same codes in parts', async () => {
    const start = search(values, columns, text, moments);
    const options = { moments, refit: true };
    const whole = await compensate(values, rows, columns, start, options);
    if (start.scheme.granularity.kind === 'tensor') return;
    const cut = 5;
    const perRow = (numbers: Float32Array) => numbers.length / rows;
    for (const [from, to] of [
      [0, cut],
      [cut, rows],
    ]) {
      const some = (numbers: Float32Array) => numbers.slice(from * perRow(numbers), to * perRow(numbers));
      const { codebook, factors } = start;
      const part: QuantizedMatrix = {
        ...start,
        rows: to - from,
        codes: start.codes.slice(from * columns, to * columns),
        scales: some(start.scales),
        zeroPoints: some(start.zeroPoints),
        ...(factors && { factors: factors.length === rows ? some(factors) : factors }),
        ...(codebook && { codebook: start.scheme.granularity.kind === 'channel' ? some(codebook) : codebook }),
      };
      const own = values.subarray(from * columns, to * columns);
      const { matrix } = await compensate(own, to - from, columns, part, options);
      expect(matrix.codes).toEqual(whole.matrix.codes.slice(from * columns, to * columns));
      expect(matrix.scales).toEqual(some(whole.matrix.scales));
    }
  });
});

/** GPTQ as it is published (Frantar et al. 2022, algorithm 1), column by column, with V = upper Cholesky of H⁻¹. */
function naive(start: QuantizedMatrix, hessian: number[][], order: number[]): number[] {
  const size = order.length;
  const permuted = order.map((i) => order.map((j) => hessian[i][j]));
  const inverse = order.map((_, i) => order.map((_, j) => Number(i === j)));
  const left = permuted.map((row) => [...row]);
  for (let k = 0; k < size; k++) {
    const pivot = left[k][k];
    for (let j = 0; j < size; j++) [left[k][j], inverse[k][j]] = [left[k][j] / pivot, inverse[k][j] / pivot];
    for (let i = 0; i < size; i++) {
      if (i === k) continue;
      const factor = left[i][k];
      for (let j = 0; j < size; j++) {
        left[i][j] -= factor * left[k][j];
        inverse[i][j] -= factor * inverse[k][j];
      }
    }
  }
  const upper = order.map(() => new Array<number>(size).fill(0));
  for (let i = 0; i < size; i++) {
    for (let j = i; j < size; j++) {
      let sum = inverse[i][j];
      for (let k = 0; k < i; k++) sum -= upper[k][i] * upper[k][j];
      upper[i][j] = j === i ? Math.sqrt(sum) : sum / upper[i][i];
    }
  }
  const codes = new Array<number>(rows * size).fill(0);
  for (let row = 0; row < rows; row++) {
    const w = order.map((column) => values[row * size + column]);
    const [scale, zero] = [start.scales[row], start.zeroPoints[row]];
    for (let j = 0; j < size; j++) {
      const code = quantizeValue(w[j], scale, zero, -4, 3);
      codes[row * size + order[j]] = code;
      const error = (w[j] - (code - zero) * scale) / upper[j][j];
      for (let k = j; k < size; k++) w[k] -= error * upper[j][k];
    }
  }
  return codes;
}

describe('compensate', () => {
  it('gives the codes of the published algorithm', async () => {
    const start = search(values, columns, 'int3:channel:asym', moments);
    const { moment, mean } = moments;
    const hessian = Array.from({ length: columns }, (_, i) =>
      Array.from({ length: columns }, (_, j) => moment[i * columns + j] - mean[i] * mean[j]),
    );
    const diagonal = hessian.map((row, i) => row[i]);
    const trace = diagonal.reduce((sum, value) => sum + value, 0);
    const order = diagonal.map((_, i) => i).sort((a, b) => diagonal[b] - diagonal[a]);
    hessian.forEach((row, i) => {
      row[i] += (0.01 * trace) / columns;
    });
    const { matrix } = await compensate(values, rows, columns, start, { moments, sweeps: 0 });
    const expected = naive(start, hessian, order);
    const alike = Array.from({ length: rows }, (_, row) => {
      const [from, to] = [row * columns, (row + 1) * columns];
      return String(expected.slice(from, to)) === String(Array.from(matrix.codes.subarray(from, to)));
    });
    // A row that would lose more by it keeps its codes.
    expect(alike.filter(Boolean).length).toBeGreaterThanOrEqual(rows - 1);
  });

  it('takes the nearest code of one column', async () => {
    const single = values.subarray(0, 30);
    const start = search(single, 1, 'int3:channel');
    const one = { moment: Float32Array.of(3), mean: Float32Array.of(1), count: 50 };
    expect((await compensate(single, 30, 1, start, { moments: one })).matrix.codes).toEqual(start.codes);
  });

  it('uses a curvature that is prepared once, and a target', async () => {
    const start = search(values, columns, 'int3:g32', moments);
    const curvature = await prepareCurvature(moments, columns);
    if (typeof curvature === 'string') throw new Error(curvature);
    const first = await compensate(values, rows, columns, start, { curvature });
    expect(first).toEqual(await compensate(values, rows, columns, start, { moments }));
    const zeros = new Float32Array(values.length);
    const idle = await compensate(values, rows, columns, start, { curvature, target: zeros });
    expect(dequantizeMatrix(idle.matrix).every((value) => value === 0)).toBe(true);
  });

  it('works with fewer samples than columns', async () => {
    const few = momentsOf(samples.subarray(0, 20 * columns), columns);
    const start = search(values, columns, 'int3:g32', few);
    for (const damping of [0, 0.01]) {
      const { matrix, fallback } = await compensate(values, rows, columns, start, { moments: few, damping });
      expect(fallback).toBeUndefined();
      // What was not seen is not lost.
      expect(outputError(values, matrix, samples)).toBeLessThan(1.5 * outputError(values, start, samples));
    }
  });

  it('rounds to nearest where inputs are dead or constant', async () => {
    const some = samples.map((value, index) => (index % columns === 7 ? 0 : index % columns === 9 ? 123.4 : value));
    const start = search(values, columns, 'int4:g32');
    const { matrix, fallback } = await compensate(values, rows, columns, start, { moments: momentsOf(some, columns) });
    expect(fallback).toBeUndefined();
    for (let row = 0; row < rows; row++) {
      for (const column of [7, 9]) {
        expect(matrix.codes[row * columns + column]).toBe(start.codes[row * columns + column]);
      }
    }
    const dead = { moment: new Float32Array(columns * columns), mean: new Float32Array(columns), count: 10 };
    expect((await compensate(values, rows, columns, start, { moments: dead })).matrix.codes).toEqual(start.codes);
  });

  it('gives back what it got where moments are of no use', async () => {
    const start = search(values, columns, 'int4:g32');
    const attempt = (moment: Float32Array) =>
      compensate(values, rows, columns, start, { moments: { ...moments, moment } });
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const { matrix, fallback } = await attempt(moments.moment.map((value, i) => (i === columns + 2 ? wrong : value)));
      expect(matrix).toBe(start);
      expect(fallback).toContain('not finite');
    }
    const target = values.map((value, i) => (i === 5 ? Number.NaN : value));
    const { matrix, fallback } = await compensate(values, rows, columns, start, { moments, target });
    expect(matrix).toBe(start);
    expect(fallback).toContain('not finite');
  });

  it('says what does not fit', async () => {
    const start = search(values, columns, 'int4:g32');
    await expect(compensate(values, rows, columns - 1, start, { moments })).rejects.toThrow('weights: expected');
    await expect(compensate(values, rows, columns, start, {})).rejects.toThrow('neither');
    const other = identityOf(columns + 1);
    await expect(compensate(values, rows, columns, start, { moments: other })).rejects.toThrow('moments: expected');
  });

  it('gives the same with any number of threads', async () => {
    const [height, width] = [140, 520];
    const wide = gaussians(height * width, 51);
    const large = momentsOf(samplesOf(200, width, 61), width);
    const start = search(wide, width, 'int3:g32', large);
    const runtime = await openRuntime();
    const found = [];
    for (const threads of [1, 2]) {
      const products = openProducts(runtime, { threads });
      found.push(await compensate(wide, height, width, start, { moments: large, products, refit: true }));
      await products.close();
    }
    expect(found[0].fallback).toBeUndefined();
    expect(found[1]).toEqual(found[0]);
  });

  it('gives the same with products on ONNX Runtime but for rounding, and rows in parts exactly the same', async () => {
    const [height, width] = [300, 1100];
    const wide = gaussians(height * width, 31);
    const moment = new Float32Array(width * width);
    for (let i = 0; i < width; i++) {
      for (let j = 0; j < width; j++) moment[i * width + j] = 0.9 ** Math.abs(i - j) * (1 + (i % 3)) * (1 + (j % 3));
    }
    const large = { moment, mean: new Float32Array(width), count: 4 * width };
    const start = search(wide, width, 'int3:g32');
    const products = openProducts(await openRuntime());
    try {
      const options = { moments: large, products, sweeps: 3 };
      const whole = await compensate(wide, height, width, start, options);
      const cut = 17;
      const part: QuantizedMatrix = {
        ...start,
        rows: cut,
        codes: start.codes.slice(0, cut * width),
        scales: start.scales.slice(0, cut * (start.scales.length / height)),
        zeroPoints: start.zeroPoints.slice(0, cut * (start.scales.length / height)),
      };
      const some = await compensate(wide.subarray(0, cut * width), cut, width, part, options);
      expect(some.matrix.codes).toEqual(whole.matrix.codes.slice(0, cut * width));
      const plain = await compensate(wide.subarray(0, cut * width), cut, width, part, {
        ...options,
        products: undefined,
      });
      expect(plain.loss / some.loss).toBeCloseTo(1, 2);
    } finally {
      await products.close();
    }
  });
});

describe('retarget', () => {
  it('keeps weights whose inputs are what they were, as the damping goes to zero', async () => {
    const same = await retarget(values, rows, columns, moments.moment, moments, 1e-6);
    same.forEach((value, index) => {
      expect(Math.abs(value - values[index])).toBeLessThan(0.01);
    });
  });

  it('brings the output for other inputs nearer to what it was', async () => {
    const noise = gaussians(samples.length, 41);
    const others = samples.map((value, index) => 0.9 * value + 0.5 * noise[index]);
    const count = samples.length / columns;
    const cross = new Float64Array(columns * columns);
    for (let t = 0; t < count; t++) {
      for (let i = 0; i < columns; i++) {
        for (let j = 0; j < columns; j++) {
          cross[i * columns + j] += (samples[t * columns + i] * others[t * columns + j]) / count;
        }
      }
    }
    const other = momentsOf(others, columns);
    const error = (target: Float32Array) => {
      let sum = 0;
      for (let t = 0; t < count; t++) {
        for (let row = 0; row < rows; row++) {
          let own = 0;
          for (let i = 0; i < columns; i++) {
            own += values[row * columns + i] * samples[t * columns + i];
            own -= target[row * columns + i] * others[t * columns + i];
          }
          sum += own * own;
        }
      }
      return sum;
    };
    const crossing = Float32Array.from(cross);
    const target = await retarget(values, rows, columns, crossing, other, 0.01);
    expect(error(target)).toBeLessThan(0.7 * error(values));
    const centred = await retarget(values, rows, columns, crossing, other, 0.01, { mean: moments.mean });
    expect(centred.every(Number.isFinite)).toBe(true);
  });

  it('keeps weights of dead inputs, and all of them where moments are of no use', async () => {
    const some = momentsOf(
      samples.map((value, index) => (index % columns === 3 ? 0 : value)),
      columns,
    );
    const target = await retarget(values, rows, columns, some.moment, some, 0.01);
    for (let row = 0; row < rows; row++) expect(target[row * columns + 3]).toBe(values[row * columns + 3]);
    const broken = { ...some, moment: some.moment.fill(Number.NaN) };
    expect(await retarget(values, rows, columns, moments.moment, broken, 0.01)).toEqual(values);
  });
});
