/**
 * float32 to and from float16, bfloat16, float8e4m3fn and float8e5m2 (kinds 0 to 3): ties to even; the float8 formats
 * saturate, as src/tensor/half.ts and src/formats/minifloat.ts have it.
 */

const float16 = 0;
const bfloat16 = 1;
const float8e4m3fn = 2;

/** Tags for the formats with other exponents than float32, so that loops know them at compile time. */
type Float16 = u8;
type Float8e4m3fn = u16;
type Float8e5m2 = u32;

/** Mantissa bits of float32 that a format lacks. */
function missing<Format>(): i32 {
  return sizeof<Format>() === sizeof<Float16>() ? 13 : sizeof<Format>() === sizeof<Float8e4m3fn>() ? 20 : 21;
}

/** The difference of the exponents' biases, in place. */
function rebias<Format>(): i32 {
  return (sizeof<Format>() === sizeof<Float8e4m3fn>() ? 127 - 7 : 127 - 15) << 23;
}

/** The bits of the float32 at which a format's floats begin to have a leading one. */
function normalFrom<Format>(): i32 {
  return sizeof<Format>() === sizeof<Float8e4m3fn>() ? 0x3c800000 : 0x38800000;
}

/** Around this float, floats are as far apart as a format's smallest ones. */
function smallStep<Format>(): f32 {
  return sizeof<Format>() === sizeof<Float16>() ? 0.5 : sizeof<Format>() === sizeof<Float8e4m3fn>() ? 16384 : 128;
}

/** The code of what is too large. */
function overflow<Format>(): i32 {
  return sizeof<Format>() === sizeof<Float16>() ? 0x7c00 : sizeof<Format>() === sizeof<Float8e4m3fn>() ? 0x7e : 0x7b;
}

/** Encodes `count` values, rounded up to eight. */
export function encodeFloats(kind: i32, values: usize, count: i32, codes: usize): void {
  const end = values + ((<usize>count) << 2);
  if (kind === bfloat16) {
    for (; values < end; values += 32, codes += 16) {
      v128.store(codes, i16x8.narrow_i32x4_u(encodeBfloat(v128.load(values)), encodeBfloat(v128.load(values, 16))));
    }
  } else if (kind === float16) {
    for (; values < end; values += 32, codes += 16) v128.store(codes, encodeEight<Float16>(values));
  } else {
    for (; values < end; values += 32, codes += 8) {
      const eight = kind === float8e4m3fn ? encodeEight<Float8e4m3fn>(values) : encodeEight<Float8e5m2>(values);
      v128.store_lane<u64>(codes, i8x16.narrow_i16x8_u(eight, eight), 0);
    }
  }
}

function encodeEight<Format>(values: usize): v128 {
  return i16x8.narrow_i32x4_u(encode<Format>(v128.load(values)), encode<Format>(v128.load(values, 16)));
}

function encodeBfloat(value: v128): v128 {
  const odd = v128.and(i32x4.shr_u(value, 16), i32x4.splat(1));
  const rounded = i32x4.shr_u(i32x4.add(i32x4.add(value, i32x4.splat(0x7fff)), odd), 16);
  const nan = v128.or(i32x4.shr_u(value, 16), i32x4.splat(0x40));
  return v128.bitselect(nan, rounded, f32x4.ne(value, value));
}

function encode<Format>(value: v128): v128 {
  const half = sizeof<Format>() === sizeof<Float16>();
  const shift = missing<Format>();
  const magnitude = v128.and(value, i32x4.splat(0x7fffffff));
  const sign = v128.and(i32x4.shr_u(value, half ? 16 : 24), i32x4.splat(half ? 0x8000 : 0x80));
  const odd = v128.and(i32x4.shr_u(magnitude, shift), i32x4.splat(1));
  const rounded = i32x4.add(i32x4.add(magnitude, i32x4.splat((1 << (shift - 1)) - 1)), odd);
  const normal = i32x4.shr_u(i32x4.sub(rounded, i32x4.splat(rebias<Format>())), shift);
  const step = f32x4.splat(smallStep<Format>());
  const small = i32x4.sub(f32x4.add(magnitude, step), step);
  const isSmall = i32x4.lt_s(magnitude, i32x4.splat(normalFrom<Format>()));
  const code = v128.bitselect(small, i32x4.min_u(normal, i32x4.splat(overflow<Format>())), isSmall);
  const nan = half ? v128.or(sign, i32x4.splat(0x7e00)) : i32x4.splat(0x7f);
  return v128.bitselect(nan, v128.or(sign, code), f32x4.ne(value, value));
}

/** Decodes `count` codes, rounded up to four. */
export function decodeFloats(kind: i32, codes: usize, count: i32, values: usize): void {
  const end = values + ((<usize>count) << 2);
  if (kind === bfloat16) {
    for (; values < end; values += 16, codes += 8) v128.store(values, i32x4.shl(v128.load16x4_u(codes), 16));
  } else if (kind === float16) {
    for (; values < end; values += 16, codes += 8) v128.store(values, decode<Float16>(v128.load16x4_u(codes)));
  } else {
    for (; values < end; values += 16, codes += 4) {
      const four = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load32_zero(codes)));
      v128.store(values, kind === float8e4m3fn ? decode<Float8e4m3fn>(four) : decode<Float8e5m2>(four));
    }
  }
}

function decode<Format>(code: v128): v128 {
  const half = sizeof<Format>() === sizeof<Float16>();
  const four = sizeof<Format>() === sizeof<Float8e4m3fn>();
  const shift = missing<Format>();
  const magnitude = v128.and(code, i32x4.splat(half ? 0x7fff : 0x7f));
  const sign = v128.and(i32x4.shl(code, half ? 16 : 24), i32x4.splat(0x80000000));
  const wide = i32x4.shl(magnitude, shift);
  const normal = i32x4.add(wide, i32x4.splat(rebias<Format>()));
  const unit: f32 = half ? 1 / 16777216.0 : four ? 1 / 512.0 : 1 / 65536.0;
  const small = f32x4.mul(f32x4.convert_i32x4_s(magnitude), f32x4.splat(unit));
  const isSmall = i32x4.lt_s(magnitude, i32x4.splat(1 << (23 - shift)));
  const special = v128.or(wide, i32x4.splat(0x7f800000));
  const isSpecial = i32x4.gt_s(magnitude, i32x4.splat(half ? 0x7bff : four ? 0x7e : 0x7b));
  return v128.or(v128.bitselect(special, v128.bitselect(small, normal, isSmall), isSpecial), sign);
}
