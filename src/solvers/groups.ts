/** The frame that solvers share: parameters of all groups of weights, then codes with these as stored. */
import { HalftoneError } from '../base/errors.ts';
import { type IntFormat, intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { checkScheme, type Scheme } from '../formats/scheme.ts';
import {
  type BlockLayout,
  bestKernel,
  blockLayout,
  type Grid,
  type Kernel,
  type Parameters,
  quantizeMatrix,
  roundStored,
} from '../kernel/index.ts';
import { codeRange, symmetricZeroPoint } from '../ranges/index.ts';
import { halfScale } from './scales.ts';
import type { MatrixParameters, SolveOptions } from './solver.ts';

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
export interface Constraints extends Grid {
  readonly format: IntFormat;
  /** Rounds to the type that scales and float zero points are stored in. */
  round(value: number): number;
  /** The smallest scale of that type which keeps its precision: what stands for no scale at all. */
  readonly smallestScale: number;
}

/** Finds the parameters of one group, and writes them to `found`, already rounded. */
export type Find = (group: Group, constraints: Constraints, found: Parameters) => void;

/** Weights as a kernel sees them. */
export interface Weights {
  readonly kernel: Kernel;
  readonly values: Float32Array;
  readonly layout: BlockLayout;
  /** Importance of the columns, from the first on and over again. */
  readonly importance?: Float32Array;
}

/** What a solver writes: the parameters of all groups, already rounded. */
export type Solution = Pick<QuantizedMatrix, 'scales' | 'zeroPoints'>;

/** Finds all of a solution. Groups that are not finite get the scale NaN. */
export type Fill = (weights: Weights, constraints: Constraints, solution: Solution) => void;

/** The smallest normal float32. */
const smallestFloat = 2 ** -126;

/** Beyond it a float16 zero point is no longer exact to one code. */
const largestHalfZeroPoint = 2048;

/** Whether all scales are numbers, and with their zero points can be stored in the type. */
function isStorable({ scales, zeroPoints }: Solution, type: Scheme['scaleType']): boolean {
  const { min, max } = type === 'float16' ? halfScale : { min: 0, max: Number.POSITIVE_INFINITY };
  const largestZeroPoint = type === 'float16' ? largestHalfZeroPoint : Number.POSITIVE_INFINITY;
  for (let i = 0; i < scales.length; i++) {
    const magnitude = Math.abs(scales[i]);
    if (!(magnitude >= min && magnitude <= max && Math.abs(zeroPoints[i]) <= largestZeroPoint)) return false;
  }
  return true;
}

function checkFinite(values: Float32Array, kernel: Kernel): void {
  const { nan, positiveInfinity, negativeInfinity } = kernel.extent(values);
  if (nan + positiveInfinity + negativeInfinity > 0) {
    throw new HalftoneError(
      'invalid-file',
      `weights: expected finite numbers, got ${nan} NaN and ${positiveInfinity + negativeInfinity} infinite ones`,
    );
  }
}

/** @throws HalftoneError as `Solver.solve`. */
export function checkWeights(values: Float32Array, rows: number, columns: number, options: SolveOptions): void {
  checkInputs(values, rows, columns, options.importance);
  checkFinite(values, options.kernel ?? bestKernel());
}

function checkInputs(values: Float32Array, rows: number, columns: number, importance: Float32Array | undefined): void {
  if (values.length !== rows * columns) {
    throw new HalftoneError('internal', `weights: expected ${rows}×${columns} numbers, got ${values.length}`);
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
export function allowedCodes(
  format: IntFormat,
  symmetric: boolean,
  reduceRange: boolean,
): { readonly min: number; readonly max: number } {
  if (format.least !== undefined) return { min: format.least, max: format.max };
  return format.bits >= 8 ? codeRange(format, symmetric, { reduceRange }) : { min: format.min, max: format.max };
}

/**
 * The parameters that `fill` chooses for a matrix. Where float16 cannot hold them, all are chosen again with float32
 * scales.
 */
export function chooseParameters(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  options: SolveOptions,
  fill: Fill,
): MatrixParameters {
  checkScheme(scheme);
  const format = intFormatOf(scheme.format);
  const { symmetric } = scheme;
  const scaleType = scheme.scaleType === 'float16' ? 'float16' : 'float32';
  const { importance, reduceRange = false, positiveScale = false, kernel = bestKernel() } = options;
  checkInputs(values, rows, columns, importance);
  const layout = blockLayout(scheme, rows, columns);
  const constraints: Constraints = {
    format,
    symmetric,
    zeroPoint: format.least === undefined ? symmetricZeroPoint(format, { reduceRange }) : 0,
    floatZeroPoint: scheme.zeroPointType === 'float',
    ...allowedCodes(format, symmetric, reduceRange),
    scaleType,
    positiveScale: positiveScale || format.bits >= 8,
    round: (value) => roundStored(value, scaleType),
    smallestScale: scaleType === 'float16' ? 2 ** -13 : smallestFloat,
  };
  const count = layout.rows * Math.ceil(layout.columns / layout.blockSize);
  const solution: Solution = {
    scales: new Float32Array(count),
    zeroPoints: new Float32Array(count),
  };
  fill({ kernel, values, layout, importance }, constraints, solution);
  if (!isStorable(solution, scaleType)) {
    checkFinite(values, kernel);
    const wider: Scheme = { ...scheme, scaleType: 'float32' };
    if (scaleType === 'float16') return chooseParameters(values, rows, columns, wider, options, fill);
  }
  const { min, max } = constraints;
  return { scheme, ...solution, min, max };
}

/** The matrix with the nearest codes. */
export function nearestCodes(
  values: Float32Array,
  rows: number,
  columns: number,
  { scheme, scales, zeroPoints, min, max }: MatrixParameters,
  { kernel }: SolveOptions,
): QuantizedMatrix {
  return quantizeMatrix(values, rows, columns, scheme, scales, zeroPoints, { min, max }, kernel);
}

/** Runs `find` on one group after the other. */
export function eachGroup(find: Find): Fill {
  return ({ kernel, values, layout, importance }, constraints, { scales, zeroPoints }) => {
    checkFinite(values, kernel);
    const { rows, columns, blockSize } = layout;
    const room = Math.min(blockSize, columns);
    const group: Group = {
      length: 0,
      values: new Float64Array(room),
      importance: new Float64Array(room).fill(1),
      uniform: importance === undefined,
    };
    const found: Parameters = { scale: 1, zeroPoint: 0 };
    let index = 0;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column += blockSize) {
        group.length = Math.min(blockSize, columns - column);
        const start = row * columns + column;
        for (let i = 0; i < group.length; i++) group.values[i] = values[start + i];
        if (importance) weigh(group, importance, column % importance.length);
        find(group, constraints, found);
        scales[index] = found.scale;
        zeroPoints[index++] = found.zeroPoint;
      }
    }
  };
}

/** Fills in a group's importance; if all of it is zero, everything counts the same. */
function weigh(group: Group, importance: Float32Array, column: number): void {
  let sum = 0;
  for (let i = 0, c = column; i < group.length; i++) {
    group.importance[i] = importance[c];
    sum += importance[c];
    c = c + 1 === importance.length ? 0 : c + 1;
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
