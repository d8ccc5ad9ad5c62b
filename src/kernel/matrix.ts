/** Quantized matrices by kernel: codes from given parameters, values from codes, and the error between the two. */
import { HalftoneError } from '../base/errors.ts';
import { formatOf, intFormatOf } from '../formats/index.ts';
import { createCodes, parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { bestKernel } from './best.ts';
import type { BlockLayout, Kernel } from './kernel.ts';
import { decodeLevels, decodeSigns } from './levels.ts';

/** How a matrix's parameters lie, as kernels see it: one parameter for everything is one long block. */
export function blockLayout(scheme: Scheme, rows: number, columns: number): BlockLayout {
  if (scheme.granularity.kind === 'tensor') return { rows: 1, columns: rows * columns, blockSize: rows * columns };
  return { rows, columns, blockSize: parameterLayout(scheme, rows, columns).blockSize };
}

/**
 * Quantizes with parameters that are already known and already rounded as they are stored.
 * @param values rows·columns float32 values, row-major
 * @param codeRange the codes that may be used; default all of the format
 */
export function quantizeMatrix(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  scales: Float32Array,
  zeroPoints: Float32Array,
  codeRange: { readonly min: number; readonly max: number } = intFormatOf(scheme.format),
  kernel: Kernel = bestKernel(),
): QuantizedMatrix {
  const { blockSize } = parameterLayout(scheme, rows, columns);
  const codes = createCodes(intFormatOf(scheme.format), rows * columns);
  const { min, max } = codeRange;
  kernel.quantize(values, blockLayout(scheme, rows, columns), scales, zeroPoints, min, max, codes);
  return { scheme, rows, columns, codes, blockSize, scales, zeroPoints };
}

/** The rows·columns float32 values of a quantized matrix, row-major. */
export function dequantizeMatrix(matrix: QuantizedMatrix, kernel: Kernel = bestKernel()): Float32Array {
  const { codes, scheme, rows, columns, scales, zeroPoints, codebook } = matrix;
  const values = new Float32Array(rows * columns);
  const layout = blockLayout(scheme, rows, columns);
  const format = formatOf(scheme.format);
  switch (format.kind) {
    case 'int':
      kernel.dequantize(codes, layout, scales, zeroPoints, values);
      break;
    case 'levels':
      decodeLevels(codes, layout, scales, format.levels, values);
      break;
    case 'residual':
      decodeSigns(codes, layout, scales, format.bits, values);
      break;
    default:
      decodeCodebook(codes, layout, scales, tablesOf(matrix, codebook), values);
  }
  return values;
}

/** The tables of a codebook matrix: one, or one for each row. */
function tablesOf({ scheme, rows }: QuantizedMatrix, codebook: Float32Array | undefined): Float32Array[] {
  const { bits } = formatOf(scheme.format);
  const size = 2 ** bits;
  const count = scheme.granularity.kind === 'channel' ? rows : 1;
  if (codebook?.length !== count * size) {
    throw new HalftoneError('internal', `codebook: expected ${count * size} levels, got ${codebook?.length ?? 'none'}`);
  }
  return Array.from({ length: count }, (_, index) => codebook.subarray(index * size, (index + 1) * size));
}

function decodeCodebook(
  codes: QuantizedMatrix['codes'],
  layout: BlockLayout,
  scales: Float32Array,
  tables: readonly Float32Array[],
  values: Float32Array,
): void {
  if (tables.length === 1) {
    decodeLevels(codes, layout, scales, tables[0], values);
    return;
  }
  const { columns } = layout;
  for (const [row, table] of tables.entries()) {
    const [start, end] = [row * columns, (row + 1) * columns];
    const one = { rows: 1, columns, blockSize: columns };
    decodeLevels(codes.subarray(start, end), one, scales.subarray(row, row + 1), table, values.subarray(start, end));
  }
}

/** Σ (value − quantized value)² of a matrix. */
export function matrixError(values: Float32Array, matrix: QuantizedMatrix, kernel: Kernel = bestKernel()): number {
  return kernel.squaredError(values, dequantizeMatrix(matrix, kernel));
}

/** The signal-to-quantization-noise ratio 10·log10(Σ value² / Σ error²) in decibels; Infinity without error. */
export function signalToNoise(values: Float32Array, matrix: QuantizedMatrix, kernel: Kernel = bestKernel()): number {
  const signal = kernel.squaredError(values, new Float32Array(values.length));
  return 10 * Math.log10(signal / matrixError(values, matrix, kernel));
}
