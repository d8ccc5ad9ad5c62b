/** What a solver is: it finds codes and parameters for a matrix of weights. Solvers know no graph. */
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { RangeId } from '../ranges/index.ts';

export interface SolveOptions {
  /**
   * How much the squared error of each column counts: `columns` numbers, not negative, for example the mean square of
   * each input. Default: all columns count the same. Used by `search` and by one-bit formats.
   */
  readonly importance?: Float32Array;
  /** `rtn`: how the interval of each group of weights is chosen. Default `min-max`. */
  readonly range?: RangeId;
  /** For the range `percentile`. */
  readonly percentile?: number;
  /** Use half of the codes of 8-bit formats; see `AffineOptions`. Default false. */
  readonly reduceRange?: boolean;
  /**
   * Never choose a negative scale. Symmetric formats below 8 bits otherwise may, so that the weight of largest
   * magnitude lands on the lowest code whatever its sign. Default false.
   */
  readonly positiveScale?: boolean;
  /** What does the loops; results do not depend on it. Default `bestKernel()`. */
  readonly kernel?: Kernel;
}

/** The grids of a matrix whose codes are the nearest ones: `Kernel.quantize` with these gives them. */
export interface MatrixParameters {
  /** With float32 scales where float16 could not hold them. */
  readonly scheme: Scheme;
  readonly scales: Float32Array;
  readonly zeroPoints: Float32Array;
  /** The codes that may be used. */
  readonly min: number;
  readonly max: number;
}

/** A solver that takes the nearest codes. */
export type NearestSolver<Id extends string = string> = Solver<Id> & Required<Pick<Solver, 'parameters'>>;

/** An entry of the family. */
export interface Solver<Id extends string = string> {
  readonly id: Id;
  readonly summary: string;
  /**
   * Quantizes a matrix. Pure and deterministic.
   * @param values rows·columns finite weights, row-major; a row is an output channel
   * @throws HalftoneError `invalid-file` for NaN or infinite weights, `usage` for options that do not fit.
   */
  solve(values: Float32Array, rows: number, columns: number, scheme: Scheme, options?: SolveOptions): QuantizedMatrix;
  /** The parameters alone, for solvers that take the nearest codes; see `solve`. */
  parameters?(
    values: Float32Array,
    rows: number,
    columns: number,
    scheme: Scheme,
    options?: SolveOptions,
  ): MatrixParameters;
}
