/** The walk that solvers share: group by group of weights with common parameters, then codes with these as stored. */
import { HalftoneError } from '../base/errors.ts';
import { type IntFormat, intFormatOf } from '../formats/index.ts';
import { parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import { checkScheme, type Scheme } from '../formats/scheme.ts';
import { quantizeMatrix } from '../kernel/matrix.ts';
import { reference } from '../kernel/reference.ts';
import { codeRange } from '../ranges/index.ts';
import { floatToHalf, halfToFloat } from '../tensor/half.ts';
import type { SolveOptions } from './solver.ts';

/**
 * One group of weights, in any order. The arrays are scratch: they may be longer than `length`, they are reused for the
 * next group, and a finder may reorder them (`sortGroup`).
 */
export interface Group {
  length: number;
  /** Weights. */
  readonly values: Float64Array;
  /** How much the squared error of each counts; not all zero. */
  readonly importance: Float64Array;
  /** Whether every importance is 1. */
  readonly uniform: boolean;
}

/** What a group's parameters must obey. */
export interface Constraints {
  readonly format: IntFormat;
  readonly symmetric: boolean;
  readonly floatZeroPoint: boolean;
  /** The codes that may be used. */
  readonly min: number;
  readonly max: number;
  readonly reduceRange: boolean;
  readonly positiveScale: boolean;
  /** Rounds to the type that scales and float zero points are stored in. */
  round(value: number): number;
  /** The smallest scale of that type which keeps its precision: what stands for no scale at all. */
  readonly smallestScale: number;
}

/** Scale and zero point of a group. `find` writes them here, already rounded. */
export interface Parameters {
  scale: number;
  zeroPoint: number;
}

/** Finds the parameters of one group. */
export type Find = (group: Group, constraints: Constraints, found: Parameters) => void;

/** The float16 scales that keep their precision: from just above the smallest normal number, 2^−14, to the largest. */
const halfScale = { min: 6.2e-5, max: 65504 };

/** The smallest normal float32. */
const smallestFloat = 2 ** -126;

/** Beyond it a float16 zero point is no longer exact to one code. */
const largestHalfZeroPoint = 2048;

function isStorable({ scale, zeroPoint }: Parameters, type: Scheme['scaleType']): boolean {
  if (type === 'float32') return true;
  const magnitude = Math.abs(scale);
  return magnitude >= halfScale.min && magnitude <= halfScale.max && Math.abs(zeroPoint) <= largestHalfZeroPoint;
}

const roundToHalf = (value: number) => halfToFloat(floatToHalf(value));

function checkInputs(values: Float32Array, rows: number, columns: number, importance: Float32Array | undefined): void {
  if (values.length !== rows * columns) {
    throw new HalftoneError('internal', `weights: expected ${rows}×${columns} numbers, got ${values.length}`);
  }
  const { nan, positiveInfinity, negativeInfinity } = reference.extent(values);
  if (nan + positiveInfinity + negativeInfinity > 0) {
    throw new HalftoneError(
      'invalid-file',
      `weights: expected finite numbers, got ${nan} NaN and ${positiveInfinity + negativeInfinity} infinite ones`,
    );
  }
  if (importance === undefined) return;
  if (importance.length !== columns) {
    throw new HalftoneError('usage', `importance: expected ${columns} numbers, got ${importance.length}`);
  }
  const wrong = importance.find((weight) => !(weight >= 0 && weight < Number.POSITIVE_INFINITY));
  if (wrong !== undefined) {
    throw new HalftoneError('usage', `importance: expected finite numbers of at least 0, got ${wrong}`);
  }
}

/** The codes a scheme may use: symmetric 8 and 16 bits leave out the lowest; reduced ranges are reduced. */
function allowedCodes(format: IntFormat, symmetric: boolean, reduceRange: boolean): { min: number; max: number } {
  return format.bits >= 8 ? codeRange(format, symmetric, { reduceRange }) : { min: format.min, max: format.max };
}

/**
 * Runs `find` on every group of a matrix and quantizes with what it found. Where float16 cannot hold a scale, the
 * whole matrix is solved again with float32 scales.
 */
export function solveGroups(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  options: SolveOptions,
  find: Find,
): QuantizedMatrix {
  checkScheme(scheme);
  const format = intFormatOf(scheme.format);
  const { importance, reduceRange = false, positiveScale = false } = options;
  checkInputs(values, rows, columns, importance);
  const { blockSize, perRow, count } = parameterLayout(scheme, rows, columns);
  const constraints: Constraints = {
    format,
    symmetric: scheme.symmetric,
    floatZeroPoint: scheme.zeroPointType === 'float',
    ...allowedCodes(format, scheme.symmetric, reduceRange),
    reduceRange,
    positiveScale: positiveScale || format.bits >= 8,
    round: scheme.scaleType === 'float16' ? roundToHalf : Math.fround,
    smallestScale: scheme.scaleType === 'float16' ? 2 ** -13 : smallestFloat,
  };
  const whole = perRow === 0;
  const room = whole ? rows * columns : Math.min(blockSize, columns);
  const group: Group = {
    length: 0,
    values: new Float64Array(room),
    importance: new Float64Array(room).fill(1),
    uniform: importance === undefined,
  };
  const scales = new Float32Array(count);
  const zeroPoints = new Float32Array(count);
  const found: Parameters = { scale: 1, zeroPoint: 0 };
  for (let index = 0; index < count; index++) {
    const row = whole ? 0 : Math.floor(index / perRow);
    const column = whole ? 0 : (index - row * perRow) * blockSize;
    group.length = whole ? room : Math.min(blockSize, columns - column);
    const start = row * columns + column;
    for (let i = 0; i < group.length; i++) group.values[i] = values[start + i];
    if (importance) weigh(group, importance, column, columns);
    find(group, constraints, found);
    if (!isStorable(found, scheme.scaleType)) {
      return solveGroups(values, rows, columns, { ...scheme, scaleType: 'float32' }, options, find);
    }
    scales[index] = found.scale;
    zeroPoints[index] = found.zeroPoint;
  }
  return quantizeMatrix(values, rows, columns, scheme, scales, zeroPoints, constraints);
}

/** Fills in a group's importance; if all of it is zero, everything counts the same. */
function weigh(group: Group, importance: Float32Array, column: number, columns: number): void {
  let sum = 0;
  for (let i = 0, c = column; i < group.length; i++) {
    group.importance[i] = importance[c];
    sum += importance[c];
    c = c + 1 === columns ? 0 : c + 1;
  }
  if (sum === 0) group.importance.fill(1, 0, group.length);
}

/** Gaps for Shell's sort (Ciura 2001), continued by a factor of 2.25. */
const gaps = [1, 4, 10, 23, 57, 132, 301, 701];
while (gaps[gaps.length - 1] < 2 ** 28) gaps.push(Math.floor(gaps[gaps.length - 1] * 2.25));

/** Groups longer than this are sorted natively where their importance need not follow. */
const nativeSortFrom = 64;

/** Sorts a group's weights in ascending order, each with its importance. */
export function sortGroup({ length, values, importance, uniform }: Group): void {
  if (uniform && length >= nativeSortFrom) {
    values.subarray(0, length).sort();
    return;
  }
  let step = gaps.length - 1;
  while (step > 0 && gaps[step] >= length) step--;
  for (; step >= 0; step--) {
    const gap = gaps[step];
    for (let i = gap; i < length; i++) {
      const value = values[i];
      const weight = importance[i];
      let j = i;
      for (; j >= gap && values[j - gap] > value; j -= gap) {
        values[j] = values[j - gap];
        importance[j] = importance[j - gap];
      }
      values[j] = value;
      importance[j] = weight;
    }
  }
}
