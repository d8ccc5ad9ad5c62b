/**
 * The search for scale and zero point of src/kernel/fit.ts, number for number. It goes by stages, each a list of grids
 * whose sums are taken over the block; blocks longer than the memory are gone through window by window in each stage.
 */
import {
  clearOddSums,
  clearRefit,
  clearSums,
  correlate,
  correlateShared,
  correlateWeighted,
  crosses,
  joinSums,
  linears,
  partner,
  refit,
  refitCross,
  refitFirst,
  SixBits,
  setCandidate,
  setFactor,
  setPair,
  squares,
  TenBits,
  WithLinear,
  WithoutLinear,
  zeroPointOf,
} from './candidates';
import { coverInterval, coverScale, coverZeroPoint, largestFloat, smallestScale, stored } from './cover';
import { high, infinityBits, low, magnitude, scan } from './extent';

const magic: f32 = 12582912;
const magicBits: i32 = 0x4b400000;

/** 2^−100. */
const smallestMagnitude: f32 = reinterpret<f32>(0x0d800000);
const largestSteps: f64 = 255;
const signedMaxSteps = 9;
const shrinkSteps = 20;
const endSteps = 10;
const floatZeroSteps = 18;

// The stages, in order. Each that tries grids is followed by one that refits the best of them, and unless the grid is
// symmetric by one that tries the result as it is stored.
const tryCover = 0;
const tryFixedZero = 1;
const tryIntegerZero = 4;
const tryFloatZero = 7;
const end = 10;

// What `fitConfigure` was given.
let lowest: f64 = 0;
let highest: f64 = 0;
let middle: f64 = 0;
let symmetric = false;
let floatZeroPoint = false;
let half = false;
let positiveScale = false;
/** Whether levels have six bits behind the point, or ten. */
let wide = false;
let one: f64 = 0;

/** Grids around the fixed zero point, for a largest element above zero and below. They are the same for all blocks. */
const fixedZero: usize = memory.data(3072, 16);
const mirroredZero: usize = memory.data(3072, 16);
let fixedZeroCount = 0;
const others: usize = memory.data(3072, 16);

// The block at hand.
let stage = 0;
let list: usize = 0;
let count = 0;
let linear = false;
let weighted = false;
let unit: f64 = 1;
let least: f64 = 0;
let most: f64 = 0;
let evenWeight: f64 = 0;
let oddWeight: f64 = 0;
let evenFirst: f64 = 0;
let oddFirst: f64 = 0;
let error: f64 = 0;
let scale: f32 = 0;
let zeroPoint: f64 = 0;
/** The grid to be refitted. */
let bestIndex = -1;
/** Parameters to be tried as they are stored. */
let offeredScale: f32 = 0;
let offeredZero: f64 = 0;

export function fitScale(): f32 {
  return scale;
}

export function fitZeroPoint(): f32 {
  return <f32>zeroPoint;
}

export function fitConfigure(
  gridLowest: f64,
  gridHighest: f64,
  gridZeroPoint: f64,
  isSymmetric: bool,
  hasFloatZeroPoint: bool,
  hasHalfScales: bool,
  hasPositiveScales: bool,
): void {
  lowest = gridLowest;
  highest = gridHighest;
  middle = gridZeroPoint;
  symmetric = isSymmetric;
  floatZeroPoint = hasFloatZeroPoint;
  half = hasHalfScales;
  positiveScale = hasPositiveScales;
  wide = highest - lowest > 15;
  one = wide ? 64 : 1024;
  const bottom = lowest - middle;
  const top = highest - middle;
  const factor = (32768 * one) / 32767;
  let index = 0;
  if (positiveScale) {
    for (let i = 0; i <= shrinkSteps; i++) {
      const shrunk = (top / (1 - 0.025 * <f64>i)) * factor;
      setCandidate(fixedZero, index, shrunk, 0.5 * one, bottom, top, middle);
      setCandidate(mirroredZero, index++, shrunk, 0.5 * one, bottom, top, middle);
    }
  }
  if (!positiveScale || top < -bottom) {
    const direction = positiveScale ? factor : -factor;
    for (let step = -signedMaxSteps; step <= signedMaxSteps; step++) {
      const stretched = 0.1 * <f64>step - bottom;
      setCandidate(fixedZero, index, stretched * direction, 0.5 * one, bottom, top, middle);
      setCandidate(mirroredZero, index++, stretched * factor, 0.5 * one, bottom, top, middle);
    }
  }
  fixedZeroCount = index;
  // The place behind is for the grid that covers the block.
  for (let i = 0; i < 2; i++) {
    setCandidate(fixedZero, index + i, 0, 0.5 * one, bottom, top, middle);
    setCandidate(mirroredZero, index + i, 0, 0.5 * one, bottom, top, middle);
  }
}

/** Makes a list even. */
function pad(target: usize, length: i32): void {
  if (length & 1) setCandidate(target, length, 0, 0, 0, 0, 0);
}

/** Begins with a block that reaches from `low` to `high`. Returns whether there is anything to search. */
export function fitStart(blockLow: f32, blockHigh: f32, isWeighted: bool): bool {
  least = min<f64>(blockLow, 0);
  most = max<f64>(blockHigh, 0);
  weighted = isWeighted;
  coverInterval(least, most, lowest, highest, middle, symmetric, floatZeroPoint, half);
  scale = coverScale;
  zeroPoint = coverZeroPoint;
  const largest = <f32>max(-least, most);
  if (largest < smallestMagnitude || highest - lowest > largestSteps) return false;
  unit = <f64>(<f32>32767 / largest);
  evenWeight = 0;
  oddWeight = 0;
  evenFirst = 0;
  oddFirst = 0;
  error = Infinity;
  if (symmetric) {
    // The grid that covers the block is tried together with the others around the same zero point.
    stage = tryFixedZero;
    const target = select<usize>(mirroredZero, fixedZero, -least > most);
    setFactor(target, fixedZeroCount, (32768 * one) / (<f64>scale * unit));
    begin(target, fixedZeroCount + 1, false);
  } else {
    stage = tryCover;
    offeredScale = scale;
    offeredZero = zeroPoint;
    prepareStored();
  }
  return true;
}

/** A list of the parameters that are on offer. */
function prepareStored(): void {
  const factor = (32768 * one) / (<f64>offeredScale * unit);
  const zero = floatZeroPoint ? offeredZero - lowest : 0;
  const base = floatZeroPoint ? lowest : offeredZero;
  setCandidate(others, 0, factor, zero * one + 0.5 * one, lowest - base, highest - base, offeredZero);
  pad(others, 1);
  begin(others, 1, floatZeroPoint);
}

function begin(target: usize, length: i32, needsLinear: bool): void {
  list = target;
  count = length;
  linear = needsLinear || weighted;
  clearSums(count, linear);
  if (weighted) clearOddSums(count);
}

/**
 * Brings the block, or a window of it, into fixed point, padded to a multiple of 8: numbers of 16 bits, and pairs of them
 * with their partner.
 */
function toFixedPoint(values: usize, length: i32, elements: usize, pairs: usize): void {
  const factor = f32x4.splat(<f32>unit);
  const rounding = f32x4.splat(magic);
  const bias = i32x4.splat(magicBits);
  const partners = i16x8.splat(partner);
  const stop = elements + ((<usize>(length & ~7)) << 1);
  let at = elements;
  for (; at < stop; at += 16, values += 32, pairs += 32) {
    const front = i32x4.sub(f32x4.add(f32x4.mul(v128.load(values), factor), rounding), bias);
    const back = i32x4.sub(f32x4.add(f32x4.mul(v128.load(values, 16), factor), rounding), bias);
    storeFixed(i16x8.narrow_i32x4_s(front, back), partners, at, pairs);
  }
  if ((length & 7) === 0) return;
  v128.store(at, i64x2.splat(0));
  let last = at;
  for (const behind = elements + ((<usize>length) << 1); last < behind; last += 2, values += 4) {
    store<i16>(last, <i16>nearest<f32>(load<f32>(values) * <f32>unit));
  }
  storeFixed(v128.load(at), partners, at, pairs);
}

function storeFixed(fixed: v128, partners: v128, at: usize, pairs: usize): void {
  v128.store(at, fixed);
  v128.store(pairs, v128.shuffle<u16>(fixed, partners, 0, 8, 1, 9, 2, 10, 3, 11));
  v128.store(pairs, v128.shuffle<u16>(fixed, partners, 4, 12, 5, 13, 6, 14, 7, 15), 16);
}

/** Writes weights and elements as doubles, padded to a multiple of 8. */
function toDoubles(
  importance: usize,
  importanceLength: i32,
  column: i32,
  elements: usize,
  length: i32,
  doubles: usize,
  weights: usize,
): void {
  const padded = (length + 7) & ~7;
  for (let i = 0; i < padded; i++) {
    const at = (<usize>i) << 3;
    store<f64>(doubles + at, <f64>load<i16>(elements + ((<usize>i) << 1)));
    if (i >= length) {
      store<f64>(weights + at, 0);
      continue;
    }
    store<f64>(weights + at, <f64>load<f32>(importance + ((<usize>column) << 2)));
    column = column + 1 === importanceLength ? 0 : column + 1;
  }
}

/** Adds Σ w and Σ w·element. */
function addFirst(elements: usize, length: i32, weights: usize): void {
  if (!weighted) {
    let sum: i64 = 0;
    for (let i: usize = 0; i < <usize>length; i++) sum += load<i16>(elements + (i << 1));
    evenWeight += <f64>length;
    evenFirst += <f64>sum;
    return;
  }
  for (let i: usize = 0; i < <usize>length; i += 2) {
    const own = load<f64>(weights + (i << 3));
    const next = load<f64>(weights + (i << 3), 8);
    evenWeight += own;
    oddWeight += next;
    evenFirst += own * <f64>load<i16>(elements + (i << 1));
    oddFirst += next * <f64>load<i16>(elements + (i << 1), 2);
  }
}

// Where the window at hand lies, in all its forms.
let elements: usize = 0;
let pairs: usize = 0;
let doubles: usize = 0;
let weights: usize = 0;

/** Lays a window out in scratch, and fills in the forms that are needed. */
function prepareWindow(
  values: usize,
  length: i32,
  importance: usize,
  importanceLength: i32,
  column: i32,
  scratch: usize,
): void {
  const padded = <usize>((length + 7) & ~7);
  elements = scratch;
  pairs = elements + (padded << 1);
  doubles = pairs + (padded << 2);
  weights = doubles + (padded << 3);
  toFixedPoint(values, length, elements, pairs);
  if (weighted) toDoubles(importance, importanceLength, column, elements, length, doubles, weights);
}

/** Adds the window at hand to the sums of this stage. */
function addWindow(values: usize, length: i32): void {
  if (stage === tryCover && floatZeroPoint) addFirst(elements, length, weights);
  if (bestIndex >= 0) {
    if (wide) refit<SixBits>(list, bestIndex, values, pairs, length, weighted ? weights : 0);
    else refit<TenBits>(list, bestIndex, values, pairs, length, weighted ? weights : 0);
  } else if (weighted) {
    if (wide) correlateWeighted<SixBits>(list, count, pairs, length, doubles, weights);
    else correlateWeighted<TenBits>(list, count, pairs, length, doubles, weights);
  } else if (linear) {
    if (wide) correlate<SixBits, WithLinear>(list, count, elements, pairs, length);
    else correlate<TenBits, WithLinear>(list, count, elements, pairs, length);
  } else if (stage === tryFixedZero) {
    if (wide) correlateShared<SixBits>(list, count, elements, pairs, length);
    else correlateShared<TenBits>(list, count, elements, pairs, length);
  } else {
    if (wide) correlate<SixBits, WithoutLinear>(list, count, elements, pairs, length);
    else correlate<TenBits, WithoutLinear>(list, count, elements, pairs, length);
  }
}

/**
 * Adds a window of the block to the sums of this stage. Windows but the last have a multiple of 8 elements. `scratch` is
 * room for 22 bytes an element, and 176 more.
 */
export function fitAdd(values: usize, length: i32, importance: usize, importanceLength: i32, scratch: usize): void {
  prepareWindow(values, length, importance, importanceLength, 0, scratch);
  addWindow(values, length);
}

/** Keeps stored parameters if with the levels of a grid, around level `zero`, they have the least error yet. */
function keep(index: i32, ownScale: f32, ownZeroPoint: f64, zero: f64): void {
  const at = (<usize>index) << 3;
  const step = <f64>ownScale * unit;
  const cross = load<f64>(crosses + at) - zero * (evenFirst + oddFirst);
  const sum = linear ? load<f64>(linears + at) : 0;
  const square = load<f64>(squares + at) - 2 * zero * sum + zero * zero * (evenWeight + oddWeight);
  const own = step * (step * square - 2 * cross);
  if (own < error) {
    error = own;
    scale = ownScale;
    zeroPoint = ownZeroPoint;
  }
}

/** Rounds parameters as they are stored. Returns whether there is something to keep. */
function offer(exact: f64, exactZero: f64): bool {
  const size = abs<f64>(exact);
  if (!(size >= smallestScale && size <= <f64>largestFloat)) return false;
  offeredScale = stored(exact, half);
  offeredZero = floatZeroPoint ? <f64>stored(exactZero, half) : exactZero;
  return offeredScale !== 0 && abs<f32>(offeredScale) <= largestFloat;
}

/** The first of the best grids by their least-squares scale, or −1. */
function bestOf(): i32 {
  let best = f64x2.splat(0);
  let found = f64x2.splat(-1);
  let indices = f64x2.replace_lane(f64x2.splat(0), 1, 1);
  const two = f64x2.splat(2);
  for (let at: usize = 0; at < (<usize>count) << 3; at += 16) {
    const cross = v128.load(crosses + at);
    const scores = f64x2.div(f64x2.mul(cross, cross), v128.load(squares + at));
    const better = f64x2.gt(scores, best);
    best = v128.bitselect(scores, best, better);
    found = v128.bitselect(indices, found, better);
    indices = f64x2.add(indices, two);
  }
  const even = f64x2.extract_lane(best, 0);
  const odd = f64x2.extract_lane(best, 1);
  const first = <i32>f64x2.extract_lane(found, 0);
  const second = <i32>f64x2.extract_lane(found, 1);
  return even > odd || (even === odd && first < second) ? first : second;
}

let solvedStep: f64 = 0;
let solvedOffset: f64 = 0;

/** Step and offset that fit the levels of a grid best, from Σ w·value·level and Σ w·value; the step NaN without. */
function solve(index: i32, cross: f64, first: f64): void {
  const weight = evenWeight + oddWeight;
  const at = (<usize>index) << 3;
  const square = load<f64>(squares + at);
  const sum = load<f64>(linears + at);
  const determinant = weight * square - sum * sum;
  if (!(determinant > 0)) {
    solvedStep = NaN;
    solvedOffset = 0;
    return;
  }
  solvedOffset = (square * first - sum * cross) / determinant;
  if (solvedOffset > 0) {
    solvedStep = cross / square;
    solvedOffset = 0;
  } else solvedStep = (weight * cross - first * sum) / determinant;
}

/** The best of all grids by their least-squares scale and offset, or −1. */
function bestWithOffset(): i32 {
  const first = evenFirst + oddFirst;
  let best: f64 = -Infinity;
  let found = -1;
  for (let index = 0; index < count; index++) {
    const cross = load<f64>(crosses + ((<usize>index) << 3));
    solve(index, cross, first);
    const score = solvedStep * cross + solvedOffset * first;
    if (score > best && solvedStep > 0) {
      best = score;
      found = index;
    }
  }
  return found;
}

/** Offers what the refitted grid became. */
function offerRefit(): bool {
  const cross = refitCross();
  if (stage < tryFloatZero) {
    return offer(cross / load<f64>(squares + ((<usize>bestIndex) << 3)), zeroPointOf(list, bestIndex));
  }
  solve(bestIndex, cross, refitFirst());
  return offer(solvedStep, lowest - solvedOffset / solvedStep);
}

/** The shrinking factors of the upper end, in pairs. */
const shrinks: usize = memory.data(96, 16);

function prepareIntegerZero(): void {
  const bottom = least * unit;
  const top = most * unit;
  const lows = bottom === 0 ? 0 : endSteps;
  const highs = top === 0 ? 0 : endSteps;
  for (let j = 0; j <= highs; j++) store<f64>(shrinks + ((<usize>j) << 3), top * (1 - 0.05 * <f64>j));
  let index = 0;
  for (let i = 0; i <= lows; i++) {
    const low = bottom * (1 - 0.05 * <f64>i);
    // The second of the last pair is overwritten by what comes next.
    for (let j = 0; j <= highs; j += 2) {
      const span = f64x2.sub(v128.load(shrinks + ((<usize>j) << 3)), f64x2.splat(low));
      const inverse = f64x2.div(f64x2.splat(highest - lowest), span);
      const exact = f64x2.sub(f64x2.splat(lowest), f64x2.mul(f64x2.splat(low), inverse));
      setIntegerZeros(index + j, inverse, exact);
    }
    index += highs + 1;
  }
  pad(others, index);
  begin(others, index, false);
}

/** Sets two grids with the zero points next to `exact`. */
function setIntegerZeros(index: i32, inverse: v128, exact: v128): void {
  const zero = f64x2.pmin(f64x2.nearest(exact), f64x2.splat(highest));
  // Adding 0 turns −0 into 0.
  setPair(
    others,
    index,
    f64x2.mul(f64x2.mul(inverse, f64x2.splat(32768)), f64x2.splat(one)),
    f64x2.splat(0.5 * one),
    f64x2.sub(f64x2.splat(lowest), zero),
    f64x2.sub(f64x2.splat(highest), zero),
    f64x2.add(zero, f64x2.splat(0)),
  );
}

function prepareFloatZero(): void {
  const bottom = least * unit;
  const span = most * unit - bottom;
  const steps = highest - lowest;
  let index = 0;
  for (let step = -floatZeroSteps; step <= floatZeroSteps; step++) {
    const inverse = ((steps + 0.05 * <f64>step) / span) * one;
    setCandidate(others, index++, inverse * 32768, 0.5 * one - bottom * inverse, 0, steps, 0);
  }
  pad(others, index);
  begin(others, index, true);
}

/** Looks at the sums of a stage, and sets the next. Returns false where there is none. */
export function fitNext(): bool {
  if (bestIndex >= 0) {
    const index = bestIndex;
    const better = offerRefit();
    bestIndex = -1;
    if (better && !symmetric) {
      stage++;
      prepareStored();
      return true;
    }
    if (better) keep(index, offeredScale, offeredZero, 0);
    return prepareMethod(stage + 2);
  }
  if (weighted) joinSums(count);
  if (stage % 3 === 0) {
    keep(0, offeredScale, offeredZero, floatZeroPoint ? offeredZero - lowest : 0);
    return prepareMethod(stage + 1);
  }
  if (stage === tryFixedZero && symmetric) {
    keep(fixedZeroCount, scale, zeroPoint, 0);
    store<f64>(crosses + ((<usize>fixedZeroCount) << 3), 0);
  }
  bestIndex = stage === tryFloatZero ? bestWithOffset() : bestOf();
  if (bestIndex < 0) return prepareMethod(stage + 3);
  stage++;
  clearRefit();
  return true;
}

/** Begins with the first method from `first` on that suits the grid. Returns false where there is none. */
function prepareMethod(first: i32): bool {
  if (symmetric) return false;
  stage = first;
  if (stage === tryFixedZero) {
    if (highest - lowest < 128) {
      begin(-least > most ? mirroredZero : fixedZero, fixedZeroCount, false);
      return true;
    }
    stage = tryIntegerZero;
  }
  if (stage === tryIntegerZero) {
    prepareIntegerZero();
    return true;
  }
  if (stage >= end || !floatZeroPoint) return false;
  prepareFloatZero();
  return true;
}

/** Whether some of the importance of a block is above zero. */
function isWeighted(importance: usize, importanceLength: i32, column: i32, length: i32): bool {
  if (importanceLength === 0) return false;
  for (let i = min(length, importanceLength); i > 0; i--) {
    if (load<f32>(importance + ((<usize>column) << 2)) > 0) return true;
    column = column + 1 === importanceLength ? 0 : column + 1;
  }
  return false;
}

/** Blocks that fit in the memory; see `fitAdd` about `scratch`. */
export function fit(
  values: usize,
  rows: i32,
  columns: i32,
  blockSize: i32,
  importance: usize,
  importanceLength: i32,
  scratch: usize,
  scales: usize,
  zeroPoints: usize,
): void {
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += blockSize) {
      const length = min(blockSize, columns - column);
      scan(values, length);
      if (magnitude >= infinityBits) {
        store<f32>(scales, NaN);
        store<f32>(zeroPoints, 0);
      } else {
        const place = importanceLength === 0 ? 0 : column % importanceLength;
        if (fitStart(low, high, isWeighted(importance, importanceLength, place, length))) {
          prepareWindow(values, length, importance, importanceLength, place, scratch);
          do addWindow(values, length);
          while (fitNext());
        }
        store<f32>(scales, scale);
        store<f32>(zeroPoints, <f32>zeroPoint);
      }
      scales += 4;
      zeroPoints += 4;
      values += (<usize>length) << 2;
    }
  }
}
