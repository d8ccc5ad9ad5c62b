/** Codes from values and values from codes. Codes are int8 (kind 0), uint8 (1), int16 (2) or uint16 (3). */

/** 1.5·2^23: adding it to a float below 2^22 rounds to an integer, ties to even, which the lowest bits then hold. */
export const magic: f32 = 12582912;
export const magicBits: i32 = 0x4b400000;

/** 1.5·2^52: the same for doubles below 2^51. */
const doubleMagic: f64 = 6755399441055744;

/** Integer zero points beyond it are rare, and left to doubles. */
export const largestZeroPoint: f32 = 1048576;

export function storeCode(at: usize, kind: i32, code: i32): void {
  if (kind < 2) store<u8>(at, <u8>code);
  else store<u16>(at, <u16>code);
}

/** One code, for what is left beside whole vectors. */
function quantizeValue(value: f32, scale: f32, zeroPoint: f64, integer: bool, lowest: f64, highest: f64): i32 {
  const ratio = <f64>(value / scale);
  const code = integer ? nearest<f64>(ratio) + zeroPoint : nearest<f64>(ratio + zeroPoint);
  return code > lowest ? <i32>(code < highest ? code : highest) : <i32>lowest;
}

/** Four codes around an integer zero point, as integers. */
function codesOf(at: usize, scale: v128, lows: v128, highs: v128, bias: v128): v128 {
  const level = f32x4.pmin(highs, f32x4.pmax(lows, f32x4.div(v128.load(at), scale)));
  return i32x4.sub(f32x4.add(level, f32x4.splat(magic)), bias);
}

/** Two codes, from two ratios, around a zero point between codes: in the lower halves of 64-bit lanes. */
function codesBetween(ratios: v128, zeroPoint: v128, lows: v128, highs: v128): v128 {
  const level = f64x2.pmin(highs, f64x2.pmax(lows, f64x2.add(f64x2.promote_low_f32x4(ratios), zeroPoint)));
  return f64x2.add(level, f64x2.splat(doubleMagic));
}

/** Four codes around a zero point between codes. */
function fourBetween(at: usize, scale: v128, zeroPoint: v128, lows: v128, highs: v128): v128 {
  const ratios = f32x4.div(v128.load(at), scale);
  const front = codesBetween(ratios, zeroPoint, lows, highs);
  const back = codesBetween(v128.shuffle<u32>(ratios, ratios, 2, 3, 2, 3), zeroPoint, lows, highs);
  return v128.shuffle<u32>(front, back, 0, 2, 4, 6);
}

/** Stores 16 codes given as four vectors of integers. */
export function storeCodes(at: usize, kind: i32, a: v128, b: v128, c: v128, d: v128): void {
  if (kind === 3) {
    v128.store(at, i16x8.narrow_i32x4_u(a, b));
    v128.store(at, i16x8.narrow_i32x4_u(c, d), 16);
    return;
  }
  const front = i16x8.narrow_i32x4_s(a, b);
  const back = i16x8.narrow_i32x4_s(c, d);
  if (kind === 0) v128.store(at, i8x16.narrow_i16x8_s(front, back));
  else if (kind === 1) v128.store(at, i8x16.narrow_i16x8_u(front, back));
  else {
    v128.store(at, front);
    v128.store(at, back, 16);
  }
}

function quantizeBlock(
  values: usize,
  length: i32,
  scale: f32,
  zeroPoint: f32,
  lowest: i32,
  highest: i32,
  codes: usize,
  kind: i32,
): void {
  const width: usize = kind < 2 ? 1 : 2;
  const integer = nearest<f32>(zeroPoint) === zeroPoint && abs<f32>(zeroPoint) < reinterpret<f32>(0x7f800000);
  const end = values + ((<usize>length) << 2);
  const vectors = values + ((<usize>(length & ~15)) << 2);
  const scales = f32x4.splat(scale);
  if (integer && abs<f32>(zeroPoint) <= largestZeroPoint) {
    const lows = f32x4.splat(<f32>lowest - zeroPoint);
    const highs = f32x4.splat(<f32>highest - zeroPoint);
    const bias = i32x4.splat(magicBits - <i32>zeroPoint);
    for (; values < vectors; values += 64) {
      const a = codesOf(values, scales, lows, highs, bias);
      const b = codesOf(values + 16, scales, lows, highs, bias);
      const c = codesOf(values + 32, scales, lows, highs, bias);
      const d = codesOf(values + 48, scales, lows, highs, bias);
      storeCodes(codes, kind, a, b, c, d);
      codes += width << 4;
    }
  } else if (!integer) {
    const lows = f64x2.splat(lowest);
    const highs = f64x2.splat(highest);
    const zero = f64x2.splat(zeroPoint);
    for (; values < vectors; values += 64) {
      const a = fourBetween(values, scales, zero, lows, highs);
      const b = fourBetween(values + 16, scales, zero, lows, highs);
      const c = fourBetween(values + 32, scales, zero, lows, highs);
      const d = fourBetween(values + 48, scales, zero, lows, highs);
      storeCodes(codes, kind, a, b, c, d);
      codes += width << 4;
    }
  }
  for (; values < end; values += 4) {
    storeCode(codes, kind, quantizeValue(load<f32>(values), scale, zeroPoint, integer, lowest, highest));
    codes += width;
  }
}

export function quantize(
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
): void {
  const width: usize = kind < 2 ? 1 : 2;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += blockSize) {
      const length = min(blockSize, columns - column);
      quantizeBlock(values, length, load<f32>(scales), load<f32>(zeroPoints), lowest, highest, codes, kind);
      scales += 4;
      zeroPoints += 4;
      values += (<usize>length) << 2;
      codes += <usize>length * width;
    }
  }
}

/** One code as an integer. */
export function loadCode(at: usize, kind: i32): i32 {
  if (kind === 0) return load<i8>(at);
  if (kind === 1) return load<u8>(at);
  return kind === 2 ? <i32>load<i16>(at) : <i32>load<u16>(at);
}

/** Four codes as integers. */
export function loadCodes(at: usize, kind: i32): v128 {
  if (kind === 2) return v128.load16x4_s(at);
  if (kind === 3) return v128.load16x4_u(at);
  const pairs =
    kind === 0 ? i16x8.extend_low_i8x16_s(v128.load32_zero(at)) : i16x8.extend_low_i8x16_u(v128.load32_zero(at));
  return i32x4.extend_low_i16x8_s(pairs);
}

function dequantizeBlock(codes: usize, length: i32, scale: f32, zeroPoint: f32, values: usize, kind: i32): void {
  const width: usize = kind < 2 ? 1 : 2;
  const end = values + ((<usize>length) << 2);
  const vectors = values + ((<usize>(length & ~3)) << 2);
  const integer = nearest<f32>(zeroPoint) === zeroPoint && abs<f32>(zeroPoint) <= largestZeroPoint;
  if (integer) {
    const zero = i32x4.splat(<i32>zeroPoint);
    const scales = f32x4.splat(scale);
    for (; values < vectors; values += 16) {
      v128.store(values, f32x4.mul(f32x4.convert_i32x4_s(i32x4.sub(loadCodes(codes, kind), zero)), scales));
      codes += width << 2;
    }
  } else {
    const zero = f64x2.splat(zeroPoint);
    const scales = f64x2.splat(scale);
    for (; values < vectors; values += 16) {
      const four = loadCodes(codes, kind);
      const front = f64x2.convert_low_i32x4_s(four);
      const back = f64x2.convert_low_i32x4_s(v128.shuffle<u32>(four, four, 2, 3, 2, 3));
      const a = f32x4.demote_f64x2_zero(f64x2.mul(f64x2.sub(front, zero), scales));
      const b = f32x4.demote_f64x2_zero(f64x2.mul(f64x2.sub(back, zero), scales));
      v128.store(values, v128.shuffle<u32>(a, b, 0, 1, 4, 5));
      codes += width << 2;
    }
  }
  for (; values < end; values += 4) {
    store<f32>(values, <f32>((<f64>loadCode(codes, kind) - <f64>zeroPoint) * <f64>scale));
    codes += width;
  }
}

export function dequantize(
  codes: usize,
  rows: i32,
  columns: i32,
  blockSize: i32,
  scales: usize,
  zeroPoints: usize,
  values: usize,
  kind: i32,
): void {
  const width: usize = kind < 2 ? 1 : 2;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += blockSize) {
      const length = min(blockSize, columns - column);
      dequantizeBlock(codes, length, load<f32>(scales), load<f32>(zeroPoints), values, kind);
      scales += 4;
      zeroPoints += 4;
      values += (<usize>length) << 2;
      codes += <usize>length * width;
    }
  }
}
