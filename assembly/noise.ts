/** What quantizing costs: the squares of values and of their errors, added up. Codes as in quantize.ts. */

import { loadCode, loadCodes } from './quantize';

/** Elements whose squares are added in single precision before they go to the sums. */
const run = 1024;

function lanes(sums: v128): f64 {
  const low = f64x2.promote_low_f32x4(sums);
  const high = f64x2.promote_low_f32x4(v128.shuffle<u64>(sums, sums, 1, 0));
  const pair = f64x2.add(low, high);
  return f64x2.extract_lane(pair, 0) + f64x2.extract_lane(pair, 1);
}

/** Four values less what four codes stand for. */
function errorOf(values: v128, codes: v128, zero: v128, scale: v128): v128 {
  return f32x4.sub(values, f32x4.mul(f32x4.sub(f32x4.convert_i32x4_s(codes), zero), scale));
}

/** Adds Σ value² and Σ error² to two sums. */
export function noise(
  values: usize,
  rows: i32,
  columns: i32,
  blockSize: i32,
  scales: usize,
  zeroPoints: usize,
  codes: usize,
  kind: i32,
  sums: usize,
): void {
  const width: usize = kind < 2 ? 1 : 2;
  let signal: f64 = 0;
  let error: f64 = 0;
  let left = run;
  let signals = f32x4.splat(0);
  let errors = f32x4.splat(0);
  let moreSignals = f32x4.splat(0);
  let moreErrors = f32x4.splat(0);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += blockSize) {
      const length = min(blockSize, columns - column);
      const scaleValue = load<f32>(scales);
      const zeroValue = load<f32>(zeroPoints);
      const scale = f32x4.splat(scaleValue);
      const zero = f32x4.splat(zeroValue);
      scales += 4;
      zeroPoints += 4;
      let i = 0;
      for (const vectors = length & ~7; i < vectors; i += 8) {
        const a = v128.load(values);
        const b = v128.load(values, 16);
        const c = errorOf(a, loadCodes(codes, kind), zero, scale);
        const d = errorOf(b, loadCodes(codes + (width << 2), kind), zero, scale);
        signals = f32x4.add(signals, f32x4.mul(a, a));
        moreSignals = f32x4.add(moreSignals, f32x4.mul(b, b));
        errors = f32x4.add(errors, f32x4.mul(c, c));
        moreErrors = f32x4.add(moreErrors, f32x4.mul(d, d));
        values += 32;
        codes += width << 3;
        left -= 8;
        if (left <= 0) {
          signal += lanes(f32x4.add(signals, moreSignals));
          error += lanes(f32x4.add(errors, moreErrors));
          signals = f32x4.splat(0);
          errors = f32x4.splat(0);
          moreSignals = f32x4.splat(0);
          moreErrors = f32x4.splat(0);
          left = run;
        }
      }
      for (; i < length; i++) {
        const value = <f64>load<f32>(values);
        const difference = value - (<f64>loadCode(codes, kind) - <f64>zeroValue) * <f64>scaleValue;
        signal += value * value;
        error += difference * difference;
        values += 4;
        codes += width;
      }
    }
  }
  signal += lanes(f32x4.add(signals, moreSignals));
  error += lanes(f32x4.add(errors, moreErrors));
  store<f64>(sums, load<f64>(sums) + signal);
  store<f64>(sums, load<f64>(sums, 8) + error, 8);
}
