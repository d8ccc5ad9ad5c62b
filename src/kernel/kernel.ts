/** The loops over numbers that everything above is made of. `reference` is complete; faster builds replace methods. */
import type { Codes } from '../formats/quantized.ts';
import type { Grid } from './grid.ts';

/** How parameters spread over a row-major matrix: one per `blockSize` columns of each row, the last may be short. */
export interface BlockLayout {
  readonly rows: number;
  readonly columns: number;
  readonly blockSize: number;
}

/** How the elements of a tensor belong to channels: element ((o·channels) + c)·inner + i belongs to channel c. */
export interface ChannelLayout {
  /** Product of the dimensions before the channel axis. */
  readonly outer: number;
  readonly channels: number;
  /** Product of the dimensions after the channel axis; 1 for channel-last tensors. */
  readonly inner: number;
}

/** What one pass over a batch can tell before its histogram is counted. */
export interface Extent {
  /** Smallest and largest finite value, 0 and 0 when there is none. */
  readonly min: number;
  readonly max: number;
  /** Finite values, zeros included. */
  readonly finite: number;
  /** Exact zeros of either sign. */
  readonly zeros: number;
  readonly nan: number;
  readonly positiveInfinity: number;
  readonly negativeInfinity: number;
}

/** Arrays of elements that are moved and not looked into. */
export type Elements =
  | Float32Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray;

/** Floats shorter than float32. */
export type ShortFloat = 'float16' | 'bfloat16' | 'float8e4m3fn' | 'float8e5m2';

/** Codes of short floats: as wide as they are. */
export type FloatCodes = Uint16Array | Uint8Array;

/** Codes of a format: which may be used, and how they are stored. */
export interface CodeRange {
  readonly min: number;
  readonly max: number;
  readonly bits: number;
  /** The format's lowest code, which is stored as 0. */
  readonly lowest: number;
}

/** What quantizing does to a matrix. */
export interface Noise {
  /** Σ value². */
  readonly signal: number;
  /** Σ (value − quantized value)². */
  readonly error: number;
}

/**
 * Some columns of rows whose codes are chosen one column after the other: residuals and codes are row-major [rows, columns],
 * of these rows and columns alone.
 */
export interface CodeBlock {
  /** Which rows of a matrix these are, ascending. */
  readonly rows: Int32Array;
  /** For each column, which of the parameters of its row are its own. */
  readonly parameters: Int32Array;
  /** Weights less what their codes stand for; weights, where codes are still to be chosen. */
  readonly residuals: Float32Array;
  readonly codes: Codes;
  /** Of all rows of the matrix: what errors cost so far. */
  readonly losses: Float64Array;
}

/** The parameters of all rows of a matrix. Zero points are integers. */
export interface RowGrids {
  /** How many each row has; 0 where one serves all. */
  readonly perRow: number;
  readonly scales: Float32Array;
  readonly zeroPoints: Float32Array;
  /** The codes that may be used. */
  readonly min: number;
  readonly max: number;
}

export interface Kernel {
  readonly id: string;

  /**
   * A region of `bytes` bytes of the kernel's own memory, 16-byte aligned, with whatever was there before. It is valid
   * until the next call of `room`. Arrays over it are worked on where they are, without a copy. Regions of more than 16
   * MiB, and those of kernels without a memory of their own, are ordinary memory.
   */
  room(bytes: number): Uint8Array;

  /** A second region like `room`, beside it, for what is made of what lies there; of up to 2 MiB. */
  desk(bytes: number): Uint8Array;

  /** Range and special values of a batch. */
  extent(values: Float32Array): Extent;

  /**
   * The smallest and the largest finite value of each block, never −0; 0 and 0 where it has none. NaN and infinities
   * are left out. The largest magnitude is max(−minimum, maximum).
   */
  blockExtents(values: Float32Array, layout: BlockLayout, minima: Float32Array, maxima: Float32Array): void;

  /**
   * The parameters of the grid that covers each block and zero: `coverInterval` of its extent. A block with a value that
   * is not finite gets the scale NaN and the zero point 0.
   */
  cover(values: Float32Array, layout: BlockLayout, grid: Grid, scales: Float32Array, zeroPoints: Float32Array): void;

  /**
   * The parameters with which each block loses least: of many grids, fitted by least squares, the best one (fit.ts). A
   * block with a value that is not finite gets the scale NaN and the zero point 0.
   * @param importance how much the squared error of each column counts, finite and not negative; for columns beyond its
   *   length it starts over. Where it is zero for a whole block, and by default, all columns count the same.
   */
  fit(
    values: Float32Array,
    layout: BlockLayout,
    grid: Grid,
    importance: Float32Array | undefined,
    scales: Float32Array,
    zeroPoints: Float32Array,
  ): void;

  /**
   * `codes = clamp(roundHalfToEven(values / scale) + zeroPoint, min, max)` with float32 division (onnx,
   * QuantizeLinear); a fractional zero point is added before rounding. NaN becomes `min`.
   */
  quantize(
    values: Float32Array,
    layout: BlockLayout,
    scales: Float32Array,
    zeroPoints: Float32Array,
    min: number,
    max: number,
    codes: Codes,
  ): void;

  /** `values = (codes − zeroPoint) · scale`, rounded to float32 once (onnx, DequantizeLinear). */
  dequantize(
    codes: Codes,
    layout: BlockLayout,
    scales: Float32Array,
    zeroPoints: Float32Array,
    values: Float32Array,
  ): void;

  /**
   * Packs codes of 1 to 8 bits into ceil(n·bits / 8) bytes, the first code in the lowest bits, codes crossing byte
   * borders where the width does not divide 8, the last byte padded with zeros (onnx.in.proto, raw_data). Signed
   * codes are stored in two's complement, or counted from `lowest` (default 0).
   */
  pack(codes: ArrayLike<number>, bits: number, lowest?: number): Uint8Array;

  /**
   * `quantize`, `pack` with codes counted from `lowest`, and `noise`, in one pass: `packed` has room for all codes of
   * `bits` bits, 1 to 8.
   */
  encode(
    values: Float32Array,
    layout: BlockLayout,
    scales: Float32Array,
    zeroPoints: Float32Array,
    codes: CodeRange,
    packed: Uint8Array,
  ): Noise;

  /** The inverse of `pack`: `count` codes. */
  unpack(bytes: Uint8Array, bits: number, signed: boolean, count: number): Int8Array | Uint8Array;

  /**
   * The matrix turned over, or as many of its columns from `first` (default 0) on as `out` has room for:
   * `out[c·rows + r] = values[r·columns + first + c]`. The arrays must not overlap.
   */
  transpose<T extends Elements>(values: T, rows: number, columns: number, out: T, first?: number): void;

  /**
   * The nearest code of each value, ties to even: `floatToHalf`, `floatToBfloat` and `encodeMinifloat`, which saturates.
   */
  encodeFloats(type: ShortFloat, values: Float32Array, codes: FloatCodes): void;

  /** The value of each code, exact. */
  decodeFloats(type: ShortFloat, codes: FloatCodes, values: Float32Array): void;

  /** Σ (a − b)², in double precision: four sums, of the elements by their index modulo 4, added pairwise. */
  squaredError(a: Float32Array, b: Float32Array): number;

  /**
   * Σ value² and Σ (value − dequantized code)². Up to 1024 squares may be added in single precision first: kernels agree
   * to five digits.
   */
  noise(values: Float32Array, codes: Codes, layout: BlockLayout, scales: Float32Array, zeroPoints: Float32Array): Noise;

  /**
   * Adds finite values to bins: `counts[floor(value · inverseStride) − first] += 1`. Zeros are counted too. The caller
   * makes sure that every value has a bin.
   */
  countBins(values: Float32Array, inverseStride: number, first: number, counts: Float64Array): void;

  /**
   * Adds each channel's Σ value and Σ value² in double precision; of each run of neighbours as `squaredError` does it.
   */
  channelSums(values: Float32Array, layout: ChannelLayout, sums: Float64Array, squares: Float64Array): void;

  /**
   * GPTQ within a block: the number to round is a column's weight and what earlier columns feed to it, `quantize` gives its
   * code, and the rest of the weight feeds later columns in turn: `feed[k] += residual · upper[column·columns + k]`, in
   * single precision. Losses grow by pivot·(number − value)².
   * @param feed [rows, columns] or more, what columns before the block feed; becomes scratch
   * @param upper [columns, columns]: the shares, above the diagonal
   * @param pivots [columns]
   */
  chooseCodes(block: CodeBlock, grids: RowGrids, feed: Float32Array, upper: Float32Array, pivots: Float64Array): void;

  /**
   * One sweep of coordinate descent within a block: each code in turn becomes the one nearest to what is best while all
   * others stay. Losses fall by what that gains, and gradients of later columns change in single precision.
   * @param gradients [rows, columns] or more: residuals·H; becomes scratch
   * @param curvature [columns, columns]: the block of H on its diagonal, symmetric
   * @returns how many codes changed
   */
  improveCodes(block: CodeBlock, grids: RowGrids, gradients: Float32Array, curvature: Float32Array): number;

  /**
   * Adds XᵀX of a row-major matrix X: `sums[i·columns + j] += Σ values[r·columns + i] · values[r·columns + j]`, for j ≥ i
   * alone. Up to 128 rows may be added in single precision before they are added to the sums.
   */
  secondMoment(values: Float32Array, rows: number, columns: number, sums: Float64Array): void;
}
