/**
 * float32 to and from float16, bfloat16, float8e4m3fn and float8e5m2 (kinds 0 to 3): ties to even; the float8 formats
 * saturate, as src/tensor/half.ts and src/formats/minifloat.ts have it.
 */

const float16 = 0;
const bfloat16 = 1;
const float8e4m3fn = 2;

/** Mantissa bits of float32 that a format lacks. */
function missing(kind: i32): i32 {
  return kind === float16 ? 13 : kind === float8e4m3fn ? 20 : 21;
}

/** The difference of the exponents' biases, in place. */
function rebias(kind: i32): i32 {
  return (kind === float8e4m3fn ? 127 - 7 : 127 - 15) << 23;
}

/** The bits of the float32 at which a format's floats begin to have a leading one. */
function normalFrom(kind: i32): i32 {
  return kind === float8e4m3fn ? 0x3c800000 : 0x38800000;
}

/** Around this float, floats are as far apart as a format's smallest ones. */
function smallStep(kind: i32): f32 {
  return kind === float16 ? 0.5 : kind === float8e4m3fn ? 16384 : 128;
}

/** The code of what is too large. */
function overflow(kind: i32): i32 {
  return kind === float16 ? 0x7c00 : kind === float8e4m3fn ? 0x7e : 0x7b;
}

/** Encodes `count` values, rounded up to eight. */
export function encodeFloats(kind: i32, values: usize, count: i32, codes: usize): void {
  for (const end = values + ((<usize>count) << 2); values < end; values += 32) {
    const a = v128.load(values);
    const b = v128.load(values, 16);
    if (kind === bfloat16) {
      v128.store(codes, i16x8.narrow_i32x4_u(encodeBfloat(a), encodeBfloat(b)));
      codes += 16;
      continue;
    }
    const pair = i16x8.narrow_i32x4_u(encode(kind, a), encode(kind, b));
    if (kind === float16) {
      v128.store(codes, pair);
      codes += 16;
    } else {
      v128.store_lane<u64>(codes, i8x16.narrow_i16x8_u(pair, pair), 0);
      codes += 8;
    }
  }
}

function encodeBfloat(value: v128): v128 {
  const odd = v128.and(i32x4.shr_u(value, 16), i32x4.splat(1));
  const rounded = i32x4.shr_u(i32x4.add(i32x4.add(value, i32x4.splat(0x7fff)), odd), 16);
  const nan = v128.or(i32x4.shr_u(value, 16), i32x4.splat(0x40));
  return v128.bitselect(nan, rounded, f32x4.ne(value, value));
}

function encode(kind: i32, value: v128): v128 {
  const shift = missing(kind);
  const magnitude = v128.and(value, i32x4.splat(0x7fffffff));
  const sign = v128.and(i32x4.shr_u(value, kind === float16 ? 16 : 24), i32x4.splat(kind === float16 ? 0x8000 : 0x80));
  const odd = v128.and(i32x4.shr_u(magnitude, shift), i32x4.splat(1));
  const rounded = i32x4.add(i32x4.add(magnitude, i32x4.splat((1 << (shift - 1)) - 1)), odd);
  const normal = i32x4.shr_u(i32x4.sub(rounded, i32x4.splat(rebias(kind))), shift);
  const step = f32x4.splat(smallStep(kind));
  const small = i32x4.sub(f32x4.add(magnitude, step), step);
  const isSmall = i32x4.lt_u(magnitude, i32x4.splat(normalFrom(kind)));
  const code = v128.bitselect(small, i32x4.min_u(normal, i32x4.splat(overflow(kind))), isSmall);
  const nan = kind === float16 ? v128.or(sign, i32x4.splat(0x7e00)) : i32x4.splat(0x7f);
  return v128.bitselect(nan, v128.or(sign, code), f32x4.ne(value, value));
}

/** Decodes `count` codes, rounded up to four. */
export function decodeFloats(kind: i32, codes: usize, count: i32, values: usize): void {
  for (const end = values + ((<usize>count) << 2); values < end; values += 16) {
    if (kind <= bfloat16) {
      const code = v128.load16x4_u(codes);
      v128.store(values, kind === bfloat16 ? i32x4.shl(code, 16) : decode(kind, code));
      codes += 8;
    } else {
      const code = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load32_zero(codes)));
      v128.store(values, decode(kind, code));
      codes += 4;
    }
  }
}

function decode(kind: i32, code: v128): v128 {
  const width = kind === float16 ? 16 : 8;
  const shift = missing(kind);
  const magnitude = v128.and(code, i32x4.splat((1 << (width - 1)) - 1));
  const sign = v128.and(i32x4.shl(code, 32 - width), i32x4.splat(0x80000000));
  const wide = i32x4.shl(magnitude, shift);
  const normal = i32x4.add(wide, i32x4.splat(rebias(kind)));
  const unit: f32 = kind === float16 ? 1 / 16777216.0 : kind === float8e4m3fn ? 1 / 512.0 : 1 / 65536.0;
  const small = f32x4.mul(f32x4.convert_i32x4_s(magnitude), f32x4.splat(unit));
  const isSmall = i32x4.lt_s(magnitude, i32x4.splat(1 << (23 - shift)));
  const special = v128.or(wide, i32x4.splat(0x7f800000));
  const isSpecial = i32x4.gt_s(magnitude, i32x4.splat(kind === float16 ? 0x7bff : kind === float8e4m3fn ? 0x7e : 0x7b));
  const value = v128.bitselect(special, v128.bitselect(small, normal, isSmall), isSpecial);
  return v128.or(value, sign);
}
