/** Parameters of the grids that cover blocks whole: see `coverInterval` in src/kernel/grid.ts. */
import { high, infinityBits, low, magnitude, scan, scanMagnitude } from './extent';

/** The smallest normal float32. */
export const smallestScale: f64 = reinterpret<f32>(0x00800000);
export const largestFloat: f32 = reinterpret<f32>(0x7f7fffff);

/** The nearest number that float16 holds, ties to even. */
function roundToHalf(value: f32): f32 {
  const bits = reinterpret<u32>(value);
  const sign = bits & 0x80000000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > infinityBits) return value;
  if (magnitude >= 0x477ff000) return reinterpret<f32>(sign | infinityBits);
  if (magnitude < 0x38800000) {
    // Between ½ and 1 floats are 2^−24 apart, as float16's smallest numbers are.
    return reinterpret<f32>(sign | reinterpret<u32>(reinterpret<f32>(magnitude) + <f32>0.5 - <f32>0.5));
  }
  return reinterpret<f32>(sign | ((magnitude + 0xfff + ((magnitude >>> 13) & 1)) & ~0x1fff));
}

/** Rounds to how parameters are stored: float16 if `half`, else float32. */
export function stored(value: f64, half: bool): f32 {
  return half ? roundToHalf(<f32>value) : <f32>value;
}

/** The parameters of the last `coverInterval`. */
export let coverScale: f32 = 0;
export let coverZeroPoint: f32 = 0;

/** `least` ≤ 0 ≤ `most`. */
export function coverInterval(
  least: f64,
  most: f64,
  lowest: f64,
  highest: f64,
  zeroPoint: f64,
  symmetric: bool,
  floatZeroPoint: bool,
  half: bool,
): void {
  const span = symmetric ? 2 * (-least > most ? -least : most) : most - least;
  const steps = symmetric ? 2 * (highest - zeroPoint) : highest - lowest;
  let scale = <f32>(span / steps);
  if (scale > largestFloat) scale = largestFloat;
  const degenerate = !(<f64>scale >= smallestScale);
  if (degenerate) scale = 1;
  coverScale = stored(scale, half);
  if (symmetric) coverZeroPoint = <f32>zeroPoint;
  else if (floatZeroPoint) coverZeroPoint = stored(lowest - least / <f64>coverScale, half);
  else if (degenerate) coverZeroPoint = <f32>lowest;
  else {
    const code = lowest + <f64>nearest<f32>(<f32>-least / scale);
    coverZeroPoint = <f32>(code > highest ? highest : code);
  }
}

export function cover(
  values: usize,
  rows: i32,
  columns: i32,
  blockSize: i32,
  lowest: f64,
  highest: f64,
  zeroPoint: f64,
  symmetric: bool,
  floatZeroPoint: bool,
  half: bool,
  scales: usize,
  zeroPoints: usize,
): void {
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += blockSize) {
      const length = min(blockSize, columns - column);
      let bits: u32 = 0;
      if (symmetric) {
        bits = scanMagnitude(values, length);
        coverInterval(0, reinterpret<f32>(bits), lowest, highest, zeroPoint, symmetric, floatZeroPoint, half);
      } else {
        scan(values, length);
        bits = magnitude;
        const least = min<f32>(low, 0);
        const most = max<f32>(high, 0);
        coverInterval(least, most, lowest, highest, zeroPoint, symmetric, floatZeroPoint, half);
      }
      const finite = bits < infinityBits;
      store<f32>(scales, finite ? coverScale : <f32>NaN);
      store<f32>(zeroPoints, finite ? coverZeroPoint : 0);
      scales += 4;
      zeroPoints += 4;
      values += (<usize>length) << 2;
    }
  }
}
