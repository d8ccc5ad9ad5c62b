/** The family of solvers: one explicit list. An entry turns a matrix of weights into codes and parameters. */
import { HalftoneError } from '../base/errors.ts';
import { hqq } from './hqq.ts';
import { rtn } from './rtn.ts';
import { search } from './search.ts';
import type { Solver } from './solver.ts';

export type { MatrixParameters, SolveOptions, Solver } from './solver.ts';

export const solvers = [rtn, search, hqq] as const;

export type SolverId = (typeof solvers)[number]['id'];

/**
 * The solver with this id.
 * @throws HalftoneError `usage` for an unknown id.
 */
export function solverOf(id: string): Solver<SolverId> {
  const solver = solvers.find((candidate) => candidate.id === id);
  if (!solver) {
    const ids = solvers.map((candidate) => candidate.id).join(', ');
    throw new HalftoneError('usage', `solver: expected one of ${ids}, got "${id}"`);
  }
  return solver;
}
