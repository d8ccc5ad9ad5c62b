/** One independent piece of work: the codes and scales of some rows of one weight. Plain data in, plain data out. */
import { formatScheme, parseScheme } from '../formats/scheme.ts';
import { bestKernel, type MatrixBytes, matrixBytes, matrixError } from '../kernel/index.ts';
import { type SolveOptions, type SolverId, solverOf } from '../solvers/index.ts';
import { byteLengthOf, type DType } from '../tensor/dtype.ts';
import { isRowMajor, isTransposed, type MatrixView, matrixView, toMatrix } from '../tensor/matrix-view.ts';
import type { ByteSource, FileRange } from '../tensor/source.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';

/** Can be sent to another thread as it is. */
export interface SolveJob {
  /** The weight's name, for messages. */
  readonly tensor: string;
  readonly dtype: DType;
  readonly shape: Shape;
  /** Its bytes, or where they lie. */
  readonly data: Uint8Array | FileRange;
  /** Axes of the tensor that make the rows of the matrix. */
  readonly rowAxes: readonly number[];
  /** The first row, and the one behind the last; all rows unless `canSplit`. */
  readonly rows: readonly [first: number, end: number];
  readonly solver: SolverId;
  readonly scheme: string;
  readonly options: Pick<SolveOptions, 'range' | 'percentile' | 'reduceRange' | 'positiveScale'>;
}

export interface SolvedPart extends MatrixBytes {
  /** The scheme as stored; scales fall back to float32 where float16 cannot hold them. */
  readonly scheme: string;
  /** Σ value² and Σ (value − quantized value)². */
  readonly energy: number;
  readonly error: number;
  /** NaN and infinite values; with any, nothing else is of use. */
  readonly notFinite: number;
}

/** How a job reaches bytes that are not in memory. */
export type OpenRange = (range: FileRange) => ByteSource;

/** True when rows can be read without reading the whole tensor: a matrix as it lies, or transposed. */
export function canSplit(view: MatrixView): boolean {
  return isRowMajor(view) || isTransposed(view);
}

/** @throws HalftoneError as the solver, or `missing-data` when the bytes can no longer be read. */
export function solveJob(job: SolveJob, open: OpenRange): SolvedPart {
  const kernel = bestKernel();
  const values = valuesOf(job, open);
  const rows = job.rows[1] - job.rows[0];
  const { nan, positiveInfinity, negativeInfinity } = kernel.extent(values);
  const notFinite = nan + positiveInfinity + negativeInfinity;
  if (notFinite > 0) {
    const none = new Uint8Array(0);
    return { scheme: job.scheme, codes: none, scales: none, zeroPoints: 0, energy: 0, error: 0, notFinite };
  }
  const scheme = parseScheme(job.scheme);
  const matrix = solverOf(job.solver).solve(values, rows, values.length / rows, scheme, { ...job.options, kernel });
  return {
    scheme: formatScheme(matrix.scheme),
    ...matrixBytes(matrix),
    energy: kernel.squaredError(values, new Float32Array(values.length)),
    error: matrixError(values, matrix, kernel),
    notFinite: 0,
  };
}

/** The job's rows as float32 values, row-major. */
function valuesOf({ dtype, shape, rowAxes, rows: [first, end], data }: SolveJob, open: OpenRange): Float32Array {
  const view = matrixView(shape, rowAxes);
  const source = data instanceof Uint8Array ? undefined : open(data);
  const read = (from: number, to: number) => (source ? source.read(from, to) : (data as Uint8Array).subarray(from, to));
  const count = end - first;
  const whole = count === view.rows;
  const width = byteLengthOf(dtype, 1);
  if (isRowMajor(view)) {
    const rowBytes = view.columns * width;
    return new Tensor(dtype, [count * view.columns], read(first * rowBytes, end * rowBytes)).floats();
  }
  if (!isTransposed(view))
    return toMatrix(new Tensor(dtype, shape, read(0, byteLengthOf(dtype, view.rows * view.columns))).floats(), view);
  const part = whole ? read(0, view.rows * view.columns * width) : columnsOf(read, source, view, first, count, width);
  const values = new Tensor(dtype, [view.columns, count], part).floats();
  const transposed = new Float32Array(values.length);
  bestKernel().transpose(values, view.columns, count, transposed);
  return transposed;
}

/** Columns first … first + count − 1 of a stored [view.columns, view.rows] matrix. */
function columnsOf(
  read: (from: number, to: number) => Uint8Array,
  source: ByteSource | undefined,
  view: MatrixView,
  first: number,
  count: number,
  width: number,
): Uint8Array {
  const length = count * width;
  const stride = view.rows * width;
  const bytes = new Uint8Array(view.columns * length);
  if (source?.readStrided) {
    source.readStrided(bytes, first * width, length, stride);
    return bytes;
  }
  for (let row = 0; row < view.columns; row++) {
    const start = row * stride + first * width;
    bytes.set(read(start, start + length), row * length);
  }
  return bytes;
}
