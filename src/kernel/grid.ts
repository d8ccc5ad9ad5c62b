/** What the parameters of blocks must obey, and the grid that covers an interval. */
import { roundHalfToEven } from '../base/round.ts';
import { floatToHalf, halfToFloat } from '../tensor/half.ts';

/** The codes of a block's elements, and how its scale and zero point are chosen and stored. */
export interface Grid {
  /** The codes that may be used. */
  readonly min: number;
  readonly max: number;
  /** Whether every block has the zero point `zeroPoint`. */
  readonly symmetric: boolean;
  /** The zero point of symmetric grids, and the one in the middle, which a search tries too, of others. */
  readonly zeroPoint: number;
  /** Whether zero points are numbers of `scaleType` and not codes. Only of grids that are not symmetric. */
  readonly floatZeroPoint: boolean;
  /** The type that scales and float zero points are rounded to. */
  readonly scaleType: 'float16' | 'float32';
  /** Whether a search must not choose negative scales. */
  readonly positiveScale: boolean;
}

/** Scale and zero point of a block, as stored. */
export interface Parameters {
  scale: number;
  zeroPoint: number;
}

/** The smallest normal float32; smaller scales lose digits, so they count as no range (onnxruntime, quant_utils.py). */
export const smallestScale = 2 ** -126;
export const largestScale = 3.4028234663852886e38;

/** Rounds to float16, or float32. */
export function roundStored(value: number, type: Grid['scaleType']): number {
  return type === 'float16' ? halfToFloat(floatToHalf(value)) : Math.fround(value);
}

/**
 * The parameters with which the codes of a grid cover the finite interval from `low` to `high`, widened to contain zero,
 * which stays exact (ALGORITHMS 1.1; onnxruntime, quant_utils.py, compute_scale_zp). Symmetric grids mirror around the
 * zero point and leave out what has no mirror. An interval too small for a scale gives scale 1. The scale is rounded to
 * its type afterwards, and may become 0 or infinite there.
 */
export function coverInterval(low: number, high: number, grid: Grid, found: Parameters): void {
  const { min, max, symmetric, zeroPoint, floatZeroPoint, scaleType } = grid;
  const least = Math.min(low, 0);
  const most = Math.max(high, 0);
  const span = symmetric ? 2 * Math.max(-least, most) : most - least;
  const steps = symmetric ? 2 * (max - zeroPoint) : max - min;
  let scale = Math.min(Math.fround(span / steps), largestScale);
  const degenerate = !(scale >= smallestScale);
  if (degenerate) scale = 1;
  found.scale = roundStored(scale, scaleType);
  if (symmetric) found.zeroPoint = zeroPoint;
  else if (floatZeroPoint) found.zeroPoint = roundStored(min - least / found.scale, scaleType);
  else if (degenerate) found.zeroPoint = min;
  else found.zeroPoint = Math.min(min + roundHalfToEven(Math.fround(-least / scale)), max);
}
