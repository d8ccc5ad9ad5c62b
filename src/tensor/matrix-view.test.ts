/** Matrix views: every element lands where index arithmetic says, and comes back. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  fromMatrix,
  inversePermutation,
  isRowMajor,
  matrixView,
  permutedShape,
  rowBroadcastShape,
  rowsInTensorOrder,
  toMatrix,
} from './matrix-view.ts';
import { sizeOf } from './tensor.ts';

/** Any shape of up to five axes, and some of its axes in any order. */
const shapeAndRows = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 5 }).chain((shape) =>
  fc.tuple(
    fc.constant(shape),
    fc.shuffledSubarray(
      shape.map((_, axis) => axis),
      { minLength: 0 },
    ),
  ),
);

const counted = (size: number) => Float32Array.from({ length: size }, (_, index) => index);

/** The index of a position in a row-major shape. */
const indexIn = (shape: readonly number[], position: readonly number[]) =>
  position.reduce((sum, place, axis) => sum * shape[axis] + place, 0);

/** The position of an index in a row-major shape. */
function positionIn(shape: readonly number[], index: number): number[] {
  const position = new Array<number>(shape.length);
  let rest = index;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    position[axis] = rest % shape[axis];
    rest = Math.floor(rest / shape[axis]);
  }
  return position;
}

describe('matrixView', () => {
  it('counts rows and columns', () => {
    fc.assert(
      fc.property(shapeAndRows, ([shape, rowAxes]) => {
        const view = matrixView(shape, rowAxes);
        expect(view.rows).toBe(sizeOf(rowAxes.map((axis) => shape[axis])));
        expect(view.rows * view.columns).toBe(sizeOf(shape));
        expect([...view.permutation].sort()).toEqual(shape.map((_, axis) => axis));
        expect(view.permutation.slice(0, view.rowAxes)).toEqual(rowAxes);
      }),
    );
  });

  it('refuses axes that the shape lacks', () => {
    expect(() => matrixView([2, 3], [2])).toThrow('matrix view: expected axes of [2,3], got 2');
    expect(() => matrixView([2, 3], [-1])).toThrow('matrix view: expected axes of [2,3], got -1');
  });

  it('sees the weights of layers as rows of outputs', () => {
    // [K,N] of a MatMul: each row is a column of the tensor.
    const product = matrixView([2, 3], [1]);
    expect([product.rows, product.columns]).toEqual([3, 2]);
    expect([...toMatrix(Float32Array.of(1, 2, 3, 4, 5, 6), product)]).toEqual([1, 4, 2, 5, 3, 6]);
    // [C_in, C_out, k, k] of a ConvTranspose.
    const transposed = matrixView([2, 2, 1, 2], [1]);
    expect([...toMatrix(counted(8), transposed)]).toEqual([0, 1, 4, 5, 2, 3, 6, 7]);
    expect(rowBroadcastShape(transposed)).toEqual([1, 2, 1, 1]);
    // No row axis: one row of everything.
    expect(matrixView([2, 3], [])).toMatchObject({ rows: 1, columns: 6 });
  });
});

describe('toMatrix and fromMatrix', () => {
  it('put every element where the axes say', () => {
    fc.assert(
      fc.property(shapeAndRows, ([shape, rowAxes]) => {
        const view = matrixView(shape, rowAxes);
        const matrix = toMatrix(counted(sizeOf(shape)), view);
        const permuted = permutedShape(view);
        for (let index = 0; index < matrix.length; index++) {
          const position = positionIn(shape, index);
          const place = indexIn(
            permuted,
            view.permutation.map((axis) => position[axis]),
          );
          expect(matrix[place]).toBe(index);
        }
      }),
    );
  });

  it('are inverse to each other and leave their arguments alone', () => {
    fc.assert(
      fc.property(shapeAndRows, ([shape, rowAxes]) => {
        const view = matrixView(shape, rowAxes);
        const values = counted(sizeOf(shape));
        expect(fromMatrix(toMatrix(values, view), view)).toEqual(counted(values.length));
        expect(toMatrix(fromMatrix(values, view), view)).toEqual(counted(values.length));
        expect(values).toEqual(counted(values.length));
      }),
    );
  });

  it('copy nothing where the order is the same already', () => {
    const values = counted(6);
    const view = matrixView([2, 3], [0]);
    expect(isRowMajor(view)).toBe(true);
    expect(toMatrix(values, view)).toBe(values);
    expect(fromMatrix(values, view)).toBe(values);
    expect(isRowMajor(matrixView([2, 3], [1]))).toBe(false);
  });

  it('keep the kind of array', () => {
    const view = matrixView([2, 2], [1]);
    expect(fromMatrix(Int8Array.of(-1, 2, 3, -4), view)).toEqual(Int8Array.of(-1, 3, 2, -4));
    expect(toMatrix(Uint16Array.of(1, 65535, 3, 4), view)).toEqual(Uint16Array.of(1, 3, 65535, 4));
  });
});

describe('inversePermutation', () => {
  it('leads back', () => {
    fc.assert(
      fc.property(shapeAndRows, ([shape, rowAxes]) => {
        const { permutation } = matrixView(shape, rowAxes);
        const inverse = inversePermutation(permutation);
        expect(permutation.map((axis) => inverse[axis])).toEqual(permutation.map((_, index) => index));
      }),
    );
  });
});

describe('rowsInTensorOrder', () => {
  it('gives numbers that broadcast to their rows', () => {
    fc.assert(
      fc.property(shapeAndRows, ([shape, rowAxes]) => {
        const view = matrixView(shape, rowAxes);
        const broadcast = rowBroadcastShape(view);
        const perRow = rowsInTensorOrder(counted(view.rows), view);
        expect(sizeOf(broadcast)).toBe(view.rows);
        // Each element of the tensor, by broadcasting, meets the number of the matrix row that it is in.
        const spread = Float32Array.from({ length: sizeOf(shape) }, (_, index) => {
          const position = positionIn(shape, index).map((place, axis) => (broadcast[axis] === 1 ? 0 : place));
          return perRow[indexIn(broadcast, position)];
        });
        toMatrix(spread, view).forEach((row, index) => {
          expect(row).toBe(Math.floor(index / view.columns));
        });
      }),
    );
  });
});
