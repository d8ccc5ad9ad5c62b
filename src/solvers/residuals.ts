/** What weights differ from their quantized values by, column after column in some order: blocked for products. */
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { dequantizeMatrix, type Kernel } from '../kernel/index.ts';
import type { MatrixProducts } from './factorize.ts';

/** Columns of one panel: products of whole panels need no copies. */
const panelWidth = 1024;

/**
 * ONNX Runtime's products of at least as many rows as columns add up each row in the same way however many rows there are
 * (MLAS, sgemm.cpp, divides the rows among threads then), so that rows may be solved in any parts.
 */
export const leastHeight = 128;

/** Target less what the codes stand for. */
export function differencesOf(matrix: QuantizedMatrix, target: Float32Array, kernel?: Kernel): Float32Array {
  const differences = dequantizeMatrix(matrix, kernel);
  for (let i = 0; i < differences.length; i++) differences[i] = target[i] - differences[i];
  return differences;
}

/** Some numbers, from the place `first` of an order on. */
function gather(numbers: Float32Array, order: Int32Array, first: number, found: Float32Array): void {
  for (let i = 0; i < found.length; i++) found[i] = numbers[order[first + i]];
}

/** A panel, its width, and where in its rows a column is. */
interface Panel {
  readonly panel: Float32Array;
  readonly width: number;
  readonly offset: number;
}

export class Residuals {
  readonly rows: number;
  readonly columns: number;
  /** Rows with those of zeros that products want. */
  readonly height: number;
  /** Row-major panels of `panelWidth` columns, the last may be narrower. */
  readonly #panels: Float32Array[] = [];
  readonly #products: MatrixProducts;
  readonly #least: number;

  /**
   * @param order the column that becomes the first, second …; default their own order
   * @param least rows that products get at least
   */
  constructor(
    values: Float32Array,
    rows: number,
    columns: number,
    order: Int32Array | undefined,
    products: MatrixProducts,
    least: number,
  ) {
    this.rows = rows;
    this.columns = columns;
    this.height = Math.max(rows, least);
    this.#products = products;
    this.#least = least;
    for (let first = 0; first < columns; first += panelWidth) {
      this.#panels.push(new Float32Array(this.height * Math.min(panelWidth, columns - first)));
    }
    for (let row = 0; row < rows; row++) {
      const own = values.subarray(row * columns, (row + 1) * columns);
      for (const [index, panel] of this.#panels.entries()) {
        const first = index * panelWidth;
        const width = Math.min(panelWidth, columns - first);
        if (order) gather(own, order, first, panel.subarray(row * width, (row + 1) * width));
        else panel.set(own.subarray(first, first + width), row * width);
      }
    }
  }

  /** A copy of some rows. */
  pick(some: Int32Array): Residuals {
    const values = new Float32Array(some.length * this.columns);
    for (const [index, panel] of this.#panels.entries()) {
      const width = panel.length / this.height;
      for (const [place, row] of some.entries()) {
        values.set(panel.subarray(row * width, (row + 1) * width), place * this.columns + index * panelWidth);
      }
    }
    return new Residuals(values, some.length, this.columns, undefined, this.#products, this.#least);
  }

  /** A copy of some columns: rows·(last − first) numbers, row-major. */
  take(first: number, last: number): Float32Array {
    const taken = new Float32Array(this.rows * (last - first));
    for (const { panel, width, offset, place, count } of this.#pieces(first, last)) {
      for (let row = 0; row < this.rows; row++) {
        const from = row * width + offset;
        const to = row * (last - first) + place;
        for (let i = 0; i < count; i++) taken[to + i] = panel[from + i];
      }
    }
    return taken;
  }

  /** The inverse of `take`. */
  put(first: number, last: number, values: Float32Array): void {
    for (const { panel, width, offset, place, count } of this.#pieces(first, last)) {
      for (let row = 0; row < this.rows; row++) {
        const from = row * (last - first) + place;
        const to = row * width + offset;
        for (let i = 0; i < count; i++) panel[to + i] = values[from + i];
      }
    }
  }

  set(row: number, column: number, value: number): void {
    const { panel, width, offset } = this.#panelOf(column);
    panel[row * width + offset] = value;
  }

  /** The columns `first` to `last` panel by panel: where they begin there, and in a copy of all of them. */
  *#pieces(first: number, last: number): Generator<Panel & { readonly place: number; readonly count: number }> {
    for (let start = first; start < last; ) {
      const own = this.#panelOf(start);
      const count = Math.min(last - start, own.width - own.offset);
      yield { ...own, place: start - first, count };
      start += count;
    }
  }

  #panelOf(column: number): Panel {
    const index = Math.floor(column / panelWidth);
    const width = Math.min(panelWidth, this.columns - index * panelWidth);
    return { panel: this.#panels[index], width, offset: column - index * panelWidth };
  }

  /**
   * The product of the columns below `limit` with columns `first` to `last` of a square matrix: height·(last − first)
   * numbers.
   */
  async times(matrix: Float32Array, first: number, last: number, limit = this.columns): Promise<Float32Array> {
    const { columns, height } = this;
    const count = last - first;
    if (height === 1) return this.#timesOne(matrix, first, last, limit);
    let sum: Float32Array | undefined;
    for (let start = 0; start < limit; start += panelWidth) {
      const { panel, width } = this.#panelOf(start);
      const right = new Float32Array(width * count);
      for (let i = 0; i < Math.min(width, limit - start); i++) {
        const from = (start + i) * columns;
        right.set(matrix.subarray(from + first, from + last), i * count);
      }
      const product = await this.#products.multiply(panel, right, height, width, count);
      if (!sum) sum = product;
      else for (let i = 0; i < sum.length; i++) sum[i] += product[i];
    }
    return sum ?? new Float32Array(height * count);
  }

  /** The same of a single row, for which no product is worth a copy of the matrix. */
  #timesOne(matrix: Float32Array, first: number, last: number, limit: number): Float32Array {
    const { columns } = this;
    const sum = new Float32Array(last - first);
    for (let start = 0; start < limit; start += panelWidth) {
      const { panel, width } = this.#panelOf(start);
      for (let i = 0; i < Math.min(width, limit - start); i++) {
        const value = panel[i];
        if (value === 0) continue;
        const from = (start + i) * columns;
        for (let column = first; column < last; column++) sum[column - first] += value * matrix[from + column];
      }
    }
    return sum;
  }
}
