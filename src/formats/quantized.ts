/** A quantized matrix: unpacked codes and the parameters that turn them back into numbers. */
import { HalftoneError } from '../base/errors.ts';
import type { ByteSource } from '../tensor/source.ts';
import type { Format } from './index.ts';
import type { Scheme } from './scheme.ts';

export type Codes = Int8Array | Uint8Array | Int16Array | Uint16Array;

/**
 * A matrix of `rows` output channels by `columns`, quantized. With the parameters p of `parameterIndex(matrix, r, c)`,
 * element (r, c) of code q = codes[r·columns + c] is
 * - in an integer format `(q − zeroPoints[p]) · scales[p]`;
 * - in a format of levels `levels[q] · scales[p]`;
 * - in a codebook format `codebook[q] · scales[p]`, with the table of row r where every row has its own;
 * - in a residual format Σ ±scales[p·bits + m] over bits m, plus where bit m of q is set.
 */
export interface QuantizedMatrix {
  /** What was really done; `scaleType` is float32 where float16 could not hold the scales. */
  readonly scheme: Scheme;
  readonly rows: number;
  readonly columns: number;
  /** rows·columns codes, row-major, one per element, signed as the format is; unsigned in all but integer formats. */
  readonly codes: Codes;
  /** Columns that share one parameter; `columns` where a whole row or the whole matrix does. The last may be short. */
  readonly blockSize: number;
  /**
   * rows·ceil(columns / blockSize) scales, row-major, already rounded as they are stored; one for the whole matrix. All 1
   * where a codebook needs none. Residual formats have `bits` of them, one after the other, in place of each.
   */
  readonly scales: Float32Array;
  /** As many zero points: integers within the format's codes, or floats rounded to `scheme.scaleType`; else all 0. */
  readonly zeroPoints: Float32Array;
  /** What stored scales are multiplied with: one number for each row (`int8` scales) or for all (`float8e4m3fn`). */
  readonly factors?: Float32Array;
  /** The levels of a codebook format, 2^bits for the matrix, or for each row in turn. */
  readonly codebook?: Float32Array;
  /** Where the same numbers lie packed. Then the arrays above are made at each access: take them once. */
  readonly stored?: StoredMatrix;
}

/** A quantized matrix as bytes. */
export interface StoredMatrix {
  /** Codes counted from the format's lowest, row-major, packed low bits first without padding; 16-bit ones as words. */
  readonly codes: ByteSource;
  /** Scales in float16 where `scheme.scaleType` is that, else in float32. */
  readonly scales: ByteSource;
  /** The one zero point of all, or float32 values. */
  readonly zeroPoints: number | ByteSource;
  /** As in the matrix: they are few. */
  readonly factors?: Float32Array;
  readonly codebook?: Float32Array;
}

/** Room for `count` codes of a format. */
export function createCodes(format: Format, count: number): Codes {
  const signed = format.kind === 'int' && format.signed;
  if (format.bits <= 8) return signed ? new Int8Array(count) : new Uint8Array(count);
  return signed ? new Int16Array(count) : new Uint16Array(count);
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
