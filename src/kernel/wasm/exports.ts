/** What the WebAssembly module offers. */

/** A boolean, as WebAssembly has it. */
export type Flag = 0 | 1;

export const flag = (value: boolean): Flag => (value ? 1 : 0);

/** The exports of assembly/index.ts. Arrays are addresses. */
export interface Exports {
  readonly memory: WebAssembly.Memory;
  heapBase(): number;
  extent(values: number, length: number, result: number): number;
  blockExtents(values: number, rows: number, columns: number, blockSize: number, minima: number, maxima: number): void;
  cover(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    lowest: number,
    highest: number,
    zeroPoint: number,
    symmetric: Flag,
    floatZeroPoint: Flag,
    half: Flag,
    scales: number,
    zeroPoints: number,
  ): void;
  fitConfigure(
    lowest: number,
    highest: number,
    zeroPoint: number,
    symmetric: Flag,
    floatZeroPoint: Flag,
    half: Flag,
    positiveScale: Flag,
  ): void;
  fit(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    importance: number,
    importanceLength: number,
    scratch: number,
    scales: number,
    zeroPoints: number,
  ): void;
  fitStart(low: number, high: number, weighted: Flag): Flag;
  fitAdd(values: number, length: number, importance: number, importanceLength: number, scratch: number): void;
  fitNext(): Flag;
  fitScale(): number;
  fitZeroPoint(): number;
  quantize(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    scales: number,
    zeroPoints: number,
    lowest: number,
    highest: number,
    codes: number,
    kind: number,
  ): void;
  dequantize(
    codes: number,
    rows: number,
    columns: number,
    blockSize: number,
    scales: number,
    zeroPoints: number,
    values: number,
    kind: number,
  ): void;
  noise(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    scales: number,
    zeroPoints: number,
    codes: number,
    kind: number,
    sums: number,
  ): void;
  quantizeNoise(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    scales: number,
    zeroPoints: number,
    lowest: number,
    highest: number,
    codes: number,
    kind: number,
    sums: number,
  ): void;
  pack(codes: number, count: number, bits: number, lowest: number, bytes: number): void;
  unpack(bytes: number, count: number, bits: number, signed: Flag, codes: number): void;
  transpose1(values: number, rows: number, columns: number, stride: number, out: number, outStride: number): void;
  transpose4(values: number, rows: number, columns: number, stride: number, out: number, outStride: number): void;
  encodeFloats(kind: number, values: number, count: number, codes: number): void;
  decodeFloats(kind: number, codes: number, count: number, values: number): void;
  squaredError(a: number, b: number, length: number, sums: number): void;
  runSums(values: number, length: number, sums: number): void;
  channelSums(
    values: number,
    count: number,
    inner: number,
    channel: number,
    channels: number,
    sums: number,
    squares: number,
  ): void;
  columnSums(values: number, rows: number, channels: number, sums: number, squares: number): void;
  countBins(values: number, length: number, inverseStride: number, first: number, bins: number, tables: number): void;
  chooseCodes(
    residuals: number,
    feed: number,
    rows: number,
    columns: number,
    upper: number,
    pivots: number,
    parameters: number,
    perRow: number,
    scales: number,
    zeroPoints: number,
    lowest: number,
    highest: number,
    codes: number,
    kind: number,
    losses: number,
  ): void;
  improveCodes(
    residuals: number,
    gradients: number,
    rows: number,
    columns: number,
    curvature: number,
    parameters: number,
    perRow: number,
    scales: number,
    zeroPoints: number,
    lowest: number,
    highest: number,
    codes: number,
    kind: number,
    losses: number,
  ): number;
  products(values: number, rows: number, columns: number, column: number, other: number, out: number): void;
}
