/**
 * The reference's sums over many values. Long sums are four, of the elements by their index modulo 4, added pairwise at
 * the end: that is what vectors of two doubles give, so that every kernel gives the same.
 */
import { HalftoneError } from '../base/errors.ts';
import type { ChannelLayout } from './kernel.ts';
import { checkMatrix } from './layout.ts';

/** @throws HalftoneError `internal` for arrays of different lengths. */
export function checkLengths(a: Float32Array, b: Float32Array): void {
  if (a.length !== b.length) {
    throw new HalftoneError('internal', `squared error: expected ${a.length} elements, got ${b.length}`);
  }
}

/** @throws HalftoneError `internal` where a layout does not fit. */
export function checkChannels(
  values: Float32Array,
  { outer, channels, inner }: ChannelLayout,
  ...sums: Float64Array[]
): void {
  if (values.length !== outer * channels * inner || sums.some(({ length }) => length !== channels)) {
    throw new HalftoneError(
      'internal',
      `channel sums: expected ${outer}×${channels}×${inner} elements, got ${values.length}`,
    );
  }
}

/** @throws HalftoneError `internal` where values or sums are not as many as rows and columns say. */
export function checkMoment(values: Float32Array, rows: number, columns: number, sums: Float64Array): void {
  checkMatrix(rows, columns, values);
  if (sums.length !== columns * columns) {
    throw new HalftoneError('internal', `second moment: expected ${columns}×${columns} sums, got ${sums.length}`);
  }
}

/** See `Kernel.squaredError`. */
export function squaredError(a: Float32Array, b: Float32Array): number {
  checkLengths(a, b);
  const sums = new Float64Array(4);
  for (let i = 0; i < a.length; i++) {
    const difference = a[i] - b[i];
    sums[i & 3] += difference * difference;
  }
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

/** See `Kernel.countBins`. */
export function countBins(values: Float32Array, inverseStride: number, first: number, counts: Float64Array): void {
  const { length } = values;
  for (let i = 0; i < length; i++) counts[(Math.floor(values[i] * inverseStride) - first) | 0]++;
}

/** See `Kernel.channelSums`. */
export function channelSums(
  values: Float32Array,
  layout: ChannelLayout,
  sums: Float64Array,
  squares: Float64Array,
): void {
  checkChannels(values, layout, sums, squares);
  const { outer, channels, inner } = layout;
  if (inner === 1) {
    for (let i = 0; i < values.length; ) {
      for (let channel = 0; channel < channels; channel++, i++) {
        sums[channel] += values[i];
        squares[channel] += values[i] * values[i];
      }
    }
    return;
  }
  const lanes = new Float64Array(8);
  for (let run = 0; run < outer * channels; run++) {
    const start = run * inner;
    lanes.fill(0);
    for (let i = 0; i < inner; i++) {
      const value = values[start + i];
      lanes[i & 3] += value;
      lanes[(i & 3) + 4] += value * value;
    }
    sums[run % channels] += lanes[0] + lanes[1] + (lanes[2] + lanes[3]);
    squares[run % channels] += lanes[4] + lanes[5] + (lanes[6] + lanes[7]);
  }
}

/** See `Kernel.secondMoment`. */
export function secondMoment(values: Float32Array, rows: number, columns: number, sums: Float64Array): void {
  checkMoment(values, rows, columns, sums);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let i = 0; i < columns; i++) {
      const value = values[start + i];
      if (value === 0) continue;
      const target = i * columns;
      for (let j = i; j < columns; j++) sums[target + j] += value * values[start + j];
    }
  }
}
