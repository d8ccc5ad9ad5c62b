/** Scales for fixed levels: the largest level meets the largest magnitude, or a search for the least squared error. */
import { formatOf, type IntFormat } from '../formats/index.ts';
import { createCodes, parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { blockLayout, encodeLevels, Levels, levelsOf, quantizeMatrix } from '../kernel/index.ts';
import { allowedCodes, checkWeights } from './groups.ts';
import { doubleQuantized, fitsHalf, idleScale, powerScale, roundPlain, shortFactor, shortScales } from './scales.ts';
import type { SolveOptions } from './solver.ts';

/** Scales that are tried, as factors of the one that makes the largest level meet the largest magnitude. */
const factors = { first: 0.6, last: 1.2, step: 0.025 } as const;

/** After the best factor: rounds of least squares with the codes of the round before. */
const refits = 4;

/** Multiples of the tensor's factor that are tried on either side of the best scale. */
const shortReach = 3;

/** The sums by which scales of a block are judged. */
interface Sums {
  /** Σ w·value·level. */
  cross: number;
  /** Σ w·level². */
  square: number;
}

/** Finds scales of one block after the other. */
class ScaleSearch {
  readonly #values: Float32Array;
  readonly #levels: Levels;
  readonly #importance: Float32Array | undefined;
  /** The largest magnitude among the levels, and the largest that exists with both signs. */
  readonly top: number;
  readonly #isMirrored: boolean;
  readonly #sums: Sums = { cross: 0, square: 0 };

  constructor(values: Float32Array, levels: Levels, importance: Float32Array | undefined) {
    this.#values = values;
    this.#levels = levels;
    this.#importance = importance;
    const { values: sorted } = levels;
    this.top = Math.max(Math.abs(sorted[0]), Math.abs(sorted[sorted.length - 1]));
    this.#isMirrored = sorted.every((level, index) => level === -sorted[sorted.length - 1 - index]);
  }

  magnitude(start: number, end: number): number {
    let magnitude = 0;
    for (let i = start; i < end; i++) magnitude = Math.max(magnitude, Math.abs(this.#values[i]));
    return magnitude;
  }

  #correlate(start: number, end: number, scale: number): Sums {
    const levels = this.#levels;
    const importance = this.#importance;
    const inverse = 1 / scale;
    let cross = 0;
    let square = 0;
    for (let i = start; i < end; i++) {
      const value = this.#values[i];
      const level = levels.values[levels.nearest(value * inverse)];
      const weight = importance === undefined ? 1 : importance[i % importance.length];
      cross += weight * value * level;
      square += weight * level * level;
    }
    this.#sums.cross = cross;
    this.#sums.square = square;
    return this.#sums;
  }

  /** Σ w·(value − level·scale)² without Σ w·value², which is the same for all. */
  error(start: number, end: number, scale: number): number {
    const { cross, square } = this.#correlate(start, end, scale);
    return scale * (scale * square - 2 * cross);
  }

  /** The float scale with the least error; negative ones where the levels are not mirrored. */
  best(start: number, end: number, magnitude: number): number {
    const cover = magnitude / this.top;
    let best = 0;
    let scale = cover;
    const offer = (candidate: number): boolean => {
      const { cross, square } = this.#correlate(start, end, candidate);
      const explained = square > 0 ? (cross * cross) / square : 0;
      if (!(explained > best)) return false;
      best = explained;
      scale = cross / square;
      return true;
    };
    for (let factor = factors.first; factor <= factors.last; factor += factors.step) {
      offer(cover * factor);
      if (!this.#isMirrored) offer(-cover * factor);
    }
    for (let round = 0; round < refits && offer(scale); round++);
    return scale;
  }
}

/** The levels of a format, or of an integer format without zero points; `offset` is added to their codes. */
function levelsFor(scheme: Scheme): { readonly levels: Levels; readonly offset: number; readonly zeroPoint: number } {
  const format = formatOf(scheme.format);
  if (format.kind === 'levels') return { levels: levelsOf(format.levels), offset: 0, zeroPoint: 0 };
  const { min, max, bits } = format as IntFormat;
  const allowed = allowedCodes(format as IntFormat, true, false);
  const zeroPoint = bits === 1 ? 0.5 : min < 0 ? 0 : 2 ** (bits - 1);
  const table = Float32Array.from({ length: max - min + 1 }, (_, index) => {
    const code = min + index;
    return code < allowed.min || code > allowed.max ? Number.NaN : code - zeroPoint;
  });
  return { levels: new Levels(table, true), offset: min, zeroPoint };
}

/**
 * Quantizes to fixed levels times a scale: those of a `levels` format, or integers without zero points whose scales are
 * powers of two or short floats.
 * @param searches false: the largest level meets the largest magnitude; a power of two is the one below that by the rule
 *   of OCP Microscaling Formats 1.0, section 6.3.
 */
export function solveLevels(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  options: SolveOptions,
  searches: boolean,
): QuantizedMatrix {
  checkWeights(values, rows, columns, options);
  const { levels, offset, zeroPoint } = levelsFor(scheme);
  const layout = blockLayout(scheme, rows, columns);
  const search = new ScaleSearch(values, levels, options.importance);
  const { top } = search;
  const count = layout.rows * Math.ceil(layout.columns / layout.blockSize);
  let scales: Float32Array = new Float32Array(count);
  let stored = scheme;
  let more: Pick<QuantizedMatrix, 'factors'> = {};
  const each = (find: (start: number, end: number, magnitude: number) => number) => {
    let index = 0;
    for (let row = 0; row < layout.rows; row++) {
      for (let column = 0; column < layout.columns; column += layout.blockSize) {
        const start = row * layout.columns + column;
        const end = row * layout.columns + Math.min(column + layout.blockSize, layout.columns);
        const magnitude = search.magnitude(start, end);
        scales[index++] = magnitude < 2 ** -100 ? idleScale(scheme.scaleType) : find(start, end, magnitude);
      }
    }
  };
  const least = (start: number, end: number, candidates: readonly number[]) => {
    let best = candidates[0];
    let error = Number.POSITIVE_INFINITY;
    for (const candidate of candidates) {
      const own = search.error(start, end, candidate);
      if (own < error) [best, error] = [candidate, own];
    }
    return best;
  };
  const plain = (start: number, end: number, magnitude: number) =>
    searches ? search.best(start, end, magnitude) : magnitude / top;

  switch (scheme.scaleType) {
    case 'float8e8m0': {
      const topExponent = Math.floor(Math.log2(top));
      each((start, end, magnitude) => {
        const exponent = Math.floor(Math.log2(magnitude)) - topExponent;
        if (!searches) return powerScale(exponent);
        return least(start, end, [exponent, exponent + 1, exponent - 1].map(powerScale));
      });
      break;
    }
    case 'float8e4m3fn': {
      const factor = shortFactor(search.magnitude(0, values.length) / top);
      more = { factors: Float32Array.of(factor) };
      each((start, end, magnitude) => {
        const scale = Math.abs(plain(start, end, magnitude));
        return least(start, end, shortScales(scale, factor, searches ? shortReach : 0));
      });
      break;
    }
    case 'int8': {
      each(plain);
      const rounded = doubleQuantized(scales, rows);
      scales = rounded.scales;
      more = { factors: rounded.factors };
      break;
    }
    default: {
      each(plain);
      if (scheme.scaleType === 'float16' && !fitsHalf(scales)) stored = { ...scheme, scaleType: 'float32' };
      for (let i = 0; i < count; i++) scales[i] = roundPlain(scales[i], stored.scaleType);
    }
  }
  const codes = createCodes(formatOf(scheme.format), values.length);
  if (offset === 0) {
    encodeLevels(values, layout, scales, levels, codes as Uint8Array);
  } else {
    const unsigned = new Uint8Array(values.length);
    encodeLevels(values, layout, scales, levels, unsigned);
    for (let i = 0; i < codes.length; i++) codes[i] = unsigned[i] + offset;
  }
  const { blockSize } = parameterLayout(scheme, rows, columns);
  const zeroPoints = new Float32Array(count).fill(zeroPoint);
  return { scheme: stored, rows, columns, codes, blockSize, scales, zeroPoints, ...more };
}

/** An affine matrix with its scales rounded to multiples of a factor for each row, and its codes computed with these. */
export function withDoubleQuantizedScales(
  values: Float32Array,
  matrix: QuantizedMatrix,
  options: SolveOptions,
): QuantizedMatrix {
  const { rows, columns, zeroPoints, scheme } = matrix;
  const { scales, factors: ownFactors } = doubleQuantized(matrix.scales, rows);
  const format = formatOf(scheme.format) as IntFormat;
  const codes = allowedCodes(format, scheme.symmetric, options.reduceRange ?? false);
  const stored: Scheme = { ...scheme, scaleType: 'int8' };
  const made = quantizeMatrix(values, rows, columns, stored, scales, zeroPoints, codes, options.kernel);
  return { ...made, factors: ownFactors };
}
