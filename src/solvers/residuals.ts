/** What weights differ from their quantized values by, column after column in some order: blocked for products. */
import type { MatrixProducts } from './factorize.ts';

/** Columns of one panel: products of whole panels need no copies. */
const panelWidth = 1024;

/**
 * ONNX Runtime's products of at least as many rows as columns add up each row in the same way however many rows there are
 * (MLAS, sgemm.cpp, divides the rows among threads then), so that rows may be solved in any parts.
 */
export const leastHeight = 128;

export class Residuals {
  readonly rows: number;
  readonly columns: number;
  /** Rows with those of zeros that products want. */
  readonly height: number;
  /** Row-major panels of `panelWidth` columns, the last may be narrower. */
  readonly #panels: Float32Array[] = [];
  readonly #products: MatrixProducts;

  /** @param order the column that becomes the first, second …; default their own order */
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
    for (let first = 0; first < columns; first += panelWidth) {
      const width = Math.min(panelWidth, columns - first);
      const panel = new Float32Array(this.height * width);
      for (let row = 0; row < rows; row++) {
        const start = row * columns;
        if (order) for (let i = 0; i < width; i++) panel[row * width + i] = values[start + order[first + i]];
        else panel.set(values.subarray(start + first, start + first + width), row * width);
      }
      this.#panels.push(panel);
    }
  }

  /** The panel of a column, the panel's width, and where in its rows the column is. */
  panelOf(column: number): { readonly panel: Float32Array; readonly width: number; readonly offset: number } {
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
    let sum: Float32Array | undefined;
    for (let start = 0; start < limit; start += panelWidth) {
      const { panel, width } = this.panelOf(start);
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
}
