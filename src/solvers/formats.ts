/** How formats without plain scales and zero points are solved: the same for every solver that takes the nearest codes. */
import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { checkScheme, isAffine, type Scheme } from '../formats/scheme.ts';
import { solveCodebook } from './codebook.ts';
import { solveLevels, withDoubleQuantizedScales } from './levels.ts';
import { solveResidual } from './residual.ts';
import type { SolveOptions, Solver } from './solver.ts';

/**
 * Quantizes to formats that `solver` itself does not know: levels, codebooks, sums of signs, and integers whose scales
 * lie on a grid. Undefined for the others.
 * @param searches whether scales are searched for, or follow from the largest magnitude
 */
export function solveOther(
  solver: Pick<Solver, 'solve'>,
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  options: SolveOptions,
  searches: boolean,
): QuantizedMatrix | undefined {
  checkScheme(scheme);
  if (isAffine(scheme)) return undefined;
  switch (formatOf(scheme.format).kind) {
    case 'int': {
      if (scheme.scaleType !== 'int8') return solveLevels(values, rows, columns, scheme, options, searches);
      const plain: Scheme = { ...scheme, scaleType: 'float32' };
      return withDoubleQuantizedScales(values, solver.solve(values, rows, columns, plain, options), options);
    }
    case 'levels':
      return solveLevels(values, rows, columns, scheme, options, searches);
    case 'codebook':
      return solveCodebook(values, rows, columns, scheme, options);
    case 'residual':
      return solveResidual(values, rows, columns, scheme, options);
    default:
      return undefined;
  }
}
