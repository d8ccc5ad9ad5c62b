/** `search`: the grid that loses least, for each group of weights: `Kernel.fit`. */
import { intFormatOf } from '../formats/index.ts';
import { solveOther } from './formats.ts';
import { chooseParameters, eachGroup, type Fill, nearestCodes } from './groups.ts';
import { exactFinder } from './rtn.ts';
import type { NearestSolver } from './solver.ts';

const fitAll: Fill = ({ kernel, values, layout, importance }, constraints, { scales, zeroPoints }) =>
  kernel.fit(values, layout, constraints, importance, scales, zeroPoints);

export const search: NearestSolver<'search'> = {
  id: 'search',
  summary: 'search for the scale and zero point with the least squared error, group by group',
  solve(values, rows, columns, scheme, options = {}) {
    const other = solveOther(search, values, rows, columns, scheme, options, true);
    if (other) return other;
    return nearestCodes(values, rows, columns, search.parameters(values, rows, columns, scheme, options), options);
  },
  parameters(values, rows, columns, scheme, options = {}) {
    const exact = exactFinder(intFormatOf(scheme.format), scheme.symmetric);
    return chooseParameters(values, rows, columns, scheme, options, exact ? eachGroup(exact) : fitAll);
  },
};
