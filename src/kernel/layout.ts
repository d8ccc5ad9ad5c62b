/** How arrays divide into blocks and channels, checked, and cut into windows that fit a small memory. */
import { HalftoneError } from '../base/errors.ts';
import type { BlockLayout, Elements } from './kernel.ts';

/** @throws HalftoneError `internal` where elements or parameters are not as many as the layout says. */
export function checkLayout(
  length: number,
  { rows, columns, blockSize }: BlockLayout,
  ...parameters: Float32Array[]
): void {
  const expected = rows * Math.ceil(columns / blockSize);
  for (const { length: found } of parameters) {
    if (found !== expected) {
      throw new HalftoneError('internal', `block layout: expected ${expected} parameters, got ${found}`);
    }
  }
  if (length !== rows * columns) {
    throw new HalftoneError('internal', `block layout: expected ${rows * columns} elements, got ${length}`);
  }
}

/** @throws HalftoneError `internal` where a matrix does not have rows·columns elements. */
export function checkMatrix(rows: number, columns: number, ...matrices: Elements[]): void {
  for (const { length } of matrices) {
    if (length !== rows * columns) {
      throw new HalftoneError('internal', `matrix: expected ${rows}×${columns} elements, got ${length}`);
    }
  }
}

/**
 * How many columns `Kernel.transpose` turns over.
 * @throws HalftoneError `internal` where they are not columns of the matrix.
 */
export function checkTurned(values: Elements, rows: number, columns: number, out: Elements, first: number): number {
  checkMatrix(rows, columns, values);
  const count = rows === 0 ? 0 : out.length / rows;
  if (!Number.isInteger(count) || first < 0 || first + count > columns) {
    throw new HalftoneError('internal', `columns: expected some of ${columns}, got ${count} from ${first} on`);
  }
  return count;
}

/** Calls `visit` with the first element of each block, the one behind its last, and the number of its parameter. */
export function eachBlock(
  { rows, columns, blockSize }: BlockLayout,
  visit: (start: number, end: number, parameter: number) => void,
): void {
  let parameter = 0;
  for (let row = 0; row < rows; row++) {
    const rowEnd = (row + 1) * columns;
    for (let start = row * columns; start < rowEnd; start += blockSize) {
      visit(start, Math.min(start + blockSize, rowEnd), parameter++);
    }
  }
}

/** Part of a blocked matrix, itself one: some rows, some blocks of a row, or a piece of a block. */
export interface Window extends BlockLayout {
  /** The first element. */
  readonly start: number;
  /** How many elements. */
  readonly count: number;
  /** The first parameter. */
  readonly parameter: number;
  /** How many parameters. */
  readonly parameters: number;
}

/** Cuts a matrix into windows of at most `limit` elements, in order. Blocks are cut only if they are longer. */
export function* windows({ rows, columns, blockSize }: BlockLayout, limit: number): Generator<Window> {
  const perRow = Math.ceil(columns / blockSize);
  if (columns <= limit) {
    const step = Math.max(1, Math.floor(limit / Math.max(columns, 1)));
    for (let row = 0; row < rows && columns > 0; row += step) {
      const height = Math.min(step, rows - row);
      const place = { start: row * columns, count: height * columns, parameter: row * perRow };
      yield { ...place, parameters: height * perRow, rows: height, columns, blockSize };
    }
    return;
  }
  for (let row = 0; row < rows; row++) {
    const whole = blockSize <= limit;
    const step = whole ? Math.floor(limit / blockSize) * blockSize : blockSize;
    for (let column = 0; column < columns; column += step) {
      const end = Math.min(column + step, columns);
      const parameter = row * perRow + Math.floor(column / blockSize);
      const piece = whole ? step : limit;
      for (let first = column; first < end; first += piece) {
        const count = Math.min(piece, end - first);
        const parameters = whole ? Math.ceil(count / blockSize) : 1;
        const place = { start: row * columns + first, count, parameter, parameters };
        yield { ...place, rows: 1, columns: count, blockSize: whole ? blockSize : count };
      }
    }
  }
}
