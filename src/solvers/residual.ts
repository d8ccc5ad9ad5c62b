/** Sums of scaled signs: greedy first, then scales and signs are improved in turns. */
import { roundHalfToEven } from '../base/round.ts';
import { formatOf } from '../formats/index.ts';
import { parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { blockLayout } from '../kernel/index.ts';
import { checkWeights } from './groups.ts';
import { doubleQuantized, fitsHalf, powerScale, roundPlain, shortFactor, shortScales } from './scales.ts';
import type { SolveOptions } from './solver.ts';

/** Rounds of least squares and new signs; it settles in fewer. */
const rounds = 12;

/** One block: its numbers, their importance, and the signs as codes. */
class Block {
  readonly order: number;
  readonly scales: Float64Array;
  readonly #values: Float32Array;
  readonly #importance: Float32Array | undefined;
  readonly #codes: Uint8Array;
  /** The sum that each code stands for, and codes in ascending order of their sums. */
  readonly #sums: Float64Array;
  readonly #sorted: number[];

  constructor(order: number, values: Float32Array, importance: Float32Array | undefined, codes: Uint8Array) {
    this.order = order;
    this.scales = new Float64Array(order);
    this.#values = values;
    this.#importance = importance;
    this.#codes = codes;
    this.#sums = new Float64Array(2 ** order);
    this.#sorted = Array.from(this.#sums.keys());
  }

  #weight(i: number): number {
    return this.#importance === undefined ? 1 : this.#importance[i % this.#importance.length];
  }

  /** Each sign, with the mean magnitude of what is left as its scale (Rastegari et al. 2016, XNOR-Net, eq. 6). */
  begin(start: number, end: number): void {
    const rest = this.#values.slice(start, end);
    this.#codes.fill(0, start, end);
    for (let m = 0; m < this.order; m++) {
      let sum = 0;
      let weight = 0;
      for (let i = start; i < end; i++) {
        sum += this.#weight(i) * Math.abs(rest[i - start]);
        weight += this.#weight(i);
      }
      const scale = weight > 0 ? sum / weight : 0;
      this.scales[m] = scale;
      for (let i = start; i < end; i++) {
        const plus = rest[i - start] >= 0;
        if (plus) this.#codes[i] |= 1 << m;
        rest[i - start] -= plus ? scale : -scale;
      }
    }
  }

  /** Scales that fit the signs best: (BᵀWB) α = BᵀWx. False where the signs are not independent. */
  fit(start: number, end: number): boolean {
    const { order } = this;
    const matrix = Array.from({ length: order }, () => new Float64Array(order + 1));
    for (let i = start; i < end; i++) {
      const weight = this.#weight(i);
      const code = this.#codes[i];
      for (let a = 0; a < order; a++) {
        const sign = (code >> a) & 1 ? weight : -weight;
        for (let b = 0; b < order; b++) matrix[a][b] += (code >> b) & 1 ? sign : -sign;
        matrix[a][order] += sign * this.#values[i];
      }
    }
    return solveInPlace(matrix, this.scales);
  }

  /** The nearest sum for every number. Returns Σ w·(value − sum)². */
  assign(start: number, end: number): number {
    const sums = this.#sums;
    for (let code = 0; code < sums.length; code++) {
      let sum = 0;
      for (let m = 0; m < this.order; m++) sum += (code >> m) & 1 ? this.scales[m] : -this.scales[m];
      sums[code] = sum;
    }
    const sorted = this.#sorted.sort((a, b) => sums[a] - sums[b] || a - b);
    let error = 0;
    for (let i = start; i < end; i++) {
      const value = this.#values[i];
      let place = 0;
      while (place + 1 < sorted.length && value > (sums[sorted[place]] + sums[sorted[place + 1]]) / 2) place++;
      this.#codes[i] = sorted[place];
      const rest = value - sums[sorted[place]];
      error += this.#weight(i) * rest * rest;
    }
    return error;
  }
}

/** Gauss elimination of a positive definite system; the last column is the right side. */
function solveInPlace(matrix: readonly Float64Array[], solution: Float64Array): boolean {
  const count = matrix.length;
  for (let k = 0; k < count; k++) {
    const pivot = matrix[k][k];
    if (!(pivot > 1e-9 * Math.abs(matrix[0][0]))) return false;
    for (let row = k + 1; row < count; row++) {
      const factor = matrix[row][k] / pivot;
      for (let column = k; column <= count; column++) matrix[row][column] -= factor * matrix[k][column];
    }
  }
  for (let k = count - 1; k >= 0; k--) {
    let sum = matrix[k][count];
    for (let column = k + 1; column < count; column++) sum -= matrix[k][column] * solution[column];
    solution[k] = sum / matrix[k][k];
  }
  return true;
}

/**
 * Residual binary quantization: the greedy solution, then least squares for the scales and the nearest sum for every number
 * in turns, as long as the error falls (Xu et al. 2018, Alternating Multi-bit Quantization, section 3).
 */
export function solveResidual(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  options: SolveOptions,
): QuantizedMatrix {
  checkWeights(values, rows, columns, options);
  const { bits: order } = formatOf(scheme.format);
  const layout = blockLayout(scheme, rows, columns);
  const perRow = Math.ceil(layout.columns / layout.blockSize);
  const count = layout.rows * perRow;
  const codes = new Uint8Array(values.length);
  const block = new Block(order, values, options.importance, codes);
  let scales: Float32Array = new Float32Array(count * order);
  const eachBlock = (visit: (start: number, end: number, parameter: number) => void) => {
    for (let parameter = 0; parameter < count; parameter++) {
      const row = Math.floor(parameter / perRow);
      const start = row * layout.columns + (parameter % perRow) * layout.blockSize;
      visit(start, Math.min(start + layout.blockSize, (row + 1) * layout.columns), parameter);
    }
  };
  eachBlock((start, end, parameter) => {
    block.begin(start, end);
    let best = block.assign(start, end);
    const kept = block.scales.slice();
    for (let round = 0; round < rounds && block.fit(start, end); round++) {
      const error = block.assign(start, end);
      if (!(error < best)) break;
      best = error;
      kept.set(block.scales);
    }
    for (let m = 0; m < order; m++) scales[parameter * order + m] = Math.abs(kept[m]);
  });

  let stored = scheme;
  let more: Pick<QuantizedMatrix, 'factors'> = {};
  if (scheme.scaleType === 'int8') {
    const rounded = doubleQuantized(scales, rows);
    scales = rounded.scales;
    more = { factors: rounded.factors };
  } else if (scheme.scaleType === 'float8e4m3fn') {
    const factor = shortFactor(scales.reduce((most, scale) => Math.max(most, scale), 0));
    scales = scales.map((scale) => shortScales(scale, factor, 0)[0]);
    more = { factors: Float32Array.of(factor) };
  } else if (scheme.scaleType === 'float8e8m0') {
    scales = scales.map((scale) => powerScale(roundHalfToEven(Math.log2(scale))));
  } else {
    // Digits matter in the first of a block; what the others lose is small beside it.
    const first = scales.filter((scale, index) => index % order === 0 && scale > 0);
    if (scheme.scaleType === 'float16' && !fitsHalf(first)) stored = { ...scheme, scaleType: 'float32' };
    scales = scales.map((scale) => roundPlain(scale, stored.scaleType));
  }
  eachBlock((start, end, parameter) => {
    for (let m = 0; m < order; m++) block.scales[m] = scales[parameter * order + m];
    block.assign(start, end);
  });
  const { blockSize } = parameterLayout(scheme, rows, columns);
  const zeroPoints = new Float32Array(count * order);
  return { scheme: stored, rows, columns, codes, blockSize, scales, zeroPoints, ...more };
}
