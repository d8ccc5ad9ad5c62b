/** One independent piece of work: the codes and scales of some rows of one weight. Plain data in, plain data out. */
import { isHalftoneError } from '../base/errors.ts';
import { formatOf } from '../formats/index.ts';
import { formatScheme, isAffine, needsWholeTensor, parseScheme, type Scheme } from '../formats/scheme.ts';
import {
  bestKernel,
  blockLayout,
  dequantizeMatrix,
  type MatrixBytes,
  type MatrixParameters,
  matrixBytes,
  type Noise,
  parameterBytes,
  zeroPointBytes,
} from '../kernel/index.ts';
import { type SolveOptions, type Solver, type SolverId, solverOf } from '../solvers/index.ts';
import { byteLengthOf, type DType } from '../tensor/dtype.ts';
import { isRowMajor, isTransposed, type MatrixView, matrixView, toMatrix } from '../tensor/matrix-view.ts';
import { concatenated } from '../tensor/pieces.ts';
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
  const rows = rowsOf(job, open);
  const solved = solveRows(rows, scheme, job);
  // All rows of a weight have scales of one type.
  if (solved.scheme === job.scheme || solved.notFinite > 0) return solved;
  return solveRows(rows, parseScheme(solved.scheme), job);
}

/** The rows that a job works on. */
interface Rows {
  readonly count: number;
  readonly columns: number;
  /** Some of them as float32 values, valid until the next call. */
  values(first: number, count: number): Float32Array;
}

function solveRows(rows: Rows, scheme: Scheme, job: SolveJob): SolvedPart {
  const kernel = bestKernel();
  const { columns } = rows;
  const { bits } = formatOf(scheme.format);
  const step = needsWholeTensor(scheme) ? rows.count : Math.max(8, Math.floor(blockNumbers / columns / 8) * 8);
  const codes = new Uint8Array(Math.ceil((rows.count * columns * bits) / 8));
  const blocks: Omit<MatrixBytes, 'codes'>[] = [];
  let energy = 0;
  let error = 0;
  let notFinite = 0;
  let { scaleType } = scheme;
  for (let first = 0; first < rows.count; first += step) {
    const count = Math.min(step, rows.count - first);
    const values = rows.values(first, count);
    const block = notFinite > 0 ? undefined : solveBlock(values, count, columns, scheme, job);
    if (!block) {
      const { nan, positiveInfinity, negativeInfinity } = kernel.extent(values);
      notFinite += nan + positiveInfinity + negativeInfinity;
      continue;
    }
    scaleType = block.scheme.scaleType;
    if (scaleType !== scheme.scaleType) break;
    const noise = block.encode(
      codes.subarray((first * columns * bits) / 8, Math.ceil(((first + count) * columns * bits) / 8)),
    );
    energy += noise.signal;
    error += noise.error;
    blocks.push(parameterBytes(block));
  }
  return {
    scheme: formatScheme({ ...scheme, scaleType }),
    codes,
    ...joined(blocks, scaleType),
    energy,
    error,
    notFinite,
  };
}

interface Block extends MatrixParameters {
  /** Writes the codes, and tells what they cost. */
  encode(packed: Uint8Array): Noise;
}

/** Undefined for values that are not all finite, which solvers refuse. */
function solveBlock(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  job: SolveJob,
): Block | undefined {
  const kernel = bestKernel();
  const options = { ...job.options, kernel };
  const solver: Solver = solverOf(job.solver);
  const format = formatOf(scheme.format);
  const layout = blockLayout(scheme, rows, columns);
  try {
    if (solver.parameters && format.kind === 'int' && format.bits <= 8 && isAffine(scheme)) {
      const { bits, min: lowest } = format;
      const found = solver.parameters(values, rows, columns, scheme, options);
      const { scales, zeroPoints, min, max } = found;
      const codes = { min, max, bits, lowest };
      return { ...found, encode: (packed) => kernel.encode(values, layout, scales, zeroPoints, codes, packed) };
    }
    const matrix = solver.solve(values, rows, columns, scheme, options);
    return {
      ...matrix,
      encode(packed) {
        packed.set(matrixBytes(matrix).codes);
        const { codes, scales, zeroPoints } = matrix;
        if (format.kind === 'int') return kernel.noise(values, codes, layout, scales, zeroPoints);
        const signal = kernel.squaredError(values, new Float32Array(values.length));
        return { signal, error: kernel.squaredError(values, dequantizeMatrix(matrix, kernel)) };
      },
    };
  } catch (error) {
    if (isHalftoneError(error) && error.code === 'invalid-file') return undefined;
    throw error;
  }
}

/** The parameters of consecutive rows. */
function joined(
  blocks: readonly Omit<MatrixBytes, 'codes'>[],
  scaleType: Scheme['scaleType'],
): Omit<MatrixBytes, 'codes'> {
  const [first] = blocks;
  if (first && blocks.length === 1) return first;
  const zeroPoint = first?.zeroPoints ?? 0;
  const same = typeof zeroPoint === 'number' && blocks.every(({ zeroPoints }) => zeroPoints === zeroPoint);
  return {
    scales: concatenated(blocks.map(({ scales }) => scales)),
    zeroPoints: same ? zeroPoint : concatenated(blocks.map((block) => zeroPointBytes(block, scaleType))),
    ...joinedField(blocks, 'factors'),
    ...joinedField(blocks, 'codebook'),
  };
}

/** Numbers that each row has of its own, or none. */
export function joinedField<Key extends 'factors' | 'codebook'>(
  blocks: readonly Pick<MatrixBytes, Key>[],
  key: Key,
): { readonly [key in Key]?: Uint8Array } {
  const pieces = blocks.flatMap((block) => block[key] ?? []);
  return pieces.length === 0 ? {} : ({ [key]: concatenated(pieces) } as { readonly [key in Key]?: Uint8Array });
}

/** Rows that lie one after the other are read as they are needed; of others all are read at once. */
function rowsOf({ dtype, shape, rowAxes, rows: [first, end], data }: SolveJob, open: OpenRange): Rows {
  const view = matrixView(shape, rowAxes);
  const { columns } = view;
  const count = end - first;
  const width = byteLengthOf(dtype, 1);
  const source = data instanceof Uint8Array ? undefined : open(data);
  if (isRowMajor(view)) {
    const bytesOf = (from: number, to: number) =>
      source ? readPart(source, from, to) : (data as Uint8Array).subarray(from, to);
    return {
      count,
      columns,
      values(row, some) {
        const start = (first + row) * columns * width;
        return new Tensor(dtype, [some * columns], bytesOf(start, start + some * columns * width)).floats();
      },
    };
  }
  if (!isTransposed(view)) {
    const bytes = source ? source.read() : (data as Uint8Array);
    const values = toMatrix(new Tensor(dtype, shape, bytes).floats(), view);
    return { count, columns, values: (row, some) => values.subarray(row * columns, (row + some) * columns) };
  }
  const stored = source
    ? readColumns(source, first * width, count * width, view.rows * width, columns)
    : (data as Uint8Array);
  const turned = new Tensor(dtype, [columns, count], stored).floats();
  return {
    count,
    columns,
    values(row, some) {
      const kernel = bestKernel();
      const desk = kernel.desk(some * columns * 4);
      const values = new Float32Array(desk.buffer, desk.byteOffset, some * columns);
      kernel.transpose(turned, columns, count, values, row);
      return values;
    },
  };
}

/** Into the kernel's own memory, where that has room. */
function readPart(source: ByteSource, from: number, to: number): Uint8Array {
  if (!source.readInto) return source.read(from, to);
  const bytes = bestKernel().room(to - from);
  source.readInto(bytes, from);
  return bytes;
}

/** `length` bytes of each of `count` rows that lie `stride` bytes apart. */
function readColumns(source: ByteSource, start: number, length: number, stride: number, count: number): Uint8Array {
  if (length === stride) return readPart(source, start, start + count * length);
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
