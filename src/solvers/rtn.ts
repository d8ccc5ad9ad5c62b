/** `rtn`: round to nearest on the grid that covers a range of the weights themselves. */
import { type IntFormat, intFormatOf } from '../formats/index.ts';
import { coverInterval } from '../kernel/index.ts';
import { type RangeOptions, rangeOf } from '../ranges/index.ts';
import { findSigned, findTwoLevels } from './binary.ts';
import { solveOther } from './formats.ts';
import { chooseParameters, eachGroup, type Fill, type Find, nearestCodes } from './groups.ts';
import type { NearestSolver } from './solver.ts';
import { findTernary } from './ternary.ts';

/** The exact optimum of formats with two or three levels, which need no range; undefined for others. */
export function exactFinder({ bits, least }: IntFormat, symmetric: boolean): Find | undefined {
  if (least !== undefined) return findTernary;
  if (bits > 1) return undefined;
  return symmetric ? findSigned : findTwoLevels;
}

/** The grids that cover each group whole. */
const coverAll: Fill = ({ kernel, values, layout }, constraints, { scales, zeroPoints }) =>
  kernel.cover(values, layout, constraints, scales, zeroPoints);

export const rtn: NearestSolver<'rtn'> = {
  id: 'rtn',
  summary: 'round to nearest within the range of the weights',
  solve(values, rows, columns, scheme, options = {}) {
    const other = solveOther(rtn, values, rows, columns, scheme, options, false);
    if (other) return other;
    return nearestCodes(values, rows, columns, rtn.parameters(values, rows, columns, scheme, options), options);
  },
  parameters(values, rows, columns, scheme, options = {}) {
    const exact = exactFinder(intFormatOf(scheme.format), scheme.symmetric);
    const range = rangeOf(options.range ?? 'min-max');
    if (exact) return chooseParameters(values, rows, columns, scheme, options, eachGroup(exact));
    if (range.isExtent) return chooseParameters(values, rows, columns, scheme, options, coverAll);
    let single = new Float32Array(0);
    const find: Find = (group, constraints, found) => {
      if (single.length !== group.length) single = new Float32Array(group.length);
      for (let i = 0; i < group.length; i++) single[i] = group.values[i];
      const { format, symmetric } = constraints;
      const rangeOptions: RangeOptions = { format, symmetric, percentile: options.percentile };
      const { min, max } = range.chooseFrom(single, rangeOptions);
      coverInterval(min, max, constraints, found);
    };
    return chooseParameters(values, rows, columns, scheme, options, eachGroup(find));
  },
};
