/** Factors of large symmetric positive definite matrices, and systems solved with them: blocked, so that products do it. */
import { HalftoneError } from '../base/errors.ts';

/** Dense matrix products, as `runtime/products.ts` has them. */
export interface MatrixProducts {
  /** A·B of a row-major [rows, inner] by a [inner, columns] matrix, in float32. */
  multiply(a: Float32Array, b: Float32Array, rows: number, inner: number, columns: number): Promise<Float32Array>;
}

/** Products by loops, each sum in double precision: for small matrices. */
export const plainProducts: MatrixProducts = {
  async multiply(a, b, rows, inner, columns) {
    const product = new Float32Array(rows * columns);
    const sums = new Float64Array(columns);
    for (let row = 0; row < rows; row++) {
      sums.fill(0);
      for (let i = 0; i < inner; i++) {
        const factor = a[row * inner + i];
        const start = i * columns;
        for (let column = 0; column < columns; column++) sums[column] += factor * b[start + column];
      }
      product.set(sums, row * columns);
    }
    return product;
  },
};

/** H = U·diag(pivots)·Uᵀ with ones on the diagonal of the upper triangular U. */
export interface Factor {
  readonly size: number;
  /** U, row-major, zeros below the diagonal. */
  readonly upper: Float32Array;
  /** What is left of each diagonal element once all later columns are known. */
  readonly pivots: Float64Array;
}

/** Columns that are factorized, or solved for, at a time. */
const blockSize = 128;

/** Of a matrix with a diagonal of ones: smaller pivots are noise of float32, or of float64. */
const leastPivot = { single: 1e-6, double: 1e-13 } as const;

/**
 * Of a matrix with a diagonal of ones: what is smaller is taken for zero. Far below what float32 tells from zero, it would
 * become numbers so small that processors take a hundred times as long for them.
 */
const leastElement = 1e-12;

/** Where float32 breaks down, matrices up to this size are factorized in double precision. */
const largestDouble = 2048;

/**
 * Factorizes a symmetric matrix, scaled to a diagonal of ones first. Matrices of up to 128 columns are factorized in
 * double precision; larger ones in float32, and once more in double precision where that breaks down.
 * @param matrix size·size numbers; those below the diagonal are not read
 * @returns undefined where the matrix is not positive definite to working precision, or not finite
 */
export async function factorize(
  matrix: Float32Array,
  size: number,
  products: MatrixProducts = plainProducts,
): Promise<Factor | undefined> {
  if (matrix.length !== size * size) {
    throw new HalftoneError('internal', `factorize: expected ${size}×${size} numbers, got ${matrix.length}`);
  }
  const lengths = new Float64Array(size);
  for (let i = 0; i < size; i++) {
    lengths[i] = Math.sqrt(matrix[i * size + i]);
    if (!(lengths[i] > 0 && lengths[i] < Number.POSITIVE_INFINITY)) return undefined;
  }
  let root: Float32Array | Float64Array | undefined;
  if (size > blockSize) root = await blockedRoot(normalized(matrix, lengths, new Float32Array(size * size)), products);
  if (!root && size <= largestDouble) {
    const exact = normalized(matrix, lengths, new Float64Array(size * size));
    if (rootInPlace(exact, size, leastPivot.double)) root = exact;
  }
  if (!root) return undefined;
  // Roots in single precision become the factor where they are.
  const upper = root instanceof Float32Array ? root : new Float32Array(size * size);
  const pivots = new Float64Array(size);
  const inverses = new Float64Array(size);
  for (let i = 0; i < size; i++) {
    const pivot = root[i * size + i];
    pivots[i] = (lengths[i] * pivot) ** 2;
    inverses[i] = 1 / pivot;
  }
  for (let i = 0; i < size; i++) {
    const row = i * size;
    const length = lengths[i];
    upper[row + i] = 1;
    for (let j = i + 1; j < size; j++) {
      const share = root[row + j] * inverses[j];
      upper[row + j] = Math.abs(share) < leastElement ? 0 : (share * length) / lengths[j];
    }
  }
  return allFinite(upper) && pivots.every(Number.isFinite) ? { size, upper, pivots } : undefined;
}

/** Whether all numbers are finite. */
export function allFinite(numbers: Float32Array): boolean {
  let zero = 0;
  for (let i = 0; i < numbers.length; i++) zero += numbers[i] * 0;
  return zero === 0;
}

/** The upper triangle divided by the lengths of row and column. */
function normalized<T extends Float32Array | Float64Array>(matrix: Float32Array, lengths: Float64Array, out: T): T {
  const size = lengths.length;
  for (let i = 0; i < size; i++) {
    for (let j = i; j < size; j++) {
      const value = matrix[i * size + j] / (lengths[i] * lengths[j]);
      out[i * size + j] = Math.abs(value) < leastElement ? 0 : value;
    }
  }
  return out;
}

/**
 * The upper triangular R with A = R·Rᵀ, from the last column to the first, in place of the upper triangle of A. False
 * where a pivot is below `least`.
 */
function rootInPlace(a: Float64Array, size: number, least: number): boolean {
  for (let j = size - 1; j >= 0; j--) {
    const own = a.subarray(j * size, (j + 1) * size);
    let pivot = own[j];
    for (let k = j + 1; k < size; k++) pivot -= own[k] * own[k];
    if (!(pivot > least)) return false;
    const root = Math.sqrt(pivot);
    own[j] = root;
    for (let i = 0; i < j; i++) {
      const row = i * size;
      let sum = a[row + j];
      for (let k = j + 1; k < size; k++) sum -= a[row + k] * own[k];
      a[row + j] = sum / root;
    }
  }
  return true;
}

/** The same in float32, block after block: what later columns contribute to a block of columns is one product. */
async function blockedRoot(a: Float32Array, products: MatrixProducts): Promise<Float32Array | undefined> {
  const size = Math.sqrt(a.length);
  const room = new Float32Array(Math.ceil(a.length / 4));
  for (let first = Math.floor((size - 1) / blockSize) * blockSize; first >= 0; first -= blockSize) {
    const last = Math.min(first + blockSize, size);
    const width = last - first;
    const rest = part(a, size, 0, last, first, last);
    if (last < size) {
      const later = part(a, size, 0, last, last, size, room);
      const own = turned(later.subarray(first * (size - last)), width, size - last);
      subtract(rest, await products.multiply(later, own, last, size - last, width), leastElement);
    }
    const corner = Float64Array.from(rest.subarray(first * width));
    if (!rootInPlace(corner, width, leastPivot.single)) return undefined;
    for (let i = 0; i < width; i++) {
      for (let j = i; j < width; j++) a[(first + i) * size + first + j] = corner[i * width + j];
    }
    if (first === 0) break;
    const inverse = turned(upperInverse(corner, width), width, width);
    const above = await products.multiply(rest.subarray(0, first * width), inverse, first, width, width);
    for (let i = 0; i < first; i++) a.set(above.subarray(i * width, (i + 1) * width), i * size + first);
  }
  return a;
}

/** The inverse of an upper triangular matrix, row-major; what lies below the diagonal is not read. */
function upperInverse(upper: Float64Array | Float32Array, size: number): Float32Array {
  const inverse = new Float64Array(size * size);
  for (let i = size - 1; i >= 0; i--) {
    const own = inverse.subarray(i * size, (i + 1) * size);
    own[i] = 1;
    for (let k = i + 1; k < size; k++) {
      const factor = upper[i * size + k];
      for (let j = k; j < size; j++) own[j] -= factor * inverse[k * size + j];
    }
    const pivot = upper[i * size + i];
    for (let j = i; j < size; j++) own[j] /= pivot;
  }
  return Float32Array.from(inverse);
}

/** A copy of some rows and columns of a row-major matrix, in `room` if that is given. */
function part(
  matrix: Float32Array,
  columns: number,
  firstRow: number,
  lastRow: number,
  first: number,
  last: number,
  room?: Float32Array,
): Float32Array {
  const width = last - first;
  const count = (lastRow - firstRow) * width;
  const copy = room ? room.subarray(0, count) : new Float32Array(count);
  for (let row = firstRow; row < lastRow; row++) {
    copy.set(matrix.subarray(row * columns + first, row * columns + last), (row - firstRow) * width);
  }
  return copy;
}

function turned(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const copy = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) copy[column * rows + row] = matrix[row * columns + column];
  }
  return copy;
}

/** Takes one matrix from another; what is left below `least` becomes zero. */
function subtract(from: Float32Array, what: Float32Array, least: number): void {
  for (let i = 0; i < from.length; i++) {
    const value = from[i] - what[i];
    from[i] = Math.abs(value) < least ? 0 : value;
  }
}

/**
 * X = B·H⁻¹ for the factorized H.
 * @param right B: rows·size numbers, row-major
 */
export async function solveRight(
  right: Float32Array,
  rows: number,
  { size, upper, pivots }: Factor,
  products: MatrixProducts = plainProducts,
): Promise<Float32Array> {
  const found = right.slice();
  const count = Math.ceil(size / blockSize);
  /** Solves for one block, given the product with the blocks that are known. */
  const solveBlock = async (index: number, isTurned: boolean) => {
    const first = index * blockSize;
    const last = Math.min(first + blockSize, size);
    const width = last - first;
    const rest = part(found, size, 0, rows, first, last);
    const [from, to] = isTurned ? [last, size] : [0, first];
    if (from < to) {
      const known = part(found, size, 0, rows, from, to);
      const factor = isTurned
        ? turned(part(upper, size, first, last, from, to), width, to - from)
        : part(upper, size, from, to, first, last);
      subtract(rest, await products.multiply(known, factor, rows, to - from, width), 0);
    }
    const plain = upperInverse(part(upper, size, first, last, first, last), width);
    const inverse = isTurned ? turned(plain, width, width) : plain;
    const solved = await products.multiply(rest, inverse, rows, width, width);
    for (let row = 0; row < rows; row++) {
      found.set(solved.subarray(row * width, (row + 1) * width), row * size + first);
    }
  };
  for (let index = count - 1; index >= 0; index--) await solveBlock(index, true);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < size; column++) found[row * size + column] /= pivots[column];
  }
  for (let index = 0; index < count; index++) await solveBlock(index, false);
  return found;
}
