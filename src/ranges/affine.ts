/** Scale and zero point from an interval. */
import { HalftoneError } from '../base/errors.ts';
import { roundHalfToEven } from '../base/round.ts';
import type { IntFormat, LevelsFormat } from '../formats/index.ts';
import type { Interval } from './range.ts';

export interface AffineParameters {
  /** Positive, finite, a float32 number. */
  readonly scale: number;
  /** An integer code; one half for symmetric one-bit formats; 0 for floats. */
  readonly zeroPoint: number;
}

export interface AffineOptions {
  /**
   * Use half of the codes of an 8-bit format: −64 … 64 (signed) or 0 … 127 (unsigned), against the saturation of
   * 16-bit sums on x86 without VNNI (onnxruntime, quant_utils.py, reduce_range). Ignored for other widths.
   */
  readonly reduceRange?: boolean;
}

/** The smallest normal float32; smaller scales lose digits, so they count as no range (onnxruntime, quant_utils.py). */
const smallestScale = 2 ** -126;
const largestFloat = 3.4028234663852886e38;

/** The codes that are used: symmetric formats wider than one bit leave out the lowest, so that −x mirrors x. */
export function codeRange(
  format: IntFormat,
  symmetric: boolean,
  { reduceRange = false }: AffineOptions = {},
): { readonly min: number; readonly max: number } {
  const { bits, signed, min, max } = format;
  if (reduceRange && bits === 8) {
    if (signed) return { min: -64, max: 64 };
    return symmetric ? { min: 1, max: 127 } : { min: 0, max: 127 };
  }
  return symmetric && bits > 1 ? { min: min + 1, max } : { min, max };
}

/** The zero point of a symmetric format: 0 if signed, the middle code otherwise; one half for one bit. */
export function symmetricZeroPoint(format: IntFormat, options: AffineOptions = {}): number {
  const { min, max } = codeRange(format, true, options);
  return (min + max) / 2;
}

function finite(value: number): number {
  if (Number.isNaN(value)) return 0;
  return Math.min(Math.max(value, -largestFloat), largestFloat);
}

function largestLevel({ levels }: LevelsFormat): number {
  return Math.max(...levels.filter((level) => !Number.isNaN(level)));
}

/**
 * Scale and zero point for codes of `format` covering an interval. Zero is added to the interval if it lies outside,
 * and is represented exactly (ALGORITHMS 1.1; onnxruntime, quant_utils.py, compute_scale_zp). Symmetric signed 8-bit
 * codes are −127 … 127 around 0, unsigned ones 1 … 255 around 128. One symmetric bit stands for ± the larger side.
 * A float's largest level stands for the larger side.
 * An interval too small for a scale gives scale 1. NaN bounds count as 0, infinite ones as the largest float32.
 * @throws HalftoneError `usage` when min exceeds max.
 */
export function affineParameters(
  interval: Interval,
  format: IntFormat | LevelsFormat,
  symmetric: boolean,
  options: AffineOptions = {},
): AffineParameters {
  const low = Math.min(finite(interval.min), 0);
  const high = Math.max(finite(interval.max), 0);
  if (interval.min > interval.max) {
    throw new HalftoneError('usage', `range: expected min ≤ max, got ${interval.min} and ${interval.max}`);
  }
  if (format.kind === 'levels') {
    const scale = Math.fround(Math.max(-low, high) / largestLevel(format));
    return { scale: scale >= smallestScale ? scale : 1, zeroPoint: 0 };
  }
  const codes = codeRange(format, symmetric, options);
  const span = symmetric ? 2 * Math.max(-low, high) : high - low;
  const rounded = Math.fround(span / (codes.max - codes.min));
  const scale = rounded === Number.POSITIVE_INFINITY ? largestFloat : rounded;
  const degenerate = !(scale >= smallestScale);
  if (symmetric) return { scale: degenerate ? 1 : scale, zeroPoint: symmetricZeroPoint(format, options) };
  if (degenerate) return { scale: 1, zeroPoint: codes.min };
  const zeroPoint = codes.min + roundHalfToEven(Math.fround(-low / scale));
  return { scale, zeroPoint: Math.min(Math.max(zeroPoint, codes.min), codes.max) };
}
