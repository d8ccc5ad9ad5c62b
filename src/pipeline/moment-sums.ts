/** Adds up second moments of rows: few columns by kernel, many in blocks on ONNX Runtime. */
import { bestKernel } from '../kernel/index.ts';
import type { Products } from '../runtime/products.ts';
import type { Moments } from '../solvers/curvature.ts';
import { matrixView, toMatrix } from '../tensor/matrix-view.ts';

export interface MomentSums {
  /**
   * Adds rows of one group: [rows, columns] of x, and of x̃ where there are two. Both arrays may be written to. A row
   * with values that are not finite, in either, is left out.
   */
  add(group: number, rows: number, values: Float32Array, others?: Float32Array): Promise<void>;
  /** The moments of each group. Nothing can be added afterwards. */
  finish(): Promise<GroupMoments[]>;
}

export interface GroupMoments {
  /** Of x, or of x̃ where there are two. */
  readonly moments: Moments;
  /** [columns, columns], row-major: the mean of x·x̃ᵀ, where there are two. */
  readonly cross: Float32Array | undefined;
  /** The mean of x: columns numbers. */
  readonly mean: Float32Array;
}

/** Up to this many columns a product is not worth a call of ONNX Runtime. */
const fewColumns = 64;

/** Squares of larger values overflow in sums of float32. */
const largest = 1e18;

/** Rows that are multiplied at once: enough to hide what a call and a sum of float32 matrices cost. */
function blockRows(columns: number): number {
  return Math.min(Math.max(Math.floor(2 ** 20 / columns), Math.min(columns, Math.floor(2 ** 22 / columns)), 256), 8192);
}

/** Bytes that the sums of one group take while they are added up. */
export function momentBytes(columns: number): number {
  return columns <= fewColumns ? columns ** 2 * 8 : (columns ** 2 * 2 + blockRows(columns) * columns) * 4;
}

interface GroupSums {
  count: number;
  /** Of x, and of x̃ where there are two. */
  readonly sums: readonly Float64Array[];
  /** Undefined before the first rows. */
  moment: Float32Array | Float64Array | undefined;
  cross: Float32Array | Float64Array | undefined;
  /** Rows that wait to be multiplied: of each model. */
  waiting: Float32Array[] | undefined;
  waitingRows: number;
}

/**
 * @param isCross whether there are two kinds of rows, x and x̃
 */
export function momentSums(groups: number, columns: number, products: Products, isCross: boolean): MomentSums {
  const few = columns <= fewColumns;
  const limit = few ? 0 : Math.max(Math.floor(blockRows(columns) / groups), 256);
  const all: GroupSums[] = Array.from({ length: groups }, () => ({
    count: 0,
    sums: Array.from({ length: isCross ? 2 : 1 }, () => new Float64Array(columns)),
    moment: few ? new Float64Array(columns ** 2) : undefined,
    cross: few && isCross ? new Float64Array(columns ** 2) : undefined,
    waiting: undefined,
    waitingRows: 0,
  }));
  const kernel = bestKernel();

  async function multiply(group: GroupSums): Promise<void> {
    const rows = group.waitingRows;
    if (!group.waiting || rows === 0) return;
    const [first, second] = group.waiting.map((block) => block.subarray(0, rows * columns));
    group.moment = added(group.moment, await products.secondMoment(second ?? first, rows, columns));
    if (second) {
      const turned = toMatrix(first, matrixView([rows, columns], [1]));
      group.cross = added(group.cross, await products.multiply(turned, second, columns, rows, columns));
    }
    group.waitingRows = 0;
  }

  return {
    async add(index, given, values, others) {
      const group = all[index];
      const blocks = others ? [values, others] : [values];
      const rows = keepFinite(blocks, given, columns);
      const own = others ?? values;
      for (const [kind, block] of blocks.entries()) {
        const sums = group.sums[kind];
        for (let at = 0; at < rows * columns; at += columns) {
          for (let column = 0; column < columns; column++) sums[column] += block[at + column];
        }
      }
      group.count += rows;
      if (few) {
        kernel.secondMoment(own.subarray(0, rows * columns), rows, columns, group.moment as Float64Array);
        if (group.cross) addCross(group.cross as Float64Array, values, own, rows, columns);
        return;
      }
      group.waiting ??= blocks.map(() => new Float32Array(limit * columns));
      for (let start = 0; start < rows; ) {
        const end = Math.min(rows, start + limit - group.waitingRows);
        for (const [kind, block] of blocks.entries()) {
          group.waiting[kind].set(block.subarray(start * columns, end * columns), group.waitingRows * columns);
        }
        group.waitingRows += end - start;
        start = end;
        if (group.waitingRows === limit) await multiply(group);
      }
    },
    async finish() {
      const results: GroupMoments[] = [];
      for (const group of all) {
        await multiply(group);
        group.waiting = undefined;
        const { count, sums, moment, cross } = group;
        const empty = new Float64Array(moment && (cross || !isCross) ? 0 : columns ** 2);
        const means = sums.map((one) => meanOf(one, count));
        results.push({
          moments: { moment: symmetric(meanOf(moment ?? empty, count), columns), mean: means[means.length - 1], count },
          mean: means[0],
          cross: isCross ? meanOf(cross ?? empty, count) : undefined,
        });
      }
      return results;
    },
  };
}

/** Moves the rows that are finite in all blocks to the front, and counts them. */
function keepFinite(blocks: readonly Float32Array[], rows: number, columns: number): number {
  let kept = 0;
  for (let row = 0; row < rows; row++) {
    const [start, end] = [row * columns, (row + 1) * columns];
    if (!blocks.every((block) => isFiniteBetween(block, start, end))) continue;
    if (kept < row) for (const block of blocks) block.copyWithin(kept * columns, start, end);
    kept++;
  }
  return kept;
}

function isFiniteBetween(values: Float32Array, start: number, end: number): boolean {
  // NaN compares false.
  for (let i = start; i < end; i++) if (!(Math.abs(values[i]) <= largest)) return false;
  return true;
}

/** Takes over `more` where there is nothing yet. */
function added(sums: Float32Array | Float64Array | undefined, more: Float32Array): Float32Array {
  if (!(sums instanceof Float32Array)) return more;
  for (let i = 0; i < sums.length; i++) sums[i] += more[i];
  return sums;
}

function addCross(sums: Float64Array, values: Float32Array, others: Float32Array, rows: number, columns: number): void {
  for (let start = 0; start < rows * columns; start += columns) {
    for (let i = 0; i < columns; i++) {
      const value = values[start + i];
      if (value === 0) continue;
      for (let j = 0; j < columns; j++) sums[i * columns + j] += value * others[start + j];
    }
  }
}

/** In place for sums of float32. */
function meanOf(sums: Float32Array | Float64Array, count: number): Float32Array {
  const factor = count > 0 ? 1 / count : 0;
  const means = sums instanceof Float32Array ? sums : new Float32Array(sums.length);
  for (let i = 0; i < sums.length; i++) means[i] = sums[i] * factor;
  return means;
}

/** Rows and columns of the squares that are mirrored at a time: both sides stay in the cache. */
const square = 64;

/** The upper triangle in the lower one, too: kernels fill that alone, and products may differ in the last bit. */
function symmetric(moment: Float32Array, columns: number): Float32Array {
  for (let top = 0; top < columns; top += square) {
    for (let left = 0; left <= top; left += square) {
      for (let i = top; i < Math.min(top + square, columns); i++) {
        const end = Math.min(left + square, i);
        for (let j = left; j < end; j++) moment[i * columns + j] = moment[j * columns + i];
      }
    }
  }
  return moment;
}
