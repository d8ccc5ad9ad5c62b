/** A quantized matrix: unpacked codes and the parameters that turn them back into numbers. */
import { HalftoneError } from '../base/errors.ts';
import type { ByteSource } from '../tensor/source.ts';
import type { IntFormat } from './index.ts';
import type { Scheme } from './scheme.ts';

export type Codes = Int8Array | Uint8Array | Int16Array | Uint16Array;

/**
 * A matrix of `rows` output channels by `columns`, quantized in an integer format. Element (r, c) is
 * `(codes[r·columns + c] − zeroPoint) · scale` with the parameters of `parameterIndex(matrix, r, c)`.
 */
export interface QuantizedMatrix {
  /** What was really done; `scaleType` is float32 where float16 could not hold the scales. */
  readonly scheme: Scheme;
  readonly rows: number;
  readonly columns: number;
  /** rows·columns codes, row-major, one per element, signed as the format is. */
  readonly codes: Codes;
  /** Columns that share one parameter; `columns` where a whole row or the whole matrix does. The last may be short. */
  readonly blockSize: number;
  /** rows·ceil(columns / blockSize) scales, row-major, already rounded to `scheme.scaleType`; one for the whole matrix. */
  readonly scales: Float32Array;
  /** As many zero points: integers within the format's codes, or floats rounded to `scheme.scaleType`. */
  readonly zeroPoints: Float32Array;
  /** Where the same numbers lie packed. Then the arrays above are made at each access: take them once. */
  readonly stored?: StoredMatrix;
}

/** A quantized matrix as bytes. */
export interface StoredMatrix {
  /** Codes counted from the format's lowest, row-major, packed low bits first without padding; 16-bit ones as words. */
  readonly codes: ByteSource;
  /** Scales in `scheme.scaleType`. */
  readonly scales: ByteSource;
  /** The one zero point of all, or float32 values. */
  readonly zeroPoints: number | ByteSource;
}

/** Room for `count` codes of a format. */
export function createCodes(format: IntFormat, count: number): Codes {
  if (format.bits <= 8) return format.signed ? new Int8Array(count) : new Uint8Array(count);
  return format.signed ? new Int16Array(count) : new Uint16Array(count);
}

/** How the parameters of a `rows × columns` matrix are laid out under a scheme. */
export interface ParameterLayout {
  /** Columns that share one parameter. */
  readonly blockSize: number;
  /** Parameters of one row, or 0 when one serves the whole matrix. */
  readonly perRow: number;
  /** Parameters of the matrix. */
  readonly count: number;
}

/**
 * The layout of scales and zero points.
 * @throws HalftoneError `usage` for an empty or fractional shape.
 */
export function parameterLayout(scheme: Scheme, rows: number, columns: number): ParameterLayout {
  if (!Number.isInteger(rows) || !Number.isInteger(columns) || rows < 1 || columns < 1) {
    throw new HalftoneError('usage', `matrix: expected at least one row and one column, got ${rows}×${columns}`);
  }
  const { granularity } = scheme;
  if (granularity.kind === 'tensor') return { blockSize: columns, perRow: 0, count: 1 };
  const blockSize = granularity.kind === 'block' ? granularity.size : columns;
  const perRow = Math.ceil(columns / blockSize);
  return { blockSize, perRow, count: rows * perRow };
}

/** The index of the scale and zero point of element (row, column). */
export function parameterIndex(matrix: QuantizedMatrix, row: number, column: number): number {
  if (matrix.scheme.granularity.kind === 'tensor') return 0;
  return row * Math.ceil(matrix.columns / matrix.blockSize) + Math.floor(column / matrix.blockSize);
}

/** The bits that codes, scales and zero points take when stored: n·bits codes, and zero points unless symmetric. */
export function storedBits(matrix: QuantizedMatrix, format: IntFormat): number {
  const { scheme, scales } = matrix;
  const scaleBits = scheme.scaleType === 'float16' ? 16 : 32;
  const zeroPointBits = scheme.symmetric ? 0 : scheme.zeroPointType === 'float' ? scaleBits : format.bits;
  return matrix.codes.length * format.bits + scales.length * (scaleBits + zeroPointBits);
}
