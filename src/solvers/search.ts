/** `search`: the grid that loses least, for each group of weights: `Kernel.fit`. */
import { intFormatOf } from '../formats/index.ts';
import { chooseParameters, eachGroup, type Fill, type Find, nearestCodes } from './groups.ts';
import { binaryFinder } from './rtn.ts';
import type { NearestSolver } from './solver.ts';

const fitAll: Fill = ({ kernel, values, layout, importance }, constraints, { scales, zeroPoints }) =>
  kernel.fit(values, layout, constraints, importance, scales, zeroPoints);

/** One bit has two levels, whose optimum is found exactly. */
const findBinary: Find = (group, constraints, found) => binaryFinder(constraints)(group, constraints, found);

export const search: NearestSolver<'search'> = {
  id: 'search',
  summary: 'search for the scale and zero point with the least squared error, group by group',
  solve(values, rows, columns, scheme, options = {}) {
    return nearestCodes(values, rows, columns, search.parameters(values, rows, columns, scheme, options), options);
  },
  parameters(values, rows, columns, scheme, options = {}) {
    const fill = intFormatOf(scheme.format).bits === 1 ? eachGroup(findBinary) : fitAll;
    return chooseParameters(values, rows, columns, scheme, options, fill);
  },
};
