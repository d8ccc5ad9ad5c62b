/** `rtn`: round to nearest on the grid that covers a range of the weights themselves. */
import { affineParameters, type RangeOptions, rangeOf } from '../ranges/index.ts';
import { findSigned, findTwoLevels } from './binary.ts';
import { type Constraints, type Find, solveGroups } from './groups.ts';
import type { Solver } from './solver.ts';

/** The finder for one-bit formats, which need no range. */
export function binaryFinder({ symmetric }: { readonly symmetric: boolean }): Find {
  return symmetric ? findSigned : findTwoLevels;
}

/** Writes the parameters of the grid from `low` to `high`, with the stored scale and a zero point to go with it. */
export function coverInterval(
  low: number,
  high: number,
  constraints: Constraints,
  found: { scale: number; zeroPoint: number },
): void {
  const { format, symmetric, reduceRange, floatZeroPoint, min, round } = constraints;
  const { scale, zeroPoint } = affineParameters({ min: low, max: high }, format, symmetric, { reduceRange });
  found.scale = round(scale);
  found.zeroPoint = floatZeroPoint ? round(min - Math.min(low, 0) / found.scale) : zeroPoint;
}

export const rtn: Solver<'rtn'> = {
  id: 'rtn',
  summary: 'round to nearest within the range of the weights',
  solve(values, rows, columns, scheme, options = {}) {
    const range = rangeOf(options.range ?? 'min-max');
    let single = new Float32Array(0);
    const find: Find = (group, constraints, found) => {
      if (constraints.format.bits === 1) {
        binaryFinder(constraints)(group, constraints, found);
        return;
      }
      if (single.length !== group.length) single = new Float32Array(group.length);
      for (let i = 0; i < group.length; i++) single[i] = group.values[i];
      const { format, symmetric } = constraints;
      const rangeOptions: RangeOptions = { format, symmetric, percentile: options.percentile };
      const { min, max } = range.chooseFrom(single, rangeOptions);
      coverInterval(min, max, constraints, found);
    };
    return solveGroups(values, rows, columns, scheme, options, find);
  },
};
