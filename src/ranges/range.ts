/** What a range method is: it chooses the interval of real numbers that the codes of a format should cover. */
import type { IntFormat } from '../formats/index.ts';
import type { StatisticId, StatisticState } from '../statistics/index.ts';

/** An interval of real numbers, min ≤ max. Empty data gives 0 … 0. */
export interface Interval {
  readonly min: number;
  readonly max: number;
}

export interface RangeOptions {
  /** The format whose codes will cover the interval. */
  readonly format: IntFormat;
  /** Whether the interval will be made symmetric around zero. */
  readonly symmetric: boolean;
  /** `percentile`: how many percent of the values stay inside. Default 99.999, as in ONNX Runtime (calibrate.py). */
  readonly percentile?: number;
}

/** An entry of the family. Results may be asymmetric even if `symmetric`: `affineParameters` takes the larger side. */
export interface Range<Id extends string = string> {
  readonly id: Id;
  readonly summary: string;
  /** The statistic to collect for it. A `histogram` state always does as well. */
  readonly needs: StatisticId;
  /** Whether `chooseFrom` takes the whole extent of the values, which kernels find block by block. */
  readonly isExtent?: boolean;
  /**
   * The interval for a streamed statistic.
   * @throws HalftoneError `internal` for the state of a statistic that it cannot read.
   */
  choose(state: StatisticState, options: RangeOptions): Interval;
  /** The interval for values that are all at hand, such as weights: exact where a histogram is not. */
  chooseFrom(values: Float32Array, options: RangeOptions): Interval;
}
