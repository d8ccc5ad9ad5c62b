/** `min-max`: the smallest and the largest finite value of all batches. */
import { bestKernel } from '../kernel/best.ts';
import { type Accumulator, mismatch, type Statistic } from './statistic.ts';

export const minMax: Statistic<'min-max'> = {
  id: 'min-max',
  summary: 'smallest and largest value of all batches',
  perChannel: false,
  create({ kernel = bestKernel() } = {}): Accumulator {
    let count = 0;
    let min = 0;
    let max = 0;
    const include = (otherCount: number, otherMin: number, otherMax: number) => {
      if (otherCount === 0) return;
      min = count === 0 ? otherMin : Math.min(min, otherMin);
      max = count === 0 ? otherMax : Math.max(max, otherMax);
      count += otherCount;
    };
    return {
      observe(values) {
        const extent = kernel.extent(values);
        include(extent.finite, extent.min, extent.max);
      },
      merge(state) {
        if (state.statistic !== 'min-max') throw mismatch('min-max', state.statistic);
        include(state.count, state.min, state.max);
      },
      state: () => ({ statistic: 'min-max', count, min, max }),
    };
  },
};
