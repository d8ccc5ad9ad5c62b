/** One independent piece of work: the codes and scales of some rows of one weight. Plain data in, plain data out. */
import { formatScheme, parseScheme, type Scheme } from '../formats/scheme.ts';
import { bestKernel, type MatrixBytes, matrixBytes, matrixError, zeroPointBytes } from '../kernel/index.ts';
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

/** Numbers that are worked on together: they stay in a core's own cache from one step to the next. */
const blockNumbers = 2 ** 18;

/** @throws HalftoneError as the solver, or `missing-data` when the bytes can no longer be read. */
export function solveJob(job: SolveJob, open: OpenRange): SolvedPart {
  const scheme = parseScheme(job.scheme);
  const values = valuesOf(job, open);
  const rows = job.rows[1] - job.rows[0];
  const solved = solveRows(values, rows, scheme, job);
  // All rows of a weight have scales of one type.
  if (solved.scheme === job.scheme || solved.notFinite > 0) return solved;
  return solveRows(values, rows, parseScheme(solved.scheme), job);
}

function solveRows(values: Float32Array, rows: number, scheme: Scheme, job: SolveJob): SolvedPart {
  const kernel = bestKernel();
  const columns = values.length / rows;
  const solver = solverOf(job.solver);
  const whole = scheme.granularity.kind === 'tensor';
  const step = whole ? rows : Math.max(8, Math.floor(blockNumbers / columns / 8) * 8);
  const blocks: MatrixBytes[] = [];
  let energy = 0;
  let error = 0;
  let notFinite = 0;
  let { scaleType } = scheme;
  for (let first = 0; first < rows; first += step) {
    const count = Math.min(step, rows - first);
    const own = values.subarray(first * columns, (first + count) * columns);
    const { nan, positiveInfinity, negativeInfinity } = kernel.extent(own);
    notFinite += nan + positiveInfinity + negativeInfinity;
    if (notFinite > 0) continue;
    const matrix = solver.solve(own, count, columns, scheme, { ...job.options, kernel });
    scaleType = matrix.scheme.scaleType;
    if (scaleType !== scheme.scaleType) break;
    blocks.push(matrixBytes(matrix));
    energy += kernel.squaredError(own, zeros(own.length));
    error += matrixError(own, matrix, kernel);
  }
  return { scheme: formatScheme({ ...scheme, scaleType }), ...joined(blocks, scaleType), energy, error, notFinite };
}

let nothing = new Float32Array(0);

function zeros(count: number): Float32Array {
  if (nothing.length < count) nothing = new Float32Array(count);
  return nothing.subarray(0, count);
}

/** The bytes of consecutive rows; all but the last fill whole bytes with codes. */
function joined(blocks: readonly MatrixBytes[], scaleType: Scheme['scaleType']): MatrixBytes {
  const [first] = blocks;
  if (first && blocks.length === 1) return first;
  const zeroPoint = first?.zeroPoints ?? 0;
  const same = typeof zeroPoint === 'number' && blocks.every(({ zeroPoints }) => zeroPoints === zeroPoint);
  return {
    codes: concatenated(blocks.map(({ codes }) => codes)),
    scales: concatenated(blocks.map(({ scales }) => scales)),
    zeroPoints: same ? zeroPoint : concatenated(blocks.map((block) => zeroPointBytes(block, scaleType))),
  };
}

function concatenated(pieces: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let position = 0;
  for (const piece of pieces) {
    bytes.set(piece, position);
    position += piece.byteLength;
  }
  return bytes;
}

/** The job's rows as float32 values, row-major. Valid until the next job. */
function valuesOf({ dtype, shape, rowAxes, rows: [first, end], data }: SolveJob, open: OpenRange): Float32Array {
  const view = matrixView(shape, rowAxes);
  const width = byteLengthOf(dtype, 1);
  const source = data instanceof Uint8Array ? undefined : open(data);
  const read = (from: number, to: number) =>
    source ? readPart(source, from, to) : (data as Uint8Array).subarray(from, to);
  const count = end - first;
  if (isRowMajor(view)) {
    const rowBytes = view.columns * width;
    return new Tensor(dtype, [count * view.columns], read(first * rowBytes, end * rowBytes)).floats();
  }
  if (!isTransposed(view)) {
    return toMatrix(new Tensor(dtype, shape, read(0, byteLengthOf(dtype, view.rows * view.columns))).floats(), view);
  }
  const stored =
    source && count < view.rows
      ? readColumns(source, first * width, count * width, view.rows * width, view.columns)
      : read(0, view.rows * view.columns * width);
  const values = new Tensor(dtype, [view.columns, count], stored).floats();
  if (turned.length < values.length) turned = new Float32Array(values.length);
  const transposed = turned.subarray(0, values.length);
  bestKernel().transpose(values, view.columns, count, transposed);
  return transposed;
}

/** Where matrices are turned over: kept, so that large ones are not allocated for each job. */
let turned = new Float32Array(0);

/** Into the kernel's own memory, where that has room. */
function readPart(source: ByteSource, from: number, to: number): Uint8Array {
  if (!source.readInto) return source.read(from, to);
  const bytes = bestKernel().room(to - from);
  source.readInto(bytes, from);
  return bytes;
}

/** `length` bytes of each of `count` rows that lie `stride` bytes apart. */
function readColumns(source: ByteSource, start: number, length: number, stride: number, count: number): Uint8Array {
  const bytes = bestKernel().room(count * length);
  if (source.readStrided) {
    source.readStrided(bytes, start, length, stride);
    return bytes;
  }
  for (let row = 0; row < count; row++) {
    const from = start + row * stride;
    bytes.set(source.read(from, from + length), row * length);
  }
  return bytes;
}
