/** Scales that fit codes best, once the codes are chosen for what a layer's inputs are. */
import { roundHalfToEven } from '../base/round.ts';
import { formatOf } from '../formats/index.ts';
import type { Codes, QuantizedMatrix } from '../formats/quantized.ts';
import type { ScaleType } from '../formats/scheme.ts';
import type { CodeBlock, Kernel } from '../kernel/index.ts';
import { countTo, squareOf } from './choice.ts';
import type { Curvature } from './curvature.ts';
import type { MatrixProducts } from './factorize.ts';
import type { Residuals } from './residuals.ts';
import { roundingOf } from './rounding.ts';
import { fitsHalf, powerScale, roundPlain, shortScales } from './scales.ts';

/** Columns whose gradients are computed at a time, at least a group: more of them cost more within, fewer more products. */
const width = 32;

/** Groups up to so many columns get better codes, too. */
const widestGroup = 128;

export interface RefitOptions {
  readonly products: MatrixProducts;
  readonly kernel: Kernel;
  /** Whether only half of the codes of 8-bit formats may be used. */
  readonly reduceRange: boolean;
}

/** The scale as stored, or undefined where its type has none that comes near. */
function storedScale(wanted: number, type: ScaleType, factor: number): number | undefined {
  switch (type) {
    case 'float8e8m0':
      return wanted > 0 ? powerScale(roundHalfToEven(Math.log2(wanted))) : undefined;
    case 'float8e4m3fn':
      return wanted > 0 ? shortScales(wanted, factor, 0)[0] : undefined;
    case 'int8': {
      const multiple = roundHalfToEven(wanted / factor);
      return multiple === 0 ? undefined : Math.fround(Math.min(Math.max(multiple, -127), 127) * factor);
    }
    default: {
      const scale = roundPlain(wanted, type);
      if (type === 'float16' && !fitsHalf(Float32Array.of(scale))) return undefined;
      return Math.abs(scale) >= 2 ** -126 ? scale : undefined;
    }
  }
}

/**
 * One pass over all groups: the scale s of units u becomes s + (u·Gᵀ) / (u·H·uᵀ) with the gradient G = Δ·H, rounded as it
 * is stored, where that loses less: the normal equations of a row's scales, solved by one round of Gauss–Seidel (ALGORITHMS
 * 3.6 d). Zero points stay. As gradients are known, codes become better ones as in `descend`, unless groups are too wide.
 * @param residuals target less quantized values, columns in their own order; kept up to date but for rounding
 * @param losses Δ·H·Δᵀ of each row; they fall by what is gained
 * @returns undefined where a scale serves the whole matrix, or a table needs none
 */
export async function refitScales(
  matrix: QuantizedMatrix,
  residuals: Residuals,
  losses: Float64Array,
  { plain: hessian }: Curvature,
  { products, kernel, reduceRange }: RefitOptions,
): Promise<{ readonly matrix: QuantizedMatrix; readonly descended: boolean } | undefined> {
  const { rows, columns, blockSize, scheme, factors } = matrix;
  const kind = scheme.granularity.kind;
  if (kind === 'tensor') return undefined;
  if (formatOf(scheme.format).kind === 'codebook' && kind !== 'block') return undefined;
  const perRow = Math.ceil(columns / blockSize);
  const scales = matrix.scales.slice();
  const codes = matrix.codes.slice();
  const rounding = roundingOf({ ...matrix, scales }, reduceRange);
  const descended = blockSize <= widestGroup;
  const allRows = countTo(rows);
  const step = Math.max(1, Math.floor(width / blockSize)) * blockSize;
  for (let first = 0; first < columns; first += step) {
    const last = Math.min(first + step, columns);
    const count = last - first;
    const gradients = await residuals.times(hessian, first, last);
    const deltas = residuals.take(first, last);
    for (let start = first; start < last; start += blockSize) {
      const end = Math.min(start + blockSize, last);
      const size = end - start;
      const block = start / blockSize;
      const right = new Float32Array(size * count);
      for (let i = 0; i < size; i++) {
        const from = (start + i) * columns;
        right.set(hessian.subarray(from + first, from + last), i * count);
      }
      for (let part = 0; part < rounding.parts; part++) {
        const units = new Float32Array(residuals.height * size);
        for (let row = 0; row < rows; row++) {
          for (let i = 0; i < size; i++) {
            units[row * size + i] = rounding.unit(row, block, codes[row * columns + start + i], part);
          }
        }
        const slopes = await products.multiply(units, right, residuals.height, size, count);
        for (let row = 0; row < rows; row++) {
          const from = row * count;
          const own = from + start - first;
          let along = 0;
          let curve = 0;
          for (let i = 0; i < size; i++) {
            const unit = units[row * size + i];
            along += unit * gradients[own + i];
            curve += unit * slopes[own + i];
          }
          const index = (row * perRow + block) * rounding.parts + part;
          const scale = scales[index];
          const factor = factors === undefined ? 1 : factors.length === 1 ? factors[0] : factors[row];
          const better = curve > 0 ? storedScale(scale + along / curve, scheme.scaleType, factor) : undefined;
          if (better === undefined || Math.sign(better) !== Math.sign(scale)) continue;
          const change = better - scale;
          const loss = change * (change * curve - 2 * along);
          if (!(loss < 0)) continue;
          scales[index] = better;
          rounding.rescaled(row, block);
          losses[row] += loss;
          for (let i = 0; i < count; i++) gradients[from + i] -= change * slopes[from + i];
          for (let i = 0; i < size; i++) deltas[own + i] -= change * units[row * size + i];
        }
      }
    }
    if (descended) {
      const block: CodeBlock = {
        rows: allRows,
        parameters: countTo(count).map((i) => Math.floor((first + i) / blockSize)),
        residuals: deltas,
        codes: columnsOf(codes, columns, first, last),
        losses,
      };
      rounding.improve(block, gradients, squareOf(hessian, columns, first, last), kernel);
      for (let row = 0; row < rows; row++) {
        codes.set(block.codes.subarray(row * count, (row + 1) * count), row * columns + first);
      }
    }
    residuals.put(first, last, deltas);
  }
  return { matrix: { ...matrix, codes, scales }, descended };
}

/** Some columns of all rows. */
function columnsOf(codes: Codes, columns: number, first: number, last: number): Codes {
  const rows = codes.length / columns;
  const width = last - first;
  const some = codes.slice(0, rows * width);
  for (let row = 0; row < rows; row++) {
    some.set(codes.subarray(row * columns + first, row * columns + last), row * width);
  }
  return some;
}
