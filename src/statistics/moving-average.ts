/** `moving-average`: exponential averages of each batch's minimum and maximum, which a single outlier moves little. */
import { HalftoneError } from '../base/errors.ts';
import { bestKernel } from '../kernel/best.ts';
import { type Accumulator, mismatch, type Statistic } from './statistic.ts';

/** ONNX Runtime's default (onnxruntime/quantization/calibrate.py, averaging_constant). */
const defaultConstant = 0.01;

export const movingAverage: Statistic<'moving-average'> = {
  id: 'moving-average',
  summary: 'exponential moving average of the smallest and largest value of each batch',
  perChannel: false,
  create({ averagingConstant: constant = defaultConstant, kernel = bestKernel() } = {}): Accumulator {
    if (!(constant > 0 && constant <= 1)) {
      throw new HalftoneError('usage', `averagingConstant: expected a number above 0 and up to 1, got ${constant}`);
    }
    let batches = 0;
    let min = 0;
    let max = 0;
    let first: readonly [number, number] = [0, 0];
    return {
      observe(values) {
        const extent = kernel.extent(values);
        if (extent.finite === 0) return;
        if (batches === 0) {
          first = [extent.min, extent.max];
          min = extent.min;
          max = extent.max;
        } else {
          min += constant * (extent.min - min);
          max += constant * (extent.max - max);
        }
        batches++;
      },
      merge(state) {
        if (state.statistic !== 'moving-average') throw mismatch('moving-average', state.statistic);
        if (state.constant !== constant) {
          throw mismatch(`moving-average with constant ${constant}`, `constant ${state.constant}`);
        }
        if (state.batches === 0) return;
        if (batches === 0) {
          ({ min, max, first } = state);
        } else {
          // The other average began at its own first batch with weight 1; here that weight belongs to what came before.
          const before = (1 - constant) ** state.batches;
          min = state.min + before * (min - state.first[0]);
          max = state.max + before * (max - state.first[1]);
        }
        batches += state.batches;
      },
      state: () => ({ statistic: 'moving-average', batches, constant, min, max, first }),
    };
  },
};
