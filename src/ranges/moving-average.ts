/** `moving-average`: averages of the extremes of batches. */
import type { Range } from './range.ts';
import { observed, observedIn } from './states.ts';

export const movingAverage: Range<'moving-average'> = {
  id: 'moving-average',
  summary: 'moving averages of the smallest and largest value of each batch',
  needs: 'moving-average',
  isExtent: true,
  choose: (state) => observed(state),
  chooseFrom: (values) => observedIn(values),
};
