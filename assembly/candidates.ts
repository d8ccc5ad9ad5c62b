/**
 * Lists of grids to try on a block in fixed point, and their sums: see `Candidates` in src/kernel/fit.ts. A list holds for
 * all grids, one behind the other: factor and −offset (16 bits each, next to each other), lowest level, highest level (16
 * bits each) and zero point (64 bits). Elements come as 16-bit numbers, and as pairs of these with −2^15: one product of
 * pairs is element·factor + offset·2^15.
 */

/** Most grids of a list. */
const most: usize = 192;

const lowAt: usize = 4 * most;
const highAt: usize = 6 * most;
const zeroAt: usize = 8 * most;

/** Sums of the list at hand: Σ w·element·level, Σ w·level² and Σ w·level of the even elements, or of all. */
export const crosses: usize = memory.data(1536, 16);
export const squares: usize = memory.data(1536, 16);
export const linears: usize = memory.data(1536, 16);

/** The same of the odd elements, with importance. */
const oddCrosses: usize = memory.data(1536, 16);
const oddSquares: usize = memory.data(1536, 16);
const oddLinears: usize = memory.data(1536, 16);

/** The nearest number of 16 bits and a sign, saturated. */
export function toFixed(value: f64): i16 {
  return <i16>nearest<f64>(min<f64>(max<f64>(value, -32767), 32767));
}

/** What stands beside every element in its pair. */
export const partner: i16 = -32768;

export function setCandidate(list: usize, index: i32, factor: f64, offset: f64, low: f64, high: f64, zero: f64): void {
  const at = list + ((<usize>index) << 1);
  store<i16>(at + ((<usize>index) << 1), toFixed(factor));
  store<i16>(at + ((<usize>index) << 1), -toFixed(offset), 2);
  store<i16>(at + lowAt, <i16>low);
  store<i16>(at + highAt, <i16>high);
  store<f64>(list + zeroAt + ((<usize>index) << 3), zero);
}

/** 1.5·2^52: doubles near it hold an integer in their lowest bits. */
const magic: f64 = 6755399441055744;

/** Stores the lowest 16 bits of two integers, `step` bytes apart. */
function storePair(at: usize, step: usize, integers: v128): void {
  const bits = f64x2.add(integers, f64x2.splat(magic));
  v128.store_lane<u16>(at, bits, 0);
  v128.store_lane<u16>(at + step, bits, 4);
}

/** Two neighbouring grids at once. */
export function setPair(
  list: usize,
  index: i32,
  factors: v128,
  offsets: v128,
  lows: v128,
  highs: v128,
  zeros: v128,
): void {
  const place = <usize>index;
  const limit = f64x2.splat(32767);
  storePair(list + (place << 2), 4, f64x2.pmin(limit, f64x2.pmax(f64x2.neg(limit), factors)));
  storePair(list + (place << 2) + 2, 4, f64x2.neg(offsets));
  storePair(list + (place << 1) + lowAt, 2, lows);
  storePair(list + (place << 1) + highAt, 2, highs);
  v128.store(list + zeroAt + (place << 3), zeros);
}

/** Changes one factor. */
export function setFactor(list: usize, index: i32, factor: f64): void {
  store<i16>(list + ((<usize>index) << 2), toFixed(factor));
}

export function zeroPointOf(list: usize, index: i32): f64 {
  return load<f64>(list + zeroAt + ((<usize>index) << 3));
}

/** Sums begin at zero. */
export function clearSums(count: i32, linear: bool): void {
  const none = i64x2.splat(0);
  for (let i: usize = 0; i < (<usize>count) << 3; i += 16) {
    v128.store(crosses + i, none);
    v128.store(squares + i, none);
    if (linear) v128.store(linears + i, none);
  }
}

/** The same, of even and odd elements. */
export function clearOddSums(count: i32): void {
  const none = i64x2.splat(0);
  for (let i: usize = 0; i < (<usize>count) << 3; i += 16) {
    v128.store(oddCrosses + i, none);
    v128.store(oddSquares + i, none);
    v128.store(oddLinears + i, none);
  }
}

/** Adds the sums of the odd elements to those of the even ones. */
export function joinSums(count: i32): void {
  for (let i: usize = 0; i < (<usize>count) << 3; i += 8) {
    store<f64>(crosses + i, load<f64>(crosses + i) + load<f64>(oddCrosses + i));
    store<f64>(squares + i, load<f64>(squares + i) + load<f64>(oddSquares + i));
    store<f64>(linears + i, load<f64>(linears + i) + load<f64>(oddLinears + i));
  }
}

/** Tags for what differs between loops at compile time: the bits behind the point, and whether Σ level is needed. */
export type SixBits = u8;
export type TenBits = u16;
export type WithLinear = u8;
export type WithoutLinear = u16;

/** Eight levels of two times four pairs. */
function levels<Bits>(front: v128, back: v128, factor: v128, low: v128, high: v128): v128 {
  const a = i32x4.dot_i16x8_s(front, factor);
  const b = i32x4.dot_i16x8_s(back, factor);
  const level =
    sizeof<Bits>() === sizeof<SixBits>()
      ? i16x8.narrow_i32x4_s(i32x4.shr_s(a, 21), i32x4.shr_s(b, 21))
      : i16x8.narrow_i32x4_s(i32x4.shr_s(a, 25), i32x4.shr_s(b, 25));
  return i16x8.max_s(low, i16x8.min_s(high, level));
}

/** Adds four sums of four lanes to pairs of doubles: a and b to `first`, c and d to `second`. */
function addSums(a: v128, b: v128, c: v128, d: v128, first: usize, second: usize): void {
  const front = joinLanes(a, b);
  const back = joinLanes(c, d);
  v128.store(first, f64x2.add(v128.load(first), f64x2.convert_low_i32x4_s(front)));
  v128.store(second, f64x2.add(v128.load(second), f64x2.convert_low_i32x4_s(back)));
}

/** The sums of the lanes of a and b, in the first two lanes. */
function joinLanes(a: v128, b: v128): v128 {
  const sums = i32x4.add(v128.shuffle<u32>(a, b, 0, 4, 1, 5), v128.shuffle<u32>(a, b, 2, 6, 3, 7));
  return i32x4.add(sums, v128.shuffle<u64>(sums, sums, 1, 0));
}

/** Elements after which sums of 32 bits are added to doubles: 256·32767·255 < 2^31. */
const chunk = 256;

/**
 * Adds the sums of two neighbouring grids over `length` elements, a multiple of 8 and at most `chunk`; the last `padding`
 * elements are zeros that do not count.
 */
function sumPair<Bits, Linear>(
  list: usize,
  index: i32,
  elements: usize,
  pairs: usize,
  length: i32,
  padding: i32,
): void {
  const at = list + ((<usize>index) << 1);
  const factor = v128.load32_splat(at + ((<usize>index) << 1));
  const nextFactor = v128.load32_splat(at + ((<usize>index) << 1), 4);
  const low = v128.load16_splat(at + lowAt);
  const nextLow = v128.load16_splat(at + lowAt, 2);
  const high = v128.load16_splat(at + highAt);
  const nextHigh = v128.load16_splat(at + highAt, 2);
  const ones = i16x8.splat(1);
  let cross = i32x4.splat(0);
  let square = i32x4.splat(0);
  let linear = i32x4.splat(0);
  let nextCross = i32x4.splat(0);
  let nextSquare = i32x4.splat(0);
  let nextLinear = i32x4.splat(0);
  for (const end = elements + ((<usize>length) << 1); elements < end; elements += 16, pairs += 32) {
    const own = v128.load(elements);
    const front = v128.load(pairs);
    const back = v128.load(pairs, 16);
    const level = levels<Bits>(front, back, factor, low, high);
    cross = i32x4.add(cross, i32x4.dot_i16x8_s(own, level));
    square = i32x4.add(square, i32x4.dot_i16x8_s(level, level));
    const nextLevel = levels<Bits>(front, back, nextFactor, nextLow, nextHigh);
    nextCross = i32x4.add(nextCross, i32x4.dot_i16x8_s(own, nextLevel));
    nextSquare = i32x4.add(nextSquare, i32x4.dot_i16x8_s(nextLevel, nextLevel));
    if (sizeof<Linear>() === sizeof<WithLinear>()) {
      linear = i32x4.add(linear, i32x4.dot_i16x8_s(level, ones));
      nextLinear = i32x4.add(nextLinear, i32x4.dot_i16x8_s(nextLevel, ones));
    }
  }
  const sums = (<usize>index) << 3;
  addSums(cross, nextCross, square, nextSquare, crosses + sums, squares + sums);
  if (sizeof<Linear>() === sizeof<WithLinear>()) {
    const none = i32x4.splat(0);
    addSums(linear, nextLinear, none, none, linears + sums, squares + sums);
    if (padding > 0) {
      const zero = i32x4.splat((<i32>partner) << 16);
      const idle = <f64>i16x8.extract_lane_s(levels<Bits>(zero, zero, factor, low, high), 0);
      const nextIdle = <f64>i16x8.extract_lane_s(levels<Bits>(zero, zero, nextFactor, nextLow, nextHigh), 0);
      const count = <f64>padding;
      store<f64>(linears + sums, load<f64>(linears + sums) - count * idle);
      store<f64>(linears + sums, load<f64>(linears + sums, 8) - count * nextIdle, 8);
      store<f64>(squares + sums, load<f64>(squares + sums) - count * idle * idle);
      store<f64>(squares + sums, load<f64>(squares + sums, 8) - count * nextIdle * nextIdle, 8);
    }
  }
}

/**
 * The same for a list whose grids differ in their factors alone, and without Σ level. What is read once stays in
 * registers.
 */
function sumPairs<Bits>(list: usize, count: i32, elements: usize, pairs: usize, length: i32): void {
  const low = v128.load16_splat(list + lowAt);
  const high = v128.load16_splat(list + highAt);
  const end = elements + ((<usize>length) << 1);
  for (let index: usize = 0; index < <usize>count; index += 2) {
    const factor = v128.load32_splat(list + (index << 2));
    const nextFactor = v128.load32_splat(list + (index << 2), 4);
    let cross = i32x4.splat(0);
    let square = i32x4.splat(0);
    let nextCross = i32x4.splat(0);
    let nextSquare = i32x4.splat(0);
    let pair = pairs;
    for (let at = elements; at < end; at += 16, pair += 32) {
      const own = v128.load(at);
      const front = v128.load(pair);
      const back = v128.load(pair, 16);
      const level = levels<Bits>(front, back, factor, low, high);
      cross = i32x4.add(cross, i32x4.dot_i16x8_s(own, level));
      square = i32x4.add(square, i32x4.dot_i16x8_s(level, level));
      const nextLevel = levels<Bits>(front, back, nextFactor, low, high);
      nextCross = i32x4.add(nextCross, i32x4.dot_i16x8_s(own, nextLevel));
      nextSquare = i32x4.add(nextSquare, i32x4.dot_i16x8_s(nextLevel, nextLevel));
    }
    addSums(cross, nextCross, square, nextSquare, crosses + (index << 3), squares + (index << 3));
  }
}

/** Adds the sums of all grids of a list that differ in their factors alone. */
export function correlateShared<Bits>(list: usize, count: i32, elements: usize, pairs: usize, length: i32): void {
  for (let start = 0; start < length; start += chunk) {
    const own = (min(chunk, length - start) + 7) & ~7;
    sumPairs<Bits>(list, count, elements + ((<usize>start) << 1), pairs + ((<usize>start) << 2), own);
  }
}

/** Adds the sums of all grids of a list, an even number with zeros behind, over elements padded to a multiple of 8. */
export function correlate<Bits, Linear>(list: usize, count: i32, elements: usize, pairs: usize, length: i32): void {
  for (let start = 0; start < length; start += chunk) {
    const own = min(chunk, length - start);
    const padded = (own + 7) & ~7;
    const at = elements + ((<usize>start) << 1);
    const pairsAt = pairs + ((<usize>start) << 2);
    for (let index = 0; index < count; index += 2) {
      sumPair<Bits, Linear>(list, index, at, pairsAt, padded, padded - own);
    }
  }
}

/** Two levels of four or more, as doubles: the first two, or those behind. */
function frontLevels(levels: v128): v128 {
  return f64x2.convert_low_i32x4_s(levels);
}

function backLevels(levels: v128): v128 {
  return f64x2.convert_low_i32x4_s(v128.shuffle<u64>(levels, levels, 1, 0));
}

/**
 * Adds the weighted sums of all grids over elements padded to a multiple of 8; padding has the weight 0. The elements come
 * as pairs and as doubles.
 */
export function correlateWeighted<Bits>(
  list: usize,
  count: i32,
  pairs: usize,
  length: i32,
  doubles: usize,
  weights: usize,
): void {
  for (let index: usize = 0; index < <usize>count; index++) {
    const at = list + (index << 1);
    const sums = index << 3;
    const factor = v128.load32_splat(at + (index << 1));
    const low = v128.load16_splat(at + lowAt);
    const high = v128.load16_splat(at + highAt);
    let cross = f64x2.replace_lane(v128.load64_splat(crosses + sums), 1, load<f64>(oddCrosses + sums));
    let square = f64x2.replace_lane(v128.load64_splat(squares + sums), 1, load<f64>(oddSquares + sums));
    let linear = f64x2.replace_lane(v128.load64_splat(linears + sums), 1, load<f64>(oddLinears + sums));
    for (let i: usize = 0; i < <usize>length; i += 8) {
      const pair = pairs + (i << 2);
      const level = levels<Bits>(v128.load(pair), v128.load(pair, 16), factor, low, high);
      const front = i32x4.extend_low_i16x8_s(level);
      const back = i32x4.extend_high_i16x8_s(level);
      const weight = weights + (i << 3);
      const element = doubles + (i << 3);
      const a = frontLevels(front);
      const b = backLevels(front);
      const c = frontLevels(back);
      const d = backLevels(back);
      const weightedA = f64x2.mul(v128.load(weight), a);
      const weightedB = f64x2.mul(v128.load(weight, 16), b);
      const weightedC = f64x2.mul(v128.load(weight, 32), c);
      const weightedD = f64x2.mul(v128.load(weight, 48), d);
      cross = f64x2.add(cross, f64x2.mul(weightedA, v128.load(element)));
      cross = f64x2.add(cross, f64x2.mul(weightedB, v128.load(element, 16)));
      cross = f64x2.add(cross, f64x2.mul(weightedC, v128.load(element, 32)));
      cross = f64x2.add(cross, f64x2.mul(weightedD, v128.load(element, 48)));
      square = f64x2.add(square, f64x2.mul(weightedA, a));
      square = f64x2.add(square, f64x2.mul(weightedB, b));
      square = f64x2.add(square, f64x2.mul(weightedC, c));
      square = f64x2.add(square, f64x2.mul(weightedD, d));
      linear = f64x2.add(f64x2.add(linear, weightedA), weightedB);
      linear = f64x2.add(f64x2.add(linear, weightedC), weightedD);
    }
    store<f64>(crosses + sums, f64x2.extract_lane(cross, 0));
    store<f64>(squares + sums, f64x2.extract_lane(square, 0));
    store<f64>(linears + sums, f64x2.extract_lane(linear, 0));
    store<f64>(oddCrosses + sums, f64x2.extract_lane(cross, 1));
    store<f64>(oddSquares + sums, f64x2.extract_lane(square, 1));
    store<f64>(oddLinears + sums, f64x2.extract_lane(linear, 1));
  }
}

// What `refit` adds: sums of the elements by their index modulo 4.
let crossFront: v128 = i64x2.splat(0);
let crossBack: v128 = i64x2.splat(0);
let firstFront: v128 = i64x2.splat(0);
let firstBack: v128 = i64x2.splat(0);

/** Begins to refit. */
export function clearRefit(): void {
  crossFront = i64x2.splat(0);
  crossBack = i64x2.splat(0);
  firstFront = i64x2.splat(0);
  firstBack = i64x2.splat(0);
}

function total(front: v128, back: v128): f64 {
  const lower = f64x2.extract_lane(front, 0) + f64x2.extract_lane(front, 1);
  return lower + (f64x2.extract_lane(back, 0) + f64x2.extract_lane(back, 1));
}

/** Σ w·value·level. */
export function refitCross(): f64 {
  return total(crossFront, crossBack);
}

/** Σ w·value. */
export function refitFirst(): f64 {
  return total(firstFront, firstBack);
}

/** The last elements of a block, with zeros behind: there lies another block. */
const lastValues: usize = memory.data(32, 16);

/** Adds Σ w·value·level of one grid and Σ w·value, with the values themselves; `weights` is 0 without importance. */
export function refit<Bits>(list: usize, index: i32, values: usize, pairs: usize, length: i32, weights: usize): void {
  const at = list + ((<usize>index) << 1);
  const factor = v128.load32_splat(at + ((<usize>index) << 1));
  const low = v128.load16_splat(at + lowAt);
  const high = v128.load16_splat(at + highAt);
  const vectors = <usize>(length & ~7);
  let cross = crossFront;
  let otherCross = crossBack;
  let first = firstFront;
  let otherFirst = firstBack;
  for (let i: usize = 0; i < <usize>length; i += 8) {
    let own = values + (i << 2);
    if (i === vectors) {
      v128.store(lastValues, i64x2.splat(0));
      v128.store(lastValues, i64x2.splat(0), 16);
      memory.copy(lastValues, own, (<usize>length - i) << 2);
      own = lastValues;
    }
    const pair = pairs + (i << 2);
    const level = levels<Bits>(v128.load(pair), v128.load(pair, 16), factor, low, high);
    const front = i32x4.extend_low_i16x8_s(level);
    const back = i32x4.extend_high_i16x8_s(level);
    let a = f64x2.promote_low_f32x4(v128.load64_zero(own));
    let b = f64x2.promote_low_f32x4(v128.load64_zero(own, 8));
    let c = f64x2.promote_low_f32x4(v128.load64_zero(own, 16));
    let d = f64x2.promote_low_f32x4(v128.load64_zero(own, 24));
    if (weights !== 0) {
      a = f64x2.mul(v128.load(weights + (i << 3)), a);
      b = f64x2.mul(v128.load(weights + (i << 3), 16), b);
      c = f64x2.mul(v128.load(weights + (i << 3), 32), c);
      d = f64x2.mul(v128.load(weights + (i << 3), 48), d);
    }
    cross = f64x2.add(cross, f64x2.mul(a, frontLevels(front)));
    otherCross = f64x2.add(otherCross, f64x2.mul(b, backLevels(front)));
    cross = f64x2.add(cross, f64x2.mul(c, frontLevels(back)));
    otherCross = f64x2.add(otherCross, f64x2.mul(d, backLevels(back)));
    first = f64x2.add(f64x2.add(first, a), c);
    otherFirst = f64x2.add(f64x2.add(otherFirst, b), d);
  }
  crossFront = cross;
  crossBack = otherCross;
  firstFront = first;
  firstBack = otherFirst;
}
