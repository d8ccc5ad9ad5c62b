/** Rounding one number at a time to the codes of a quantized matrix whose scales, zero points and tables stay. */
import { roundHalfToEven } from '../base/round.ts';
import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import {
  type CodeBlock,
  chooseCodes,
  dequantizeValue,
  improveCodes,
  type Kernel,
  Levels,
  levelsOf,
  quantizeValue,
  type Rounder,
} from '../kernel/index.ts';
import { allowedCodes } from './groups.ts';

/** `block` is the column divided by the block size, rounded down. */
export abstract class Rounding implements Rounder {
  /** Parameters of one row; 0 where one serves all. */
  readonly perRow: number;
  readonly scales: Float32Array;
  /** How many scales an element has. */
  readonly parts: number = 1;

  constructor({ scheme, columns, blockSize, scales }: QuantizedMatrix) {
    this.perRow = scheme.granularity.kind === 'tensor' ? 0 : Math.ceil(columns / blockSize);
    this.scales = scales;
  }

  /** The code nearest to a number. */
  abstract nearest(row: number, block: number, number: number): number;
  /** What a code stands for: what `dequantizeMatrix` gives. */
  abstract value(row: number, block: number, code: number): number;
  /** What scale `part` of a code is multiplied with. */
  abstract unit(row: number, block: number, code: number, part: number): number;

  /** To be called when the scales of a block, which are read where they are, have changed. */
  rescaled(_row: number, _block: number): void {}

  /** `Kernel.chooseCodes` with this rounding. */
  choose(block: CodeBlock, feed: Float32Array, upper: Float32Array, pivots: Float64Array, _: Kernel): void {
    chooseCodes(block, this, feed, upper, pivots);
  }

  /** `Kernel.improveCodes` with this rounding. */
  improve(block: CodeBlock, gradients: Float32Array, curvature: Float32Array, _: Kernel): number {
    return improveCodes(block, this, gradients, curvature);
  }
}

/** Integers: any zero points. */
class IntegerRounding extends Rounding {
  readonly zeroPoints: Float32Array;
  readonly min: number;
  readonly max: number;

  constructor(matrix: QuantizedMatrix, reduceRange: boolean) {
    super(matrix);
    this.zeroPoints = matrix.zeroPoints;
    const format = formatOf(matrix.scheme.format);
    if (format.kind !== 'int') throw new TypeError('expected integers');
    const { min, max } = allowedCodes(format, matrix.scheme.symmetric, reduceRange);
    this.min = min;
    this.max = max;
  }

  nearest(row: number, block: number, number: number): number {
    const index = row * this.perRow + block;
    return quantizeValue(number, this.scales[index], this.zeroPoints[index], this.min, this.max);
  }

  value(row: number, block: number, code: number): number {
    const index = row * this.perRow + block;
    return dequantizeValue(code, this.scales[index], this.zeroPoints[index]);
  }

  unit(row: number, block: number, code: number): number {
    return code - this.zeroPoints[row * this.perRow + block];
  }
}

/** Integers with integer zero points, by kernel. */
class PlainIntegerRounding extends IntegerRounding {
  override choose(
    block: CodeBlock,
    feed: Float32Array,
    upper: Float32Array,
    pivots: Float64Array,
    kernel: Kernel,
  ): void {
    kernel.chooseCodes(block, this, feed, upper, pivots);
  }

  override improve(block: CodeBlock, gradients: Float32Array, curvature: Float32Array, kernel: Kernel): number {
    return kernel.improveCodes(block, this, gradients, curvature);
  }
}

/** Tables of levels: one, or one for each row. */
class LevelsRounding extends Rounding {
  readonly #levels: readonly Levels[];
  readonly #table: Float32Array;
  /** From the table of one row to that of the next. */
  readonly #step: number;

  constructor(matrix: QuantizedMatrix, levels: readonly Levels[], table: Float32Array) {
    super(matrix);
    this.#levels = levels;
    this.#table = table;
    this.#step = levels.length === 1 ? 0 : table.length / levels.length;
  }

  nearest(row: number, block: number, number: number): number {
    const scale = this.scales[row * this.perRow + block];
    const levels = this.#levels[this.#step === 0 ? 0 : row];
    return levels.codes[levels.nearest(scale === 0 ? 0 : Math.fround(number / scale))];
  }

  value(row: number, block: number, code: number): number {
    return Math.fround(this.#table[row * this.#step + code] * this.scales[row * this.perRow + block]);
  }

  unit(row: number, _: number, code: number): number {
    return this.#table[row * this.#step + code];
  }
}

/** Sums of scaled signs: 2^parts of them for each block. */
class SignsRounding extends Rounding {
  override readonly parts: number;
  /** For each block, by code, what `decodeSigns` adds up. */
  readonly #values: Float32Array;
  /** For each block, in ascending order of the sums: codes, and the borders below them. */
  readonly #codes: Uint8Array;
  readonly #borders: Float64Array;

  constructor(matrix: QuantizedMatrix) {
    super(matrix);
    const order = formatOf(matrix.scheme.format).bits;
    this.parts = order;
    const length = (matrix.scales.length / order) * 2 ** order;
    this.#values = new Float32Array(length);
    this.#codes = new Uint8Array(length);
    this.#borders = new Float64Array(length);
    for (let index = 0; index * order < matrix.scales.length; index++) this.#prepare(index);
  }

  override rescaled(row: number, block: number): void {
    this.#prepare(row * this.perRow + block);
  }

  /** The sums of one block. */
  #prepare(index: number): void {
    const { parts, scales } = this;
    const size = 2 ** parts;
    const start = index * size;
    const sums = new Float64Array(size);
    for (let code = 0; code < size; code++) {
      let value = 0;
      for (let m = 0; m < parts; m++) {
        const scale = scales[index * parts + m];
        const signed = (code >> m) & 1 ? scale : -scale;
        sums[code] += signed;
        value = Math.fround(value + signed);
      }
      this.#values[start + code] = value;
    }
    const sorted = Array.from(sums.keys()).sort((a, b) => sums[a] - sums[b] || a - b);
    for (let place = 0; place < size; place++) {
      this.#codes[start + place] = sorted[place];
      if (place > 0) this.#borders[start + place] = (sums[sorted[place - 1]] + sums[sorted[place]]) / 2;
    }
  }

  nearest(row: number, block: number, number: number): number {
    const size = 1 << this.parts;
    const start = (row * this.perRow + block) * size;
    let place = 0;
    while (place + 1 < size && number > this.#borders[start + place + 1]) place++;
    return this.#codes[start + place];
  }

  value(row: number, block: number, code: number): number {
    return this.#values[((row * this.perRow + block) << this.parts) + code];
  }

  unit(_: number, __: number, code: number, part: number): number {
    return (code >> part) & 1 ? 1 : -1;
  }
}

/** How numbers are rounded to a matrix's codes, ties as the solvers decide them. */
export function roundingOf(matrix: QuantizedMatrix, reduceRange: boolean): Rounding {
  const format = formatOf(matrix.scheme.format);
  switch (format.kind) {
    case 'int':
      return matrix.zeroPoints.every((zeroPoint) => roundHalfToEven(zeroPoint) === zeroPoint)
        ? new PlainIntegerRounding(matrix, reduceRange)
        : new IntegerRounding(matrix, reduceRange);
    case 'levels':
      return new LevelsRounding(matrix, [levelsOf(format.levels)], format.levels);
    case 'residual':
      return new SignsRounding(matrix);
    case 'codebook': {
      const table = matrix.codebook ?? new Float32Array(0);
      const size = 2 ** format.bits;
      const count = table.length / size;
      const levels = Array.from(
        { length: count },
        (_, index) => new Levels(table.subarray(index * size, (index + 1) * size), count === 1),
      );
      return new LevelsRounding(matrix, levels, table);
    }
    default:
      throw new TypeError(`expected a format with codes, got ${format.id}`);
  }
}
