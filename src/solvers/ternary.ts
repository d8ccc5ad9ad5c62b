/** Three levels −α, 0 and α: the least-squares optimum of a group is exact. */
import type { Parameters } from '../kernel/grid.ts';
import type { Find } from './groups.ts';
import { sortGroup } from './groups.ts';

/**
 * Of the k largest magnitudes, for every k, the mean α explains (Σ|w|)² / k of the energy; the best k wins. Rounding to
 * the nearest of −α, 0 and α finds the same k again (Li, Zhang & Liu 2016, TWN, solve this for a normal distribution).
 */
export const findTernary: Find = (group, constraints, found: Parameters) => {
  const { length, values, importance } = group;
  for (let i = 0; i < length; i++) values[i] = Math.abs(values[i]);
  sortGroup(group);
  let sum = 0;
  let weight = 0;
  let best = 0;
  let scale = 0;
  for (let i = length - 1; i >= 0; i--) {
    sum += importance[i] * values[i];
    weight += importance[i];
    if (weight > 0 && sum * sum > best * weight) {
      best = (sum * sum) / weight;
      scale = sum / weight;
    }
  }
  found.scale = scale < 2 ** -126 ? constraints.smallestScale : constraints.round(scale);
  found.zeroPoint = constraints.zeroPoint;
};
