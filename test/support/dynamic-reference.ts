/** Dynamic quantization written out: what DynamicQuantizeLinear, MatMulInteger and ConvInteger compute, in plain loops. */
import { roundHalfToEven } from '../../src/base/round.ts';
import type { Shape } from '../../src/tensor/tensor.ts';

export interface Quantized {
  readonly codes: Uint8Array;
  readonly scale: number;
  readonly zeroPoint: number;
}

/** onnx, DynamicQuantizeLinear-11: the range always contains 0; codes and zero point round half to even, in float32. */
export function dynamicQuantize(values: Float32Array): Quantized {
  let low = 0;
  let high = 0;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const scale = high === low ? 1 : Math.fround(Math.fround(high - low) / 255);
  const clamp = (code: number) => Math.min(Math.max(code, 0), 255);
  const zeroPoint = clamp(roundHalfToEven(Math.fround(-low / scale)));
  const codes = Uint8Array.from(values, (value) => clamp(roundHalfToEven(Math.fround(value / scale)) + zeroPoint));
  return { codes, scale, zeroPoint };
}

/** The activations that integer layers really see. */
export function dynamicRound(values: Float32Array): Float32Array {
  const { codes, scale, zeroPoint } = dynamicQuantize(values);
  return Float32Array.from(codes, (code) => (code - zeroPoint) * scale);
}

/** Batches of [m,k]·[k,n] in double precision; a weight without batches serves all. */
export function multiply(x: Float32Array, shape: Shape, weight: Float32Array, weightShape: Shape): Float64Array {
  const [k, n] = weightShape.slice(-2);
  const m = shape[shape.length - 2];
  const batches = x.length / (m * k);
  const result = new Float64Array(batches * m * n);
  for (let batch = 0; batch < batches; batch++) {
    const start = weightShape.length > 2 ? batch * k * n : 0;
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let l = 0; l < k; l++) sum += x[(batch * m + i) * k + l] * weight[start + l * n + j];
        result[(batch * m + i) * n + j] = sum;
      }
    }
  }
  return result;
}

/** Every position of a shape, last axis fastest. */
function* positions(shape: Shape): Generator<number[]> {
  const position = shape.map(() => 0);
  for (;;) {
    yield position;
    let axis = shape.length - 1;
    for (; axis >= 0 && ++position[axis] === shape[axis]; axis--) position[axis] = 0;
    if (axis < 0) return;
  }
}

function offset(shape: Shape, position: readonly number[]): number {
  return position.reduce((sum, index, axis) => sum * shape[axis] + index, 0);
}

export interface Convolution {
  readonly group: number;
  readonly stride: number;
  readonly dilation: number;
  /** Zeros before and after every spatial axis. */
  readonly pad: number;
}

/** A convolution of any number of spatial axes in double precision. */
export function convolve(
  x: Float32Array,
  shape: Shape,
  weight: Float32Array,
  weightShape: Shape,
  { group, stride, dilation, pad }: Convolution,
): Float64Array {
  const [batch, , ...spatial] = shape;
  const [channels, perGroup, ...kernel] = weightShape;
  const out = spatial.map(
    (size, axis) => Math.floor((size + 2 * pad - dilation * (kernel[axis] - 1) - 1) / stride) + 1,
  );
  const resultShape = [batch, channels, ...out];
  const result = new Float64Array(resultShape.reduce((size, dimension) => size * dimension, 1));
  let index = 0;
  for (const [n, channel, ...place] of positions(resultShape)) {
    const first = Math.floor(channel / (channels / group)) * perGroup;
    let sum = 0;
    for (const [input, ...tap] of positions([perGroup, ...kernel])) {
      const source = place.map((position, axis) => position * stride + tap[axis] * dilation - pad);
      if (source.some((position, axis) => position < 0 || position >= spatial[axis])) continue;
      sum += x[offset(shape, [n, first + input, ...source])] * weight[offset(weightShape, [channel, input, ...tap])];
    }
    result[index++] = sum;
  }
  return result;
}
