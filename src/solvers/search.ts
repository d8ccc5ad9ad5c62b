/** `search`: the grid that loses least, for each group of weights: `Kernel.fit`. */
import { intFormatOf } from '../formats/index.ts';
import { eachGroup, type Fill, type Find, solveMatrix } from './groups.ts';
import { binaryFinder } from './rtn.ts';
import type { Solver } from './solver.ts';

const fitAll: Fill = ({ kernel, values, layout, importance }, constraints, { scales, zeroPoints, codes }) => {
  kernel.fit(values, layout, constraints, importance, scales, zeroPoints);
  kernel.quantize(values, layout, scales, zeroPoints, constraints.min, constraints.max, codes);
};

/** One bit has two levels, whose optimum is found exactly. */
const findBinary: Find = (group, constraints, found) => binaryFinder(constraints)(group, constraints, found);

export const search: Solver<'search'> = {
  id: 'search',
  summary: 'search for the scale and zero point with the least squared error, group by group',
  solve(values, rows, columns, scheme, options = {}) {
    const fill = intFormatOf(scheme.format).bits === 1 ? eachGroup(findBinary) : fitAll;
    return solveMatrix(values, rows, columns, scheme, options, fill);
  },
};
