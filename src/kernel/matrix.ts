/** Quantized matrices by kernel: codes from given parameters, values from codes, and the error between the two. */
import { intFormatOf } from '../formats/index.ts';
import { createCodes, parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { bestKernel } from './best.ts';
import type { BlockLayout, Kernel } from './kernel.ts';

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
  const { codes, scheme, rows, columns, scales, zeroPoints } = matrix;
  const values = new Float32Array(rows * columns);
  kernel.dequantize(codes, blockLayout(scheme, rows, columns), scales, zeroPoints, values);
  return values;
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
