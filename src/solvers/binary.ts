/** Two levels: what one bit per weight can stand for. Both optima are exact. */
import type { Parameters } from '../kernel/grid.ts';
import { type Constraints, type Group, sortGroup } from './groups.ts';

/**
 * The scale as stored. No scale at all, or one below the precision of float32, becomes the smallest one; a float16 scale
 * that is merely too small stays so, and makes `solveMatrix` turn to float32.
 */
function stored(exact: number, { round, smallestScale }: Constraints): number {
  return exact < 2 ** -126 ? smallestScale : round(exact);
}

/** Levels ±α with α the (weighted) mean magnitude: the least-squares optimum (Rastegari et al. 2016, XNOR-Net, eq. 6). */
export function findSigned({ length, values, importance }: Group, constraints: Constraints, found: Parameters): void {
  let sum = 0;
  let weight = 0;
  for (let i = 0; i < length; i++) {
    sum += importance[i] * Math.abs(values[i]);
    weight += importance[i];
  }
  found.scale = stored((2 * sum) / weight, constraints);
  found.zeroPoint = 0.5;
}

/**
 * Any two levels: of all splits of the sorted weights the one with the least squared error, each side at its mean
 * (Lloyd 1982; with two levels trying every split finds the optimum).
 */
export function findTwoLevels(group: Group, constraints: Constraints, found: Parameters): void {
  sortGroup(group);
  const { length, values, importance } = group;
  let weight = 0;
  let sum = 0;
  for (let i = 0; i < length; i++) {
    weight += importance[i];
    sum += importance[i] * values[i];
  }
  let low = sum / weight;
  let high = low;
  let best = (sum * sum) / weight;
  let lowWeight = 0;
  let lowSum = 0;
  for (let i = 0; i + 1 < length; i++) {
    lowWeight += importance[i];
    lowSum += importance[i] * values[i];
    const highWeight = weight - lowWeight;
    const highSum = sum - lowSum;
    if (values[i] === values[i + 1] || lowWeight <= 0 || highWeight <= 0) continue;
    const explained = (lowSum * lowSum) / lowWeight + (highSum * highSum) / highWeight;
    if (explained > best) {
      best = explained;
      low = lowSum / lowWeight;
      high = highSum / highWeight;
    }
  }
  if (high > low) {
    found.scale = stored(high - low, constraints);
    found.zeroPoint = constraints.round(-low / found.scale);
  } else {
    found.scale = stored(Math.abs(low), constraints);
    found.zeroPoint = low < 0 ? 1 : 0;
  }
}
