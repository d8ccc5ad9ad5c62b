/** What quantizing costs: the squares of values and of their errors, added up. Codes as in quantize.ts. */

import { largestZeroPoint, loadCode, loadCodes, magic, magicBits, quantize, storeCodes } from './quantize';

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

/** Sums of the run that is under way. */
let signals: v128 = f32x4.splat(0);
let errors: v128 = f32x4.splat(0);

/** `quantize` into codes of one byte, and `noise`, in one pass where blocks are whole vectors. */
export function quantizeNoise(
  values: usize,
  rows: i32,
  columns: i32,
  blockSize: i32,
  scales: usize,
  zeroPoints: usize,
  lowest: i32,
  highest: i32,
  codes: usize,
  kind: i32,
  sums: usize,
): void {
  let signal: f64 = 0;
  let error: f64 = 0;
  let left = run;
  signals = f32x4.splat(0);
  errors = f32x4.splat(0);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += blockSize) {
      const length = min(blockSize, columns - column);
      const zeroPoint = load<f32>(zeroPoints);
      if (length % 16 === 0 && nearest<f32>(zeroPoint) === zeroPoint && abs<f32>(zeroPoint) <= largestZeroPoint) {
        for (let done = 0; done < length; ) {
          const step = min(left, length - done);
          const at = values + ((<usize>done) << 2);
          quantizeRun(at, step, load<f32>(scales), zeroPoint, lowest, highest, codes + <usize>done, kind);
          done += step;
          left -= step;
          if (left === 0) {
            signal += lanes(signals);
            error += lanes(errors);
            signals = f32x4.splat(0);
            errors = f32x4.splat(0);
            left = run;
          }
        }
      } else {
        quantize(values, 1, length, length, scales, zeroPoints, lowest, highest, codes, kind);
        noise(values, 1, length, length, scales, zeroPoints, codes, kind, sums);
      }
      scales += 4;
      zeroPoints += 4;
      values += (<usize>length) << 2;
      codes += <usize>length;
    }
  }
  store<f64>(sums, load<f64>(sums) + signal + lanes(signals));
  store<f64>(sums, load<f64>(sums, 8) + error + lanes(errors), 8);
}

/** Whole vectors of 16 values around one integer zero point. */
function quantizeRun(
  values: usize,
  length: i32,
  scaleValue: f32,
  zeroPoint: f32,
  lowest: i32,
  highest: i32,
  codes: usize,
  kind: i32,
): void {
  const scale = f32x4.splat(scaleValue);
  const lows = f32x4.splat(<f32>lowest - zeroPoint);
  const highs = f32x4.splat(<f32>highest - zeroPoint);
  const round = f32x4.splat(magic);
  const bias = i32x4.splat(magicBits - <i32>zeroPoint);
  let signal = signals;
  let error = errors;
  for (const end = values + ((<usize>length) << 2); values < end; values += 64, codes += 16) {
    const a = v128.load(values);
    const b = v128.load(values, 16);
    const c = v128.load(values, 32);
    const d = v128.load(values, 48);
    const p = f32x4.add(f32x4.pmin(highs, f32x4.pmax(lows, f32x4.div(a, scale))), round);
    const q = f32x4.add(f32x4.pmin(highs, f32x4.pmax(lows, f32x4.div(b, scale))), round);
    const r = f32x4.add(f32x4.pmin(highs, f32x4.pmax(lows, f32x4.div(c, scale))), round);
    const s = f32x4.add(f32x4.pmin(highs, f32x4.pmax(lows, f32x4.div(d, scale))), round);
    storeCodes(codes, kind, i32x4.sub(p, bias), i32x4.sub(q, bias), i32x4.sub(r, bias), i32x4.sub(s, bias));
    const e = f32x4.sub(a, f32x4.mul(f32x4.sub(p, round), scale));
    const f = f32x4.sub(b, f32x4.mul(f32x4.sub(q, round), scale));
    const g = f32x4.sub(c, f32x4.mul(f32x4.sub(r, round), scale));
    const h = f32x4.sub(d, f32x4.mul(f32x4.sub(s, round), scale));
    const ab = f32x4.add(f32x4.mul(a, a), f32x4.mul(b, b));
    const cd = f32x4.add(f32x4.mul(c, c), f32x4.mul(d, d));
    const ef = f32x4.add(f32x4.mul(e, e), f32x4.mul(f, f));
    const gh = f32x4.add(f32x4.mul(g, g), f32x4.mul(h, h));
    signal = f32x4.add(signal, f32x4.add(ab, cd));
    error = f32x4.add(error, f32x4.add(ef, gh));
  }
  signals = signal;
  errors = error;
}
