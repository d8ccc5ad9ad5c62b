/** The family of range methods: one explicit list. An entry turns a statistic into the interval that codes cover. */
import { HalftoneError } from '../base/errors.ts';
import { entropy } from './entropy.ts';
import { minMax } from './min-max.ts';
import { movingAverage } from './moving-average.ts';
import { mse } from './mse.ts';
import { percentile } from './percentile.ts';
import type { Range } from './range.ts';

export {
  type AffineOptions,
  type AffineParameters,
  affineParameters,
  codeRange,
  symmetricZeroPoint,
} from './affine.ts';
export type { Interval, Range, RangeOptions } from './range.ts';

export const ranges = [minMax, movingAverage, percentile, entropy, mse] as const;

export type RangeId = (typeof ranges)[number]['id'];

/**
 * The range method with this id.
 * @throws HalftoneError `usage` for an unknown id.
 */
export function rangeOf(id: string): Range<RangeId> {
  const range = ranges.find((candidate) => candidate.id === id);
  if (!range) {
    const ids = ranges.map((candidate) => candidate.id).join(', ');
    throw new HalftoneError('usage', `range: expected one of ${ids}, got "${id}"`);
  }
  return range;
}
