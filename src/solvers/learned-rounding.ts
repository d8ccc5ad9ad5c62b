/**
 * Learns scales and codes of a quantized matrix from gradients, step by step. Each weight has a latent code, a number
 * whose nearest integer is its code; gradients pass through the rounding as if it were not there (straight-through), to
 * the latent codes and to the scales (ALGORITHMS.md §3.14; EfficientQAT, Chen et al. 2024, §3.2). Latent codes begin
 * within the codes of a matrix that is already good, so that nothing is lost at the start.
 */
import { HalftoneError } from '../base/errors.ts';
import { roundHalfToEven } from '../base/round.ts';
import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { loadedMatrix } from '../kernel/index.ts';
import { roundPlain } from './scales.ts';

/** How far numbers move in one step (the learning rates of Adam). */
export interface RoundingRates {
  /** Latent codes, in codes. 0 keeps the codes. */
  readonly codes: number;
  /** Scales, as a share of themselves. */
  readonly scales: number;
}

/** How far a latent code may lie from its code at the start: short of the border, where the next one begins. */
const reach = 0.45;

/** Adam's averages of gradients and of their squares (Kingma and Ba 2015, algorithm 1). */
const decay = { mean: 0.9, square: 0.999 } as const;

/** Adam for a list of numbers: each moves by about the rate, whatever the size of its gradients. */
export class Adam {
  readonly #means: Float32Array;
  readonly #squares: Float32Array;
  #meanLeft = 1;
  #squareLeft = 1;

  constructor(length: number) {
    this.#means = new Float32Array(length);
    this.#squares = new Float32Array(length);
  }

  /** Moves `numbers` against their gradients. */
  step(numbers: Float32Array, gradients: Float32Array, rate: number): void {
    this.#meanLeft *= decay.mean;
    this.#squareLeft *= decay.square;
    const size = rate / (1 - this.#meanLeft);
    const correction = 1 / (1 - this.#squareLeft);
    const means = this.#means;
    const squares = this.#squares;
    for (let i = 0; i < numbers.length; i++) {
      const gradient = gradients[i];
      const mean = decay.mean * means[i] + (1 - decay.mean) * gradient;
      const square = decay.square * squares[i] + (1 - decay.square) * gradient * gradient;
      means[i] = mean;
      squares[i] = square;
      if (square > 0) numbers[i] -= (size * mean) / Math.sqrt(square * correction);
    }
  }
}

export class LearnedRounding {
  /** What the codes stand for now: rows·columns numbers, row-major. The same array after each step. */
  readonly values: Float32Array;
  readonly #start: QuantizedMatrix;
  /** Codes stay within those of the start: it may have left out some that saturate (ALGORITHMS.md §5.3). */
  readonly #min: number;
  readonly #max: number;
  /** Parameters of one row; 0 where one serves all. */
  readonly #perRow: number;
  readonly #latent: Float32Array;
  readonly #slopes: Float32Array;
  readonly #codesAdam: Adam;
  readonly #scales: Float32Array;
  /** Logarithms of what the scales of the start are multiplied with. */
  readonly #growth: Float32Array;
  readonly #growthSlopes: Float32Array;
  readonly #scalesAdam: Adam;

  /**
   * @param start in an integer format, its scales stored plainly (`learnsFrom`)
   * @param weights what latent codes lie near to at the start, as far as the codes allow: rows·columns, row-major
   * @throws HalftoneError `internal` for another start, and where the sizes differ
   */
  constructor(start: QuantizedMatrix, weights: Float32Array) {
    const matrix = loadedMatrix(start);
    const { rows, columns, codes, scales, zeroPoints, blockSize, scheme } = matrix;
    const format = formatOf(scheme.format);
    if (format.kind !== 'int' || !learnsFrom(matrix) || weights.length !== rows * columns) {
      throw new HalftoneError(
        'internal',
        `learned rounding: expected ${rows}×${columns} integers with plain scales, got ${weights.length} of ${format.id}`,
      );
    }
    this.#start = matrix;
    [this.#min, this.#max] = extent(codes);
    this.#perRow = scheme.granularity.kind === 'tensor' ? 0 : Math.ceil(columns / blockSize);
    this.#scales = scales.slice();
    this.#growth = new Float32Array(scales.length);
    this.#growthSlopes = new Float32Array(scales.length);
    this.#scalesAdam = new Adam(scales.length);
    this.values = new Float32Array(rows * columns);
    this.#latent = new Float32Array(rows * columns);
    this.#slopes = new Float32Array(rows * columns);
    this.#codesAdam = new Adam(rows * columns);
    this.#eachBlock((from, to, p) => {
      for (let i = from; i < to; i++) {
        const wanted = scales[p] === 0 ? codes[i] : weights[i] / scales[p] + zeroPoints[p];
        this.#latent[i] = codes[i] + Math.min(Math.max(wanted - codes[i], -reach), reach);
      }
    });
    this.#evaluate();
  }

  /**
   * One step of Adam.
   * @param gradients of the loss by `values`
   */
  step(gradients: Float32Array, rates: RoundingRates): void {
    const { values } = this;
    this.#growthSlopes.fill(0);
    this.#eachBlock((from, to, p) => {
      let slope = 0;
      for (let i = from; i < to; i++) slope += gradients[i] * values[i];
      this.#growthSlopes[p] += slope;
    });
    if (rates.codes > 0) this.#moveCodes(gradients, rates.codes);
    this.#scalesAdam.step(this.#growth, this.#growthSlopes, rates.scales);
    const { scales, scheme } = this.#start;
    for (let p = 0; p < scales.length; p++) {
      const scale = roundPlain(scales[p] * Math.exp(this.#growth[p]), scheme.scaleType);
      if (scale !== 0 && Number.isFinite(scale)) this.#scales[p] = scale;
    }
    this.#evaluate();
  }

  /** The matrix as it is now. */
  matrix(): QuantizedMatrix {
    const { scheme, rows, columns, blockSize, zeroPoints } = this.#start;
    const codes = this.#start.codes.slice();
    for (let i = 0; i < codes.length; i++) codes[i] = this.#codeOf(this.#latent[i]);
    return { scheme, rows, columns, blockSize, codes, scales: this.#scales.slice(), zeroPoints };
  }

  #moveCodes(gradients: Float32Array, rate: number): void {
    const latent = this.#latent;
    this.#eachBlock((from, to, p) => {
      for (let i = from; i < to; i++) this.#slopes[i] = gradients[i] * this.#scales[p];
    });
    this.#codesAdam.step(latent, this.#slopes, rate);
    const [least, most] = [this.#min - reach, this.#max + reach];
    for (let i = 0; i < latent.length; i++) {
      if (latent[i] < least) latent[i] = least;
      else if (latent[i] > most) latent[i] = most;
    }
  }

  #codeOf(latent: number): number {
    return Math.min(Math.max(roundHalfToEven(latent), this.#min), this.#max);
  }

  #evaluate(): void {
    const { zeroPoints } = this.#start;
    this.#eachBlock((from, to, p) => {
      const scale = this.#scales[p];
      for (let i = from; i < to; i++) this.values[i] = (this.#codeOf(this.#latent[i]) - zeroPoints[p]) * scale;
    });
  }

  /** Calls `visit` with the elements that share a parameter, and the parameter's index. */
  #eachBlock(visit: (from: number, to: number, parameter: number) => void): void {
    const { rows, columns, blockSize } = this.#start;
    for (let row = 0; row < rows; row++) {
      for (let column = 0, block = 0; column < columns; column += blockSize, block++) {
        const from = row * columns + column;
        visit(from, row * columns + Math.min(column + blockSize, columns), row * this.#perRow + block);
      }
    }
  }
}

/** Whether a matrix has integer codes, and scales that can be any number of their type. */
export function learnsFrom({ scheme, factors }: QuantizedMatrix): boolean {
  const isPlain = scheme.scaleType === 'float16' || scheme.scaleType === 'float32';
  return formatOf(scheme.format).kind === 'int' && isPlain && !factors;
}

function extent(codes: QuantizedMatrix['codes']): [number, number] {
  let [min, max] = [codes[0], codes[0]];
  for (const code of codes) {
    if (code < min) min = code;
    else if (code > max) max = code;
  }
  return [min, max];
}
