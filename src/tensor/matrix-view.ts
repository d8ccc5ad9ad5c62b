/** Looks at a tensor as a matrix whose rows are output channels and whose columns are what one output sums over. */
import { HalftoneError } from '../base/errors.ts';
import { type Shape, sizeOf } from './tensor.ts';

export interface MatrixView {
  /** The tensor's own shape. */
  readonly shape: Shape;
  /** Axes in the order that puts the row axes first; the rest, in this order, are the columns. */
  readonly permutation: readonly number[];
  /** How many axes of the permuted shape make a row index. */
  readonly rowAxes: number;
  readonly rows: number;
  readonly columns: number;
}

/** A view with the given row axes first and the others behind in their own order. */
export function matrixView(shape: Shape, rowAxes: readonly number[]): MatrixView {
  const rest = shape.map((_, axis) => axis).filter((axis) => !rowAxes.includes(axis));
  const rows = sizeOf(rowAxes.map((axis) => shape[axis]));
  if (rowAxes.some((axis) => axis < 0 || axis >= shape.length)) {
    throw new HalftoneError('internal', `matrix view: expected axes of [${shape.join(',')}], got ${rowAxes.join(',')}`);
  }
  const columns = sizeOf(rest.map((axis) => shape[axis]));
  return { shape, permutation: [...rowAxes, ...rest], rowAxes: rowAxes.length, rows, columns };
}

/** True when the tensor's own order is the matrix's order. */
export function isRowMajor(view: MatrixView): boolean {
  return view.permutation.every((axis, index) => axis === index);
}

/** The permuted shape: row dimensions, then column dimensions. */
export function permutedShape(view: MatrixView): number[] {
  return view.permutation.map((axis) => view.shape[axis]);
}

/** The permutation that leads from the permuted shape back to the tensor's own. */
export function inversePermutation(permutation: readonly number[]): number[] {
  const inverse = new Array<number>(permutation.length);
  permutation.forEach((axis, index) => {
    inverse[axis] = index;
  });
  return inverse;
}

/** For each element of the matrix, in row-major order, calls `visit(matrixIndex, tensorIndex)`. */
function eachElement(view: MatrixView, visit: (matrixIndex: number, tensorIndex: number) => void): void {
  const shape = permutedShape(view);
  const rank = shape.length;
  const strides = new Array<number>(rank);
  const own = new Array<number>(rank);
  let stride = 1;
  for (let axis = rank - 1; axis >= 0; axis--) {
    own[axis] = stride;
    stride *= view.shape[axis];
  }
  view.permutation.forEach((axis, index) => {
    strides[index] = own[axis];
  });
  const size = sizeOf(shape);
  const position = new Array<number>(rank).fill(0);
  let tensorIndex = 0;
  for (let matrixIndex = 0; matrixIndex < size; matrixIndex++) {
    visit(matrixIndex, tensorIndex);
    for (let axis = rank - 1; axis >= 0; axis--) {
      tensorIndex += strides[axis];
      if (++position[axis] < shape[axis]) break;
      tensorIndex -= strides[axis] * shape[axis];
      position[axis] = 0;
    }
  }
}

/** Rows and columns of the squares that a matrix is turned over by: both sides stay in the cache. */
const square = 64;

/** `out[c·rows + r] = values[r·columns + c]`. */
function turnOver<T extends Numbers>(values: T, rows: number, columns: number, out: T): T {
  for (let top = 0; top < rows; top += square) {
    const bottom = Math.min(top + square, rows);
    for (let left = 0; left < columns; left += square) {
      const right = Math.min(left + square, columns);
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) out[column * rows + row] = values[row * columns + column];
      }
    }
  }
  return out;
}

/** True when the tensor is the matrix turned over: [columns, rows]. */
export function isTransposed({ permutation, rowAxes }: MatrixView): boolean {
  return permutation.length === 2 && permutation[0] === 1 && rowAxes === 1;
}

type Numbers = Float32Array | Int8Array | Uint8Array | Int16Array | Uint16Array;

/** An array of the same type and length. */
function emptyLike<T extends Numbers>(array: T): T {
  return new (array.constructor as new (length: number) => T)(array.length);
}

/** The matrix of a tensor's values: rows·columns values, row-major. The same array where no reordering is needed. */
export function toMatrix<T extends Numbers>(values: T, view: MatrixView): T {
  if (isRowMajor(view)) return values;
  const matrix = emptyLike(values);
  if (isTransposed(view)) return turnOver(values, view.columns, view.rows, matrix);
  eachElement(view, (matrixIndex, tensorIndex) => {
    matrix[matrixIndex] = values[tensorIndex];
  });
  return matrix;
}

/** The tensor of a matrix's values, in the tensor's own order. */
export function fromMatrix<T extends Numbers>(matrix: T, view: MatrixView): T {
  if (isRowMajor(view)) return matrix;
  const values = emptyLike(matrix);
  if (isTransposed(view)) return turnOver(matrix, view.rows, view.columns, values);
  eachElement(view, (matrixIndex, tensorIndex) => {
    values[tensorIndex] = matrix[matrixIndex];
  });
  return values;
}

/** The shape under which one number per row broadcasts against the tensor. */
export function rowBroadcastShape(view: MatrixView): number[] {
  const rowAxes = view.permutation.slice(0, view.rowAxes);
  return view.shape.map((dimension, axis) => (rowAxes.includes(axis) ? dimension : 1));
}

/** One number per row, reordered so that it has `rowBroadcastShape` (row axes may be stored in another order). */
export function rowsInTensorOrder<T extends Numbers>(perRow: T, view: MatrixView): T {
  const rowAxes = view.permutation.slice(0, view.rowAxes);
  const sorted = [...rowAxes].sort((a, b) => a - b);
  if (rowAxes.every((axis, index) => axis === sorted[index])) return perRow;
  const shape = sorted.map((axis) => view.shape[axis]);
  return fromMatrix(
    perRow,
    matrixView(
      shape,
      rowAxes.map((axis) => sorted.indexOf(axis)),
    ),
  );
}
