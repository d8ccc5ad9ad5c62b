/**
 * The search for scale and zero point: many grids are tried on each block, each is fitted by (weighted) least squares,
 * and the best is kept (ALGORITHMS 2.5; make_qx_quants and make_qkx3_quants of ggml-quants.c).
 *
 * Blocks are looked at in fixed point: the largest magnitude becomes 32767. That is over 100 steps to one code of 8 bits,
 * and every sum without importance is an exact integer, so that any order of adding, on any machine, finds the same.
 * With importance there are two sums in double precision, of the even and of the odd elements, which are added last.
 */
import { roundHalfToEven } from '../base/round.ts';
import { coverInterval, type Grid, largestScale, type Parameters, roundStored, smallestScale } from './grid.ts';
import type { BlockLayout } from './kernel.ts';
import { checkLayout, eachBlock } from './layout.ts';

/** The fixed-point number of the largest magnitude of a block. */
const fixedMax = 32767;

/** Blocks without a larger magnitude are as good as dead: they are covered. */
const smallestMagnitude = 2 ** -100;

/** Grids of more codes are covered: at 90 dB there is nothing to gain. */
const largestSteps = 255;

/** Steps of the grid width around full scale: ±0.9 levels by 0.1 (ggml-quants.c, make_qx_quants). */
const signedMaxSteps = 9;

/** Factors 1, 0.975, … 0.5 of the largest magnitude for grids whose scale must be positive. */
const shrinkSteps = 20;

/** Factors 1, 0.95, … 0.5 of either end of the interval (ALGORITHMS 2.5 b). */
const endSteps = 10;

/** Grid widths with a float zero point: ±0.9 levels by 0.05 (ggml-quants.c, make_qkx3_quants). */
const floatZeroSteps = 18;

/** Grids to try. An element's level is clamp(floor((element·factor / 2^15 + offset) / 2^fraction), low, high). */
class Candidates {
  count = 0;
  /** Levels of one unit, times 2^(15 + fraction). */
  readonly factor = new Int32Array(192);
  /** The level of zero, and one half for rounding, times 2^fraction. */
  readonly offset = new Int32Array(192);
  readonly low = new Int32Array(192);
  readonly high = new Int32Array(192);
  /** The zero point that goes with each. */
  readonly zeroPoint = new Float64Array(192);
  /** Σ w·element·level. */
  readonly cross = new Float64Array(192);
  /** Σ w·level². */
  readonly square = new Float64Array(192);
  /** Σ w·level. */
  readonly linear = new Float64Array(192);

  add(factor: number, offset: number, low: number, high: number, zeroPoint: number): void {
    const index = this.count++;
    this.factor[index] = toFixed(factor);
    this.offset[index] = toFixed(offset);
    this.low[index] = low;
    this.high[index] = high;
    this.zeroPoint[index] = zeroPoint;
  }
}

/** The nearest number of 16 bits and a sign, saturated. */
function toFixed(value: number): number {
  return roundHalfToEven(Math.min(Math.max(value, -fixedMax), fixedMax));
}

/** Finds the parameters of one block after the other. */
class Search {
  readonly #grid: Grid;
  /** Levels have this many bits behind the point; with twice the grid's steps they fill 16 bits. */
  readonly #fraction: number;
  readonly #candidates = new Candidates();
  /** The block, and the same in fixed point. */
  #values: Float32Array = new Float32Array(0);
  readonly #fixed: Int16Array;
  readonly #weights: Float64Array;
  #length = 0;
  #weighted = false;
  /** Fixed-point numbers in one. */
  #unit = 1;
  /** Σ w and Σ w·element. */
  #weight = 0;
  #first = 0;
  /** Least error yet, without Σ w·element², which is the same for all. */
  #least = 0;
  readonly #found: Parameters = { scale: 1, zeroPoint: 0 };

  constructor(grid: Grid, room: number) {
    this.#grid = grid;
    this.#fraction = grid.max - grid.min > 15 ? 6 : 10;
    this.#fixed = new Int16Array(room);
    this.#weights = new Float64Array(room);
  }

  /** The parameters of the finite block `values`, from column `column` of the importance on. */
  find(values: Float32Array, importance: Float32Array | undefined, column: number): Parameters {
    const found = this.#found;
    let low = 0;
    let high = 0;
    for (const value of values) {
      if (!Number.isFinite(value)) {
        found.scale = Number.NaN;
        found.zeroPoint = 0;
        return found;
      }
      if (value < low) low = value;
      if (value > high) high = value;
    }
    const { min, max, symmetric, floatZeroPoint } = this.#grid;
    coverInterval(low, high, this.#grid, found);
    const magnitude = Math.max(-low, high);
    if (magnitude < smallestMagnitude || max - min > largestSteps) return found;
    this.#unit = Math.fround(fixedMax / magnitude);
    this.#load(values, importance, column);
    this.#least = Number.POSITIVE_INFINITY;
    this.#tryStored(found.scale, found.zeroPoint);
    if (symmetric || max - min < 128) this.#fitFixedZero(-low > high ? -1 : 1);
    if (!symmetric) this.#fitIntegerZero(low * this.#unit, high * this.#unit);
    if (floatZeroPoint) this.#fitFloatZero(low * this.#unit, high * this.#unit);
    return found;
  }

  #load(values: Float32Array, importance: Float32Array | undefined, column: number): void {
    const { length } = values;
    this.#values = values;
    this.#length = length;
    for (let i = 0; i < length; i++) this.#fixed[i] = roundHalfToEven(Math.fround(values[i] * this.#unit));
    this.#weighted = importance !== undefined && this.#weigh(importance, column);
    let [weight, otherWeight, first, otherFirst] = [0, 0, 0, 0];
    for (let i = 0; i < length; i += 2) {
      weight += this.#weighted ? this.#weights[i] : 1;
      first += (this.#weighted ? this.#weights[i] : 1) * this.#fixed[i];
      if (i + 1 === length) break;
      otherWeight += this.#weighted ? this.#weights[i + 1] : 1;
      otherFirst += (this.#weighted ? this.#weights[i + 1] : 1) * this.#fixed[i + 1];
    }
    this.#weight = weight + otherWeight;
    this.#first = first + otherFirst;
  }

  /** Fills in the importance of a block. Returns false where all of it is zero, so that everything counts the same. */
  #weigh(importance: Float32Array, column: number): boolean {
    let some = false;
    for (let i = 0, c = column % importance.length; i < this.#length; i++) {
      this.#weights[i] = importance[c];
      some ||= importance[c] > 0;
      c = c + 1 === importance.length ? 0 : c + 1;
    }
    return some;
  }

  /** The sums of all candidates. */
  #correlate(): void {
    const candidates = this.#candidates;
    for (let index = 0; index < candidates.count; index++) {
      if (this.#weighted) this.#sumWeighted(index);
      else this.#sum(index);
    }
  }

  #sum(index: number): void {
    const candidates = this.#candidates;
    const shift = this.#fraction + 15;
    const fixed = this.#fixed;
    const length = this.#length;
    const factor = candidates.factor[index];
    const offset = candidates.offset[index] * 32768;
    const low = candidates.low[index];
    const high = candidates.high[index];
    let cross = 0;
    let square = 0;
    let linear = 0;
    for (let i = 0; i < length; i++) {
      const element = fixed[i];
      let level = (element * factor + offset) >> shift;
      if (level < low) level = low;
      if (level > high) level = high;
      cross += element * level;
      square += level * level;
      linear += level;
    }
    candidates.cross[index] = cross;
    candidates.square[index] = square;
    candidates.linear[index] = linear;
  }

  #sumWeighted(index: number): void {
    const candidates = this.#candidates;
    const sums = [0, 0, 0];
    for (const parity of [0, 1]) {
      let cross = 0;
      let square = 0;
      let linear = 0;
      for (let i = parity; i < this.#length; i += 2) {
        const level = this.#level(index, i);
        const weighted = this.#weights[i] * level;
        cross += weighted * this.#fixed[i];
        square += weighted * level;
        linear += weighted;
      }
      sums[0] += cross;
      sums[1] += square;
      sums[2] += linear;
    }
    [candidates.cross[index], candidates.square[index], candidates.linear[index]] = sums;
  }

  #level(index: number, i: number): number {
    const { factor, offset, low, high } = this.#candidates;
    const level = (this.#fixed[i] * factor[index] + offset[index] * 32768) >> (this.#fraction + 15);
    return Math.min(Math.max(level, low[index]), high[index]);
  }

  /** Keeps stored parameters if with their own levels they have the least error yet. */
  #tryStored(scale: number, zeroPoint: number): void {
    const { min, max, floatZeroPoint } = this.#grid;
    const candidates = this.#candidates;
    const factor = 2 ** (15 + this.#fraction) / (scale * this.#unit);
    const half = 2 ** (this.#fraction - 1);
    // Levels are integers: codes above the lowest, or around an integer zero point.
    const zero = floatZeroPoint ? zeroPoint - min : 0;
    const base = floatZeroPoint ? min : zeroPoint;
    candidates.count = 0;
    candidates.add(factor, zero * 2 ** this.#fraction + half, min - base, max - base, zeroPoint);
    this.#correlate();
    this.#keep(0, scale, zeroPoint, zero);
  }

  /** Keeps stored parameters if with the levels of a candidate, around level `zero`, they have the least error yet. */
  #keep(index: number, scale: number, zeroPoint: number, zero: number): void {
    const { cross, square, linear } = this.#candidates;
    const step = scale * this.#unit;
    const first = cross[index] - zero * this.#first;
    const second = square[index] - 2 * zero * linear[index] + zero * zero * this.#weight;
    const error = step * (step * second - 2 * first);
    if (error < this.#least) {
      this.#least = error;
      this.#found.scale = scale;
      this.#found.zeroPoint = zeroPoint;
    }
  }

  /**
   * Rounds parameters as they are stored, and keeps them if they are better: with the candidate's levels where nothing
   * but the covering grid competes, else with their own.
   */
  #offer(index: number, scale: number, zeroPoint: number): void {
    const magnitude = Math.abs(scale);
    if (!(magnitude >= smallestScale && magnitude <= largestScale)) return;
    const { symmetric, floatZeroPoint, scaleType } = this.#grid;
    const stored = roundStored(scale, scaleType);
    if (stored === 0 || Math.abs(stored) > largestScale) return;
    if (symmetric) this.#keep(index, stored, zeroPoint, 0);
    else this.#tryStored(stored, floatZeroPoint ? roundStored(zeroPoint, scaleType) : zeroPoint);
  }

  /**
   * Σ w·value·level of one candidate, and Σ w·value: with the values themselves, so that what is exact stays exact. Both
   * are four sums, of the elements by their index modulo 4, added pairwise.
   */
  #refit(index: number): [cross: number, first: number] {
    const lanes = [0, 0, 0, 0, 0, 0, 0, 0];
    for (let i = 0; i < this.#length; i++) {
      const weighted = this.#weighted ? this.#weights[i] * this.#values[i] : this.#values[i];
      lanes[i & 3] += weighted * this.#level(index, i);
      lanes[(i & 3) + 4] += weighted;
    }
    return [lanes[0] + lanes[1] + (lanes[2] + lanes[3]), lanes[4] + lanes[5] + (lanes[6] + lanes[7])];
  }

  /** Correlates the candidates, and offers the best least-squares scale among them with its zero point. */
  #offerBest(): void {
    const candidates = this.#candidates;
    this.#correlate();
    let best = 0;
    let bestIndex = -1;
    for (let index = 0; index < candidates.count; index++) {
      const score = (candidates.cross[index] * candidates.cross[index]) / candidates.square[index];
      if (score > best) {
        best = score;
        bestIndex = index;
      }
    }
    if (bestIndex < 0) return;
    const [cross] = this.#refit(bestIndex);
    this.#offer(bestIndex, cross / candidates.square[bestIndex], candidates.zeroPoint[bestIndex]);
  }

  /**
   * (a) Fixed zero point. The element of largest magnitude, of which `sign` is given, lands near the lowest code, for
   * which the scale takes the opposite sign; with `positiveScale` near the highest code, shrinking from there.
   */
  #fitFixedZero(sign: number): void {
    const { min, max, zeroPoint, positiveScale } = this.#grid;
    const low = min - zeroPoint;
    const high = max - zeroPoint;
    const candidates = this.#candidates;
    const one = 2 ** (15 + this.#fraction) / fixedMax;
    const half = 2 ** (this.#fraction - 1);
    candidates.count = 0;
    if (positiveScale) {
      for (let i = 0; i <= shrinkSteps; i++) candidates.add((high / (1 - 0.025 * i)) * one, half, low, high, zeroPoint);
    }
    if (!positiveScale || high < -low) {
      const direction = positiveScale ? one : -sign * one;
      for (let step = -signedMaxSteps; step <= signedMaxSteps; step++) {
        candidates.add((0.1 * step - low) * direction, half, low, high, zeroPoint);
      }
    }
    this.#offerBest();
  }

  /** (b) Integer zero point: both ends of the interval, in fixed point, shrink independently. */
  #fitIntegerZero(lowest: number, highest: number): void {
    const { min, max } = this.#grid;
    const candidates = this.#candidates;
    const one = 2 ** (15 + this.#fraction);
    const half = 2 ** (this.#fraction - 1);
    candidates.count = 0;
    for (let i = 0; i <= (lowest === 0 ? 0 : endSteps); i++) {
      const low = lowest * (1 - 0.05 * i);
      for (let j = 0; j <= (highest === 0 ? 0 : endSteps); j++) {
        const inverse = (max - min) / (highest * (1 - 0.05 * j) - low);
        const zeroPoint = Math.min(roundHalfToEven(min - low * inverse), max);
        candidates.add(inverse * one, half, min - zeroPoint, max - zeroPoint, zeroPoint);
      }
    }
    this.#offerBest();
  }

  /** (c) Float zero point: scale and offset by least squares, the offset not above zero. */
  #fitFloatZero(lowest: number, highest: number): void {
    const { min, max } = this.#grid;
    const top = max - min;
    const candidates = this.#candidates;
    const one = 2 ** this.#fraction;
    candidates.count = 0;
    for (let step = -floatZeroSteps; step <= floatZeroSteps; step++) {
      const inverse = ((top + 0.05 * step) / (highest - lowest)) * one;
      candidates.add(inverse * 32768, 0.5 * one - lowest * inverse, 0, top, 0);
    }
    this.#correlate();
    let best = Number.NEGATIVE_INFINITY;
    let bestIndex = -1;
    for (let index = 0; index < candidates.count; index++) {
      const { step, offset } = this.#solve(index, candidates.cross[index], this.#first);
      // The squared error of the fit is Σ w·element² minus this.
      const score = step * candidates.cross[index] + offset * this.#first;
      if (score > best && step > 0) {
        best = score;
        bestIndex = index;
      }
    }
    if (bestIndex < 0) return;
    const { step, offset } = this.#solve(bestIndex, ...this.#refit(bestIndex));
    this.#offer(bestIndex, step, min - offset / step);
  }

  /** Step and offset that fit the levels of a candidate best, from Σ w·value·level and Σ w·value; the step NaN without. */
  #solve(index: number, cross: number, first: number): { readonly step: number; readonly offset: number } {
    const { square, linear } = this.#candidates;
    const determinant = this.#weight * square[index] - linear[index] * linear[index];
    if (!(determinant > 0)) return { step: Number.NaN, offset: 0 };
    const offset = (square[index] * first - linear[index] * cross) / determinant;
    if (offset > 0) return { step: cross / square[index], offset: 0 };
    return { step: (this.#weight * cross - first * linear[index]) / determinant, offset };
  }
}

/** See `Kernel.fit`. */
export function fit(
  values: Float32Array,
  layout: BlockLayout,
  grid: Grid,
  importance: Float32Array | undefined,
  scales: Float32Array,
  zeroPoints: Float32Array,
): void {
  checkLayout(values.length, layout, scales, zeroPoints);
  const search = new Search(grid, Math.min(layout.blockSize, layout.columns));
  eachBlock(layout, (start, end, parameter) => {
    const { scale, zeroPoint } = search.find(values.subarray(start, end), importance, start % layout.columns);
    scales[parameter] = scale;
    zeroPoints[parameter] = zeroPoint;
  });
}
