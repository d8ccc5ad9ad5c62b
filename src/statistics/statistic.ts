/** What a statistic is: something that watches batches of float values and can be saved, and merged with another. */
import { HalftoneError } from '../base/errors.ts';
import type { ChannelLayout, Kernel } from '../kernel/kernel.ts';

/** Smallest and largest finite value seen. */
export interface MinMaxState {
  readonly statistic: 'min-max';
  /** Finite values seen; with none, min and max are 0. */
  readonly count: number;
  readonly min: number;
  readonly max: number;
}

/** Exponential moving averages of each batch's minimum and maximum. */
export interface MovingAverageState {
  readonly statistic: 'moving-average';
  /** Batches with at least one finite value; with none, min and max are 0. */
  readonly batches: number;
  readonly constant: number;
  readonly min: number;
  readonly max: number;
  /** The first batch's minimum and maximum: with them, averages of consecutive shards can be joined exactly. */
  readonly first: readonly [min: number, max: number];
}

/** Counts of finite values in bins whose width is a power of two. */
export interface HistogramState {
  readonly statistic: 'histogram';
  /** Finite values seen, zeros included. */
  readonly count: number;
  /** Exact zeros. They are in no bin. */
  readonly zeros: number;
  readonly nan: number;
  readonly positiveInfinity: number;
  readonly negativeInfinity: number;
  /** Smallest and largest finite value; 0 when there is none. */
  readonly min: number;
  readonly max: number;
  /** Every bin is 2^exponent wide. 0 when there are no bins. */
  readonly exponent: number;
  /** The number of the first bin: bin `first + i` holds values in [first + i, first + i + 1)·2^exponent. */
  readonly first: number;
  /** Values per bin; the first and the last bin are not empty. At most 8192 bins. */
  readonly counts: readonly number[];
}

/** Sums per channel. */
export interface MomentsState {
  readonly statistic: 'moments';
  /** Values seen per channel. */
  readonly count: number;
  /** Mean of each channel. */
  readonly mean: readonly number[];
  /** Mean of the squares of each channel; variance = meanSquare − mean². */
  readonly meanSquare: readonly number[];
}

/** Plain data: survives JSON and structuredClone. */
export type StatisticState = MinMaxState | MovingAverageState | HistogramState | MomentsState;

export interface StatisticOptions {
  /** `moving-average`: the weight of a new batch. Default 0.01, as in ONNX Runtime (calibrate.py, averaging_constant). */
  readonly averagingConstant?: number;
  /** What does the loops; results do not depend on it. Default `bestKernel()`. */
  readonly kernel?: Kernel;
}

export interface Accumulator {
  /**
   * Watches one batch. `layout` is needed by per-channel statistics and ignored by the others.
   * @throws HalftoneError `internal` when a layout is missing, does not fit, or changes its channels.
   */
  observe(values: Float32Array, layout?: ChannelLayout): void;
  /**
   * Adds what another accumulator of the same statistic saw, as if it had been observed here after everything so far.
   * @throws HalftoneError `invalid-file` for the state of another statistic or contradictory options.
   */
  merge(state: StatisticState): void;
  /** What was seen so far; independent of later observations. */
  state(): StatisticState;
}

/** An entry of the family. */
export interface Statistic<Id extends string = string> {
  readonly id: Id;
  readonly summary: string;
  /** Whether `observe` needs a channel layout. */
  readonly perChannel: boolean;
  create(options?: StatisticOptions): Accumulator;
}

/** The error for merging states that do not belong together. */
export function mismatch(expected: string, found: string): HalftoneError {
  return new HalftoneError('invalid-file', `statistic: expected a state of ${expected}, got ${found}`);
}
