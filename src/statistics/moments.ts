/** `moments`: mean and mean square of each channel. */
import { HalftoneError } from '../base/errors.ts';
import { bestKernel } from '../kernel/best.ts';
import { type Accumulator, type MomentsState, mismatch, type Statistic } from './statistic.ts';

export const moments: Statistic<'moments'> = {
  id: 'moments',
  summary: 'mean and mean square of each channel',
  perChannel: true,
  create({ kernel = bestKernel() } = {}): Accumulator {
    let count = 0;
    let sums = new Float64Array(0);
    let squares = new Float64Array(0);
    const expectChannels = (channels: number) => {
      if (count === 0) {
        sums = new Float64Array(channels);
        squares = new Float64Array(channels);
      } else if (channels !== sums.length) {
        throw new HalftoneError('internal', `moments: expected ${sums.length} channels, got ${channels}`);
      }
    };
    return {
      observe(values, layout) {
        if (!layout) throw new HalftoneError('internal', 'moments: expected a channel layout, got none');
        if (values.length === 0) return;
        expectChannels(layout.channels);
        kernel.channelSums(values, layout, sums, squares);
        count += layout.outer * layout.inner;
      },
      merge(state) {
        if (state.statistic !== 'moments') throw mismatch('moments', state.statistic);
        if (state.count === 0) return;
        expectChannels(state.mean.length);
        for (let channel = 0; channel < sums.length; channel++) {
          sums[channel] += state.mean[channel] * state.count;
          squares[channel] += state.meanSquare[channel] * state.count;
        }
        count += state.count;
      },
      state: () => ({
        statistic: 'moments',
        count,
        mean: Array.from(sums, (sum) => sum / count),
        meanSquare: Array.from(squares, (square) => square / count),
      }),
    };
  },
};

/** Standard deviation of each channel. */
export function deviations(state: MomentsState): number[] {
  return state.mean.map((mean, channel) => Math.sqrt(Math.max(0, state.meanSquare[channel] - mean * mean)));
}
