/**
 * `search`: tries many grids for each group of weights, fits each by (weighted) least squares, keeps the best
 * (ALGORITHMS 2.5; make_qx_quants and make_qkx3_quants of ggml-quants.c).
 */
import { roundingMagic } from '../base/round.ts';
import { coverInterval, type Parameters } from '../kernel/index.ts';
import { type Constraints, eachGroup, type Find, type Group, solveMatrix, sortGroup } from './groups.ts';
import { binaryFinder } from './rtn.ts';
import type { Solver } from './solver.ts';

/** A constant of this module: loops reach it faster than an imported one under some loaders. */
const magic = roundingMagic;

/** The smallest normal float32. */
const smallestScale = 2 ** -126;
const largestScale = 3.4028234663852886e38;

/** Results of the loops below; an array, so that returning several numbers allocates nothing. */
const sums = new Float64Array(4);

/**
 * Rounds value·inverse to levels low … high and leaves Σ w·value·level and Σ w·level² in `sums`. The weights are sorted,
 * so that the clipped ones are found at both ends, and the loop over the rest has nothing to decide.
 */
function correlate(group: Group, inverse: number, low: number, high: number): void {
  if (inverse < 0) {
    correlate(group, -inverse, -high, -low);
    sums[0] = -sums[0];
    return;
  }
  const { length, values, importance } = group;
  let cross = 0;
  let square = 0;
  let first = 0;
  let weight = 0;
  const lowEnd = low + 0.5;
  for (; first < length && values[first] * inverse < lowEnd; first++) {
    weight += importance[first];
    cross += importance[first] * values[first];
  }
  cross *= low;
  square = weight * low * low;
  let last = length;
  weight = 0;
  let sum = 0;
  const highEnd = high - 0.5;
  for (; last > first && values[last - 1] * inverse > highEnd; last--) {
    weight += importance[last - 1];
    sum += importance[last - 1] * values[last - 1];
  }
  cross += sum * high;
  square += weight * high * high;
  for (let i = first; i < last; i++) {
    const value = values[i];
    const level = value * inverse + magic - magic;
    const weighted = importance[i] * level;
    cross += weighted * value;
    square += weighted * level;
  }
  sums[0] = cross;
  sums[1] = square;
}

/** Rounds (value − base)·inverse ≥ 0 to levels 0 … top and leaves Σ w·level, Σ w·level², Σ w·value·level in `sums`. */
function correlateFrom({ length, values, importance }: Group, base: number, inverse: number, top: number): void {
  let weight = 0;
  let cross = 0;
  let last = length;
  const topEnd = top - 0.5;
  for (; last > 0 && (values[last - 1] - base) * inverse > topEnd; last--) {
    weight += importance[last - 1];
    cross += importance[last - 1] * values[last - 1];
  }
  let linear = weight * top;
  let square = linear * top;
  cross *= top;
  for (let i = 0; i < last; i++) {
    const value = values[i];
    const level = (value - base) * inverse + magic - magic;
    const weighted = importance[i] * level;
    linear += weighted;
    square += weighted * level;
    cross += weighted * value;
  }
  sums[0] = linear;
  sums[1] = square;
  sums[2] = cross;
}

/** Σ w·(value − quantized value)² with the parameters as stored. */
export function groupError(group: Group, { scale, zeroPoint }: Parameters, min: number, max: number): number {
  const { length, values, importance } = group;
  const inverse = 1 / scale;
  const offset = Number.isInteger(zeroPoint) ? 0 : zeroPoint;
  const low = min - zeroPoint;
  const high = max - zeroPoint;
  let error = 0;
  for (let i = 0; i < length; i++) {
    const value = values[i];
    let level = value * inverse + offset + magic - magic - offset;
    if (level < low) level = low;
    else if (level > high) level = high;
    const difference = value - level * scale;
    error += importance[i] * difference * difference;
  }
  return error;
}

/** A way to find parameters of a sorted group: writes them, unrounded, and returns false where it finds none. */
export type Method = (group: Group, constraints: Constraints, found: Parameters) => boolean;

/** The smallest and largest weight of a sorted group, and zero, in `sums`. */
function extremes({ length, values }: Group): void {
  sums[0] = Math.min(values[0], 0);
  sums[1] = Math.max(values[length - 1], 0);
}

/** Steps of the grid width around full scale: ±0.9 levels by 0.1 (ggml-quants.c, make_qx_quants). */
const signedMaxSteps = 9;

/** Shrinking factors of the largest magnitude for grids whose scale must be positive. */
const shrinks = Array.from({ length: 21 }, (_, i) => 1 - 0.025 * i);

/**
 * (a) Fixed zero point. The weight of largest magnitude lands near the lowest code, for which the scale takes the
 * opposite sign of that weight; with `positiveScale` near the highest code, shrinking from there.
 */
export const symmetricFit: Method = (group, constraints, found) => {
  const { min, max, positiveScale, zeroPoint } = constraints;
  const low = min - zeroPoint;
  const high = max - zeroPoint;
  extremes(group);
  const extreme = -sums[0] > sums[1] ? sums[0] : sums[1];
  if (extreme === 0) return false;
  let best = 0;
  found.zeroPoint = zeroPoint;
  const attempt = (inverse: number) => {
    correlate(group, inverse, low, high);
    const score = (sums[0] * sums[0]) / sums[1];
    if (score > best && (sums[0] > 0 || !positiveScale)) {
      best = score;
      found.scale = sums[0] / sums[1];
    }
  };
  if (positiveScale) {
    const magnitude = Math.abs(extreme);
    for (const shrink of shrinks) attempt(high / (magnitude * shrink));
    if (high < -low)
      for (let step = -signedMaxSteps; step <= signedMaxSteps; step++) attempt((0.1 * step - low) / magnitude);
  } else {
    for (let step = -signedMaxSteps; step <= signedMaxSteps; step++) attempt((low - 0.1 * step) / extreme);
  }
  return best > 0;
};

/** Shrinking factors of either end: 1, 0.95, … 0.5 (ALGORITHMS 2.5 b). */
const endShrinks = Array.from({ length: 11 }, (_, i) => 1 - 0.05 * i);

/** (b) Integer zero point: both ends of the interval shrink independently. */
export const integerZeroFit: Method = (group, { min, max, positiveScale }, found) => {
  extremes(group);
  const lowest = sums[0];
  const highest = sums[1];
  if (lowest === highest) return false;
  const steps = max - min;
  let best = 0;
  for (const lowShrink of endShrinks) {
    const low = lowest * lowShrink;
    for (const highShrink of endShrinks) {
      const inverse = steps / (highest * highShrink - low);
      let zeroPoint = min - low * inverse + magic - magic;
      if (zeroPoint > max) zeroPoint = max;
      correlate(group, inverse, min - zeroPoint, max - zeroPoint);
      const score = (sums[0] * sums[0]) / sums[1];
      if (score > best && (sums[0] > 0 || !positiveScale)) {
        best = score;
        found.scale = sums[0] / sums[1];
        found.zeroPoint = zeroPoint;
      }
      if (highest === 0) break;
    }
    if (lowest === 0) break;
  }
  return best > 0;
};

/** Grid widths tried: −0.9 … 0.9 levels by 0.05 around full scale (ggml-quants.c, make_qkx3_quants). */
const floatZeroSteps = Array.from({ length: 37 }, (_, i) => -0.9 + 0.05 * i);

/** (c) Float zero point: scale and offset by least squares, the offset not above zero. */
export const floatZeroFit: Method = (group, { min, max }, found) => {
  const { length, values, importance } = group;
  extremes(group);
  const low = sums[0];
  const high = sums[1];
  if (low === high) return false;
  const top = max - min;
  let weight = 0;
  let first = 0;
  for (let i = 0; i < length; i++) {
    weight += importance[i];
    first += importance[i] * values[i];
  }
  let best = Number.NEGATIVE_INFINITY;
  for (const step of floatZeroSteps) {
    correlateFrom(group, low, (top + step) / (high - low), top);
    const linear = sums[0];
    const square = sums[1];
    const cross = sums[2];
    const determinant = weight * square - linear * linear;
    if (!(determinant > 0)) continue;
    let scale = (weight * cross - first * linear) / determinant;
    let offset = (square * first - linear * cross) / determinant;
    if (offset > 0) {
      offset = 0;
      scale = cross / square;
    }
    // The squared error of the fit is Σ w·value² minus this.
    const score = scale * cross + offset * first;
    if (score > best && scale > 0) {
      best = score;
      found.scale = scale;
      found.zeroPoint = min - offset / scale;
    }
  }
  return best > Number.NEGATIVE_INFINITY;
};

function methodsFor({ symmetric, floatZeroPoint, format }: Constraints): readonly Method[] {
  if (symmetric) return [symmetricFit];
  const integers = format.bits < 8 ? [symmetricFit, integerZeroFit] : [integerZeroFit];
  return floatZeroPoint ? [...integers, floatZeroFit] : integers;
}

/** Rounds what a method found to how it is stored. Returns false for scales that are no normal float32. */
function store(parameters: Parameters, { round, floatZeroPoint }: Constraints): boolean {
  const magnitude = Math.abs(parameters.scale);
  if (!(magnitude >= smallestScale && magnitude <= largestScale)) return false;
  parameters.scale = round(parameters.scale);
  if (floatZeroPoint) parameters.zeroPoint = round(parameters.zeroPoint);
  return parameters.scale !== 0 && Math.abs(parameters.scale) <= largestScale;
}

/** Finds the parameters with the least weighted squared error among the methods' and those of plain rounding. */
function findBest(methods: readonly Method[]): Find {
  const candidate: Parameters = { scale: 1, zeroPoint: 0 };
  return (group, constraints, found) => {
    const { min, max } = constraints;
    sortGroup(group);
    extremes(group);
    coverInterval(sums[0], sums[1], constraints, found);
    let least = groupError(group, found, min, max);
    for (const method of methods) {
      if (!method(group, constraints, candidate) || !store(candidate, constraints)) continue;
      const error = groupError(group, candidate, min, max);
      if (error < least) {
        least = error;
        found.scale = candidate.scale;
        found.zeroPoint = candidate.zeroPoint;
      }
    }
  };
}

export const search: Solver<'search'> = {
  id: 'search',
  summary: 'search for the scale and zero point with the least squared error, group by group',
  solve(values, rows, columns, scheme, options = {}) {
    let chosen: Find | undefined;
    const find: Find = (group, constraints, found) => {
      chosen ??= constraints.format.bits === 1 ? binaryFinder(constraints) : findBest(methodsFor(constraints));
      chosen(group, constraints, found);
    };
    return solveMatrix(values, rows, columns, scheme, options, eachGroup(find));
  },
};
