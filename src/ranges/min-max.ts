/** `min-max`: everything that was seen. */
import type { Range } from './range.ts';
import { observed, observedIn } from './states.ts';

export const minMax: Range<'min-max'> = {
  id: 'min-max',
  summary: 'from the smallest to the largest value',
  needs: 'min-max',
  isExtent: true,
  choose: (state) => observed(state),
  chooseFrom: (values) => observedIn(values),
};
