/** The family of statistics: one explicit list. An entry creates accumulators that watch batches of values. */
import { HalftoneError } from '../base/errors.ts';
import { histogram } from './histogram.ts';
import { minMax } from './min-max.ts';
import { moments } from './moments.ts';
import { movingAverage } from './moving-average.ts';
import type { Statistic } from './statistic.ts';

export type { ChannelLayout } from '../kernel/kernel.ts';
export { deviations } from './moments.ts';
export type {
  Accumulator,
  HistogramState,
  MinMaxState,
  MomentsState,
  MovingAverageState,
  Statistic,
  StatisticOptions,
  StatisticState,
} from './statistic.ts';

export const statistics = [minMax, movingAverage, histogram, moments] as const;

export type StatisticId = (typeof statistics)[number]['id'];

/**
 * The statistic with this id.
 * @throws HalftoneError `usage` for an unknown id.
 */
export function statisticOf(id: string): Statistic<StatisticId> {
  const statistic = statistics.find((candidate) => candidate.id === id);
  if (!statistic) {
    const ids = statistics.map((candidate) => candidate.id).join(', ');
    throw new HalftoneError('usage', `statistic: expected one of ${ids}, got "${id}"`);
  }
  return statistic;
}
