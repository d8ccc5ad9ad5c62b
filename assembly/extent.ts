/** Smallest, largest and special values. */

/** Bits of +infinity; magnitudes from here on are not finite. */
export const infinityBits: u32 = 0x7f800000;

const positiveInfinity: f32 = reinterpret<f32>(0x7f800000);
const negativeInfinity: f32 = reinterpret<f32>(0xff800000);

/** What the last scan saw: smallest and largest value without NaN, and the largest bits of a magnitude. */
export let low: f32 = 0;
export let high: f32 = 0;
export let magnitude: u32 = 0;

function largestLane(lanes: v128): u32 {
  const half = i32x4.max_u(lanes, v128.shuffle<u32>(lanes, lanes, 2, 3, 0, 1));
  return i32x4.extract_lane(i32x4.max_u(half, v128.shuffle<u32>(half, half, 1, 0, 3, 2)), 0);
}

/** Scans `length` floats for their largest magnitude alone. */
export function scanMagnitude(values: usize, length: i32): u32 {
  const mask = i32x4.splat(0x7fffffff);
  let first = i32x4.splat(0);
  let second = i32x4.splat(0);
  const end = values + ((<usize>length) << 2);
  const pairs = values + ((<usize>(length & ~7)) << 2);
  let at = values;
  for (; at < pairs; at += 32) {
    first = i32x4.max_u(first, v128.and(v128.load(at), mask));
    second = i32x4.max_u(second, v128.and(v128.load(at, 16), mask));
  }
  let result = largestLane(i32x4.max_u(first, second));
  for (; at < end; at += 4) {
    const bits = load<u32>(at) & 0x7fffffff;
    if (bits > result) result = bits;
  }
  return result;
}

/** Scans `length` floats into `low`, `high` and `magnitude`. */
export function scan(values: usize, length: i32): void {
  const mask = i32x4.splat(0x7fffffff);
  let lows = f32x4.splat(positiveInfinity);
  let highs = f32x4.splat(negativeInfinity);
  let magnitudes = i32x4.splat(0);
  const end = values + ((<usize>length) << 2);
  const quads = values + ((<usize>(length & ~3)) << 2);
  let at = values;
  for (; at < quads; at += 16) {
    const value = v128.load(at);
    lows = f32x4.pmin(lows, value);
    highs = f32x4.pmax(highs, value);
    magnitudes = i32x4.max_u(magnitudes, v128.and(value, mask));
  }
  lows = f32x4.pmin(lows, v128.shuffle<f32>(lows, lows, 2, 3, 0, 1));
  highs = f32x4.pmax(highs, v128.shuffle<f32>(highs, highs, 2, 3, 0, 1));
  let least = f32x4.extract_lane(f32x4.pmin(lows, v128.shuffle<f32>(lows, lows, 1, 0, 3, 2)), 0);
  let most = f32x4.extract_lane(f32x4.pmax(highs, v128.shuffle<f32>(highs, highs, 1, 0, 3, 2)), 0);
  let bits = largestLane(magnitudes);
  for (; at < end; at += 4) {
    const value = load<f32>(at);
    if (value < least) least = value;
    if (value > most) most = value;
    const own = load<u32>(at) & 0x7fffffff;
    if (own > bits) bits = own;
  }
  low = least;
  high = most;
  magnitude = bits;
}

/** Scans again, finite values alone; 0 and 0 where there is none. */
export function scanFinite(values: usize, length: i32): void {
  let least: f32 = positiveInfinity;
  let most: f32 = negativeInfinity;
  for (const end = values + ((<usize>length) << 2); values < end; values += 4) {
    if ((load<u32>(values) & 0x7fffffff) >= infinityBits) continue;
    const value = load<f32>(values);
    if (value < least) least = value;
    if (value > most) most = value;
  }
  const none = least > most;
  low = none ? 0 : least;
  high = none ? 0 : most;
}

export function blockExtents(
  values: usize,
  rows: i32,
  columns: i32,
  blockSize: i32,
  minima: usize,
  maxima: usize,
): void {
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += blockSize) {
      const length = min(blockSize, columns - column);
      scan(values, length);
      if (magnitude >= infinityBits) scanFinite(values, length);
      // Adding 0 turns −0 into 0.
      store<f32>(minima, low + 0);
      store<f32>(maxima, high + 0);
      minima += 4;
      maxima += 4;
      values += (<usize>length) << 2;
    }
  }
}

/**
 * Scans `length` values, writes the smallest and the largest float to `result` and returns how many zeros there are, or
 * −1 if a value is not finite.
 */
export function extent(values: usize, length: i32, result: usize): i32 {
  const mask = i32x4.splat(0x7fffffff);
  const none = i32x4.splat(0);
  let lows = f32x4.splat(positiveInfinity);
  let highs = f32x4.splat(negativeInfinity);
  let magnitudes = none;
  let zeroLanes = none;
  const end = values + ((<usize>length) << 2);
  const quads = values + ((<usize>(length & ~3)) << 2);
  let at = values;
  for (; at < quads; at += 16) {
    const value = v128.load(at);
    const own = v128.and(value, mask);
    lows = f32x4.pmin(lows, value);
    highs = f32x4.pmax(highs, value);
    magnitudes = i32x4.max_u(magnitudes, own);
    zeroLanes = i32x4.sub(zeroLanes, i32x4.eq(own, none));
  }
  let bits = largestLane(magnitudes);
  let zeros =
    i32x4.extract_lane(zeroLanes, 0) +
    i32x4.extract_lane(zeroLanes, 1) +
    i32x4.extract_lane(zeroLanes, 2) +
    i32x4.extract_lane(zeroLanes, 3);
  lows = f32x4.pmin(lows, v128.shuffle<f32>(lows, lows, 2, 3, 0, 1));
  highs = f32x4.pmax(highs, v128.shuffle<f32>(highs, highs, 2, 3, 0, 1));
  let least = f32x4.extract_lane(f32x4.pmin(lows, v128.shuffle<f32>(lows, lows, 1, 0, 3, 2)), 0);
  let most = f32x4.extract_lane(f32x4.pmax(highs, v128.shuffle<f32>(highs, highs, 1, 0, 3, 2)), 0);
  for (; at < end; at += 4) {
    const value = load<f32>(at);
    const own = load<u32>(at) & 0x7fffffff;
    if (own > bits) bits = own;
    if (own === 0) zeros++;
    if (value < least) least = value;
    if (value > most) most = value;
  }
  store<f32>(result, least + 0);
  store<f32>(result, most + 0, 4);
  return bits >= infinityBits ? -1 : zeros;
}
