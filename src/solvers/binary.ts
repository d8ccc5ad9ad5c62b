/** Two levels: what one bit per weight can stand for. Both optima are exact. */
import { type Constraints, type Group, type Parameters, sortGroup } from './groups.ts';

/** Levels ±α with α the (weighted) mean magnitude: the least-squares optimum (Rastegari et al. 2016, XNOR-Net, eq. 6). */
export function findSigned({ length, values, importance }: Group, { round }: Constraints, found: Parameters): void {
  let sum = 0;
  let weight = 0;
  for (let i = 0; i < length; i++) {
    sum += importance[i] * Math.abs(values[i]);
    weight += importance[i];
  }
  const scale = round((2 * sum) / weight);
  found.scale = scale > 0 ? scale : 1;
  found.zeroPoint = 0.5;
}

/**
 * Any two levels: of all splits of the sorted weights the one with the least squared error, each side at its mean
 * (Lloyd 1982; with two levels trying every split finds the optimum).
 */
export function findTwoLevels(group: Group, { round }: Constraints, found: Parameters): void {
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
  const scale = round(high - low);
  if (scale > 0) {
    found.scale = scale;
    found.zeroPoint = round(-low / scale);
  } else {
    const single = round(Math.abs(low));
    found.scale = single > 0 ? single : 1;
    found.zeroPoint = low < 0 ? 1 : 0;
  }
}
