/** Floats of 4, 6 and 8 bits: exact decoding, and encoding with round-half-to-even, as ONNX defines them. */
import { HalftoneError } from '../base/errors.ts';
import { roundHalfToEven } from '../base/round.ts';

/**
 * How a minifloat spends its codes.
 * - `ieee`: the largest exponent holds ±infinity and NaN.
 * - `fn`: only the all-ones code of either sign is NaN; no infinity.
 * - `fnuz`: only the code of −0 is NaN; no infinity and no −0.
 * - `finite`: every code is a number.
 */
type Flavor = 'ieee' | 'fn' | 'fnuz' | 'finite';

interface Minifloat {
  readonly bits: number;
  readonly mantissa: number;
  readonly bias: number;
  readonly max: number;
  readonly flavor: Flavor;
}

/** Parameters: onnx, technical/float8.md and technical/float4.md; float6: OCP Microscaling Formats 1.0, section 5.3. */
const minifloats = {
  float8e4m3fn: { bits: 8, mantissa: 3, bias: 7, max: 448, flavor: 'fn' },
  float8e4m3fnuz: { bits: 8, mantissa: 3, bias: 8, max: 240, flavor: 'fnuz' },
  float8e5m2: { bits: 8, mantissa: 2, bias: 15, max: 57344, flavor: 'ieee' },
  float8e5m2fnuz: { bits: 8, mantissa: 2, bias: 16, max: 57344, flavor: 'fnuz' },
  float6e2m3: { bits: 6, mantissa: 3, bias: 1, max: 7.5, flavor: 'finite' },
  float6e3m2: { bits: 6, mantissa: 2, bias: 3, max: 28, flavor: 'finite' },
  float4e2m1: { bits: 4, mantissa: 1, bias: 1, max: 6, flavor: 'finite' },
} as const satisfies Record<string, Minifloat>;

export type MinifloatId = keyof typeof minifloats;

/** The minifloats with sign, exponent and mantissa; `float8e8m0` is a bare exponent and has its own functions. */
export const minifloatIds = Object.keys(minifloats) as readonly MinifloatId[];

export function isMinifloat(dtype: string): dtype is MinifloatId {
  return Object.hasOwn(minifloats, dtype);
}

const f64 = new Float64Array(1);
const u32 = new Uint32Array(f64.buffer);

/** floor(log2 of a positive normal double), from its bits. */
function exponentOf(value: number): number {
  f64[0] = value;
  return ((u32[1] >>> 20) & 0x7ff) - 1023;
}

function decode(format: Minifloat, code: number): number {
  const { bits, mantissa, bias, flavor } = format;
  const signBit = 1 << (bits - 1);
  const magnitude = code & (signBit - 1);
  const negative = (code & signBit) !== 0;
  if (flavor === 'fnuz' && negative && magnitude === 0) return Number.NaN;
  if (flavor === 'fn' && magnitude === signBit - 1) return Number.NaN;
  const exponent = magnitude >> mantissa;
  const fraction = magnitude & ((1 << mantissa) - 1);
  const sign = negative ? -1 : 1;
  if (flavor === 'ieee' && exponent === (signBit - 1) >> mantissa) {
    return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  }
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias - mantissa);
  return sign * (fraction + 2 ** mantissa) * 2 ** (exponent - bias - mantissa);
}

const decodeTables = new Map<MinifloatId, Float32Array>();

/** The value of every code of a format; index = code, length 2^bits. Exact, NaN and infinities included. */
export function minifloatValues(id: MinifloatId): Float32Array {
  let table = decodeTables.get(id);
  if (!table) {
    const format = minifloats[id];
    table = Float32Array.from({ length: 2 ** format.bits }, (_, code) => decode(format, code));
    decodeTables.set(id, table);
  }
  return table;
}

/** The value of one code. Bits of `code` above the format's width are ignored. */
export function decodeMinifloat(id: MinifloatId, code: number): number {
  return minifloatValues(id)[code & (2 ** minifloats[id].bits - 1)];
}

/**
 * The code nearest to a value, ties to the even code (onnx, operator Cast, technical/float8.md and float4.md).
 * With `saturate` (default) values beyond the largest finite one, and infinities, take its code; without, they become
 * infinity (e5m2) or NaN (the other 8-bit formats); `finite` formats always saturate. NaN becomes NaN; formats without
 * NaN give the code of −0 (ml_dtypes, quiet_NaN, from which ONNX's node tests are made).
 */
export function encodeMinifloat(id: MinifloatId, value: number, saturate = true): number {
  const { bits, mantissa, bias, max, flavor }: Minifloat = minifloats[id];
  const signBit = 1 << (bits - 1);
  const negative = value < 0 || Object.is(value, -0);
  const sign = negative ? signBit : 0;
  const maxCode =
    flavor === 'fn' ? signBit - 2 : flavor === 'ieee' ? signBit - 1 - ((1 << mantissa) - 1) - 1 : signBit - 1;
  const nan = flavor === 'fnuz' || flavor === 'finite' ? signBit : signBit - 1;
  if (Number.isNaN(value)) return nan;
  const magnitude = Math.abs(value);
  if (magnitude === 0) return flavor === 'fnuz' ? 0 : sign;
  const exponent = Math.max(exponentOf(Math.min(magnitude, Number.MAX_VALUE)), 1 - bias);
  const unit = 2 ** (exponent - mantissa);
  const rounded = roundHalfToEven(magnitude / unit) * unit;
  if (rounded > max) {
    if (saturate || flavor === 'finite') return sign | maxCode;
    return flavor === 'ieee' ? sign | (maxCode + 1) : flavor === 'fnuz' ? nan : sign | nan;
  }
  if (rounded === 0 && flavor === 'fnuz') return 0;
  if (rounded < 2 ** (1 - bias)) return sign | (rounded / 2 ** (1 - bias - mantissa));
  const top = exponentOf(rounded);
  return sign | ((top + bias) << mantissa) | (rounded / 2 ** (top - mantissa) - 2 ** mantissa);
}

/** The rounding of a cast to float8e8m0 (onnx, operator Cast, attribute round_mode). */
export type PowerRounding = 'up' | 'down' | 'nearest';

/** The value of a float8e8m0 code: 2^(code − 127), NaN for 255 (OCP Microscaling Formats 1.0, section 5.4.1). */
export function decodePower(code: number): number {
  return code === 255 ? Number.NaN : 2 ** (code - 127);
}

/**
 * The float8e8m0 code of a positive value (onnx, technical/float8.md). The sign is dropped: a power has none. NaN is
 * 255; zero and values below 2^−127 are code 0. `nearest` rounds ties up. Infinity and values that round beyond 2^127
 * take 254 with `saturate` (default), else 255.
 * @throws HalftoneError `usage` for another rounding.
 */
export function encodePower(value: number, rounding: PowerRounding = 'up', saturate = true): number {
  if (Number.isNaN(value)) return 255;
  const magnitude = Math.abs(value);
  if (magnitude <= 2 ** -127) return 0;
  if (magnitude === Number.POSITIVE_INFINITY) return saturate ? 254 : 255;
  const exponent = exponentOf(magnitude);
  const fraction = magnitude / 2 ** exponent;
  let code = exponent + 127;
  if (rounding === 'up') code += fraction > 1 ? 1 : 0;
  else if (rounding === 'nearest') code += fraction >= 1.5 ? 1 : 0;
  else if (rounding !== 'down') {
    throw new HalftoneError('usage', `round_mode: expected up, down or nearest, got "${rounding}"`);
  }
  return code <= 254 ? code : saturate ? 254 : 255;
}
