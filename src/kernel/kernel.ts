/** The loops over numbers that everything above is made of. `reference` is complete; faster builds replace methods. */
import type { Codes } from '../formats/quantized.ts';

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

export interface Kernel {
  readonly id: string;

  /** Range and special values of a batch. */
  extent(values: Float32Array): Extent;

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
   * codes are stored in two's complement.
   */
  pack(codes: ArrayLike<number>, bits: number): Uint8Array;

  /** The inverse of `pack`: `count` codes. */
  unpack(bytes: Uint8Array, bits: number, signed: boolean, count: number): Int8Array | Uint8Array;

  /** Σ (a − b)², in double precision. */
  squaredError(a: Float32Array, b: Float32Array): number;

  /**
   * Adds finite values to bins: `counts[floor(value · inverseStride) − first] += 1`. Zeros are counted too. The caller
   * makes sure that every value has a bin.
   */
  countBins(values: Float32Array, inverseStride: number, first: number, counts: Float64Array): void;

  /** Adds each channel's Σ value and Σ value² in double precision. */
  channelSums(values: Float32Array, layout: ChannelLayout, sums: Float64Array, squares: Float64Array): void;
}
