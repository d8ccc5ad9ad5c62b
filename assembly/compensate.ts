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
  for (let row = 0; row < rows; row++) {
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
    scales += (<usize>perRow) << 2;
    zeroPoints += (<usize>perRow) << 2;
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
