/**
 * Codes of rows, chosen one column after the other with regard to what the columns before lost. Numbers around integer zero
 * points; codes as in quantize.ts. Rows are taken in ascending order: vectors that end with a row may begin in the one
 * before it, which nobody reads any more.
 */

import { loadCode, storeCode } from './quantize';

/** The code of a number as an integer in single precision. */
// @ts-expect-error: decorator
function codeOf(ratio: f32, zeroPoint: f32, lowest: f32, highest: f32): f32 {
  const code = nearest<f32>(ratio) + zeroPoint;
  return code > lowest ? (code < highest ? code : highest) : lowest;
}

/** row[k] += factor · shares[k] of the columns k behind `column`; some before it change, too. */
// @ts-expect-error: decorator
function pass(row: usize, shares: usize, factor: f32, column: i32, columns: i32): void {
  const factors = f32x4.splat(factor);
  const last = (<isize>columns - 4) << 2;
  for (let at = last, first = (<isize>column - 3) << 2; at > first; at -= 16) {
    const sum = f32x4.add(v128.load(row + at), f32x4.mul(factors, v128.load(shares + at)));
    v128.store(row + at, sum);
  }
}

/** One number of each of four rows. */
function gather(at: usize, a: usize, b: usize, c: usize, d: usize): v128 {
  const two = v128.load_lane<f32>(at + b, v128.load32_zero(at + a), 1);
  return v128.load_lane<f32>(at + d, v128.load_lane<f32>(at + c, two, 2), 3);
}

/** pivot·rest² of two rows, added to their losses. */
function lose(losses: usize, wanted: v128, values: v128, pivot: v128): void {
  const rest = f64x2.sub(f64x2.promote_low_f32x4(wanted), f64x2.promote_low_f32x4(values));
  v128.store(losses, f64x2.add(v128.load(losses), f64x2.mul(f64x2.mul(pivot, rest), rest)));
}

/** Four rows of `chooseCodes` at once, of a multiple of four columns. */
function chooseFour(
  residuals: usize,
  feed: usize,
  columns: i32,
  upper: usize,
  pivots: usize,
  parameters: usize,
  perRow: i32,
  scales: usize,
  zeroPoints: usize,
  lowest: f32,
  highest: f32,
  codes: usize,
  kind: i32,
  losses: usize,
): void {
  const size = <usize>columns;
  const row = size << 2;
  const step = (<usize>perRow) << 2;
  const width: usize = kind < 2 ? 1 : 2;
  const lows = f32x4.splat(lowest);
  const highs = f32x4.splat(highest);
  for (let column: usize = 0; column < size; column++) {
    const at = column << 2;
    const parameter = (<usize>load<i32>(parameters + at)) << 2;
    const scale = gather(scales + parameter, 0, step, step << 1, step * 3);
    const zeroPoint = gather(zeroPoints + parameter, 0, step, step << 1, step * 3);
    const weight = gather(residuals + at, 0, row, row << 1, row * 3);
    const wanted = f32x4.add(weight, gather(feed + at, 0, row, row << 1, row * 3));
    const near = f32x4.add(f32x4.nearest(f32x4.div(wanted, scale)), zeroPoint);
    const code = f32x4.pmin(highs, f32x4.pmax(lows, near));
    const value = f32x4.mul(f32x4.sub(code, zeroPoint), scale);
    const pivot = v128.load64_splat(pivots + (at << 1));
    lose(losses, wanted, value, pivot);
    lose(
      losses + 16,
      v128.shuffle<u32>(wanted, wanted, 2, 3, 2, 3),
      v128.shuffle<u32>(value, value, 2, 3, 2, 3),
      pivot,
    );
    const integers = i32x4.trunc_sat_f32x4_s(code);
    const first = codes + column * width;
    storeCode(first, kind, i32x4.extract_lane(integers, 0));
    storeCode(first + size * width, kind, i32x4.extract_lane(integers, 1));
    storeCode(first + ((size * width) << 1), kind, i32x4.extract_lane(integers, 2));
    storeCode(first + size * width * 3, kind, i32x4.extract_lane(integers, 3));
    const residual = f32x4.sub(weight, value);
    v128.store_lane<f32>(residuals + at, residual, 0);
    v128.store_lane<f32>(residuals + at + row, residual, 1);
    v128.store_lane<f32>(residuals + at + (row << 1), residual, 2);
    v128.store_lane<f32>(residuals + at + row * 3, residual, 3);
    const a = v128.shuffle<u32>(residual, residual, 0, 0, 0, 0);
    const b = v128.shuffle<u32>(residual, residual, 1, 1, 1, 1);
    const c = v128.shuffle<u32>(residual, residual, 2, 2, 2, 2);
    const d = v128.shuffle<u32>(residual, residual, 3, 3, 3, 3);
    const own = upper + at * size;
    // From the vector in which the next column lies.
    for (let k = ((column + 1) & ~3) << 2; k < row; k += 16) {
      const shares = v128.load(own + k);
      const to = feed + k;
      v128.store(to, f32x4.add(v128.load(to), f32x4.mul(a, shares)));
      v128.store(to + row, f32x4.add(v128.load(to + row), f32x4.mul(b, shares)));
      const next = to + (row << 1);
      v128.store(next, f32x4.add(v128.load(next), f32x4.mul(c, shares)));
      v128.store(next + row, f32x4.add(v128.load(next + row), f32x4.mul(d, shares)));
    }
  }
}

/** @param feed what columns before `columns` add to each number; what later columns add is scratch */
export function chooseCodes(
  residuals: usize,
  feed: usize,
  rows: i32,
  columns: i32,
  upper: usize,
  pivots: usize,
  parameters: usize,
  perRow: i32,
  scales: usize,
  zeroPoints: usize,
  lowest: f32,
  highest: f32,
  codes: usize,
  kind: i32,
  losses: usize,
): void {
  const width: usize = kind < 2 ? 1 : 2;
  const bytes = (<usize>columns) << 2;
  const step = (<usize>perRow) << 2;
  let row = 0;
  for (const fours = columns % 4 === 0 ? rows & ~3 : 0; row < fours; row += 4) {
    chooseFour(
      residuals,
      feed,
      columns,
      upper,
      pivots,
      parameters,
      perRow,
      scales,
      zeroPoints,
      lowest,
      highest,
      codes,
      kind,
      losses,
    );
    residuals += bytes << 2;
    feed += bytes << 2;
    scales += step << 2;
    zeroPoints += step << 2;
    codes += (<usize>columns * width) << 2;
    losses += 32;
  }
  for (; row < rows; row++) {
    let loss = load<f64>(losses);
    for (let column = 0; column < columns; column++) {
      const at = (<usize>column) << 2;
      const parameter = (<usize>load<i32>(parameters + at)) << 2;
      const scale = load<f32>(scales + parameter);
      const zeroPoint = load<f32>(zeroPoints + parameter);
      const weight = load<f32>(residuals + at);
      const wanted = weight + load<f32>(feed + at);
      const code = codeOf(wanted / scale, zeroPoint, lowest, highest);
      const value = (code - zeroPoint) * scale;
      const rest = <f64>wanted - <f64>value;
      loss += load<f64>(pivots + (at << 1)) * rest * rest;
      const residual = weight - value;
      store<f32>(residuals + at, residual);
      storeCode(codes, kind, <i32>code);
      codes += width;
      pass(feed, upper + at * <usize>columns, residual, column, columns);
    }
    store<f64>(losses, loss);
    losses += 8;
    residuals += bytes;
    feed += bytes;
    scales += step;
    zeroPoints += step;
  }
}

/** How many codes changed. */
export function improveCodes(
  residuals: usize,
  gradients: usize,
  rows: i32,
  columns: i32,
  curvature: usize,
  parameters: usize,
  perRow: i32,
  scales: usize,
  zeroPoints: usize,
  lowest: f32,
  highest: f32,
  codes: usize,
  kind: i32,
  losses: usize,
): i32 {
  const width: usize = kind < 2 ? 1 : 2;
  const bytes = (<usize>columns) << 2;
  let changes = 0;
  for (let row = 0; row < rows; row++) {
    let loss = load<f64>(losses);
    for (let column = 0; column < columns; column++, codes += width) {
      const at = (<usize>column) << 2;
      const parameter = (<usize>load<i32>(parameters + at)) << 2;
      const scale = load<f32>(scales + parameter);
      const zeroPoint = load<f32>(zeroPoints + parameter);
      const own = curvature + at * <usize>columns;
      const curve = <f64>load<f32>(own + at);
      const code = <f32>loadCode(codes, kind);
      const value = (code - zeroPoint) * scale;
      const move = <f64>load<f32>(gradients + at) / curve;
      const wanted = <f64>value + move;
      const better = codeOf(<f32>(wanted / <f64>scale), zeroPoint, lowest, highest);
      if (better === code) continue;
      const found = (better - zeroPoint) * scale;
      const rest = wanted - <f64>found;
      const gain = (move * move - rest * rest) * curve;
      if (!(gain > 0)) continue;
      changes++;
      loss -= gain;
      storeCode(codes, kind, <i32>better);
      const change = value - found;
      store<f32>(residuals + at, load<f32>(residuals + at) + change);
      pass(gradients, own, change, column, columns);
    }
    store<f64>(losses, loss);
    losses += 8;
    residuals += bytes;
    gradients += bytes;
    scales += (<usize>perRow) << 2;
    zeroPoints += (<usize>perRow) << 2;
  }
  return changes;
}
