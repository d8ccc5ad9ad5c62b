/**
 * The operators that quantized models are made of, straight from their ONNX definitions and halftone's own kernels and
 * formats. Tests compare them with ONNX's backend node cases, and with ONNX Runtime.
 */
import { roundHalfToEven } from '../src/base/round.ts';
import {
  decodeMinifloat,
  decodePower,
  encodeMinifloat,
  encodePower,
  isMinifloat,
  type PowerRounding,
} from '../src/formats/minifloat.ts';
import { dequantizeValue, quantizeValue, reference } from '../src/kernel/index.ts';
import { type DType, dtypeOfNumber, dtypes } from '../src/tensor/dtype.ts';
import { floatToBfloat, floatToHalf } from '../src/tensor/half.ts';
import { bytesOf, type Shape, sizeOf, Tensor } from '../src/tensor/tensor.ts';

export type Attributes = Readonly<Record<string, number | string | readonly number[]>>;
export type Operator = (inputs: readonly (Tensor | undefined)[], attributes: Attributes) => Tensor;

/** The range of an integer element type. */
function integerRange(dtype: DType): { min: number; max: number } | undefined {
  const match = /^(u?)int(\d+)$/.exec(dtype);
  if (!match) return undefined;
  const bits = Number(match[2]);
  return match[1] ? { min: 0, max: 2 ** bits - 1 } : { min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 };
}

/** The numbers of a tensor of any real type. */
export function numbersOf(tensor: Tensor): number[] {
  const { dtype, bytes, size } = tensor;
  const { bits } = dtypes[dtype];
  if (dtype === 'float64') return Array.from(new Float64Array(bytes.slice().buffer));
  if (dtype === 'float8e8m0') return Array.from(bytes, decodePower);
  if (isMinifloat(dtype)) {
    const codes = reference.unpack(bytes, bits, false, size);
    return Array.from(codes, (code) => decodeMinifloat(dtype, code));
  }
  if (bits < 8) return Array.from(reference.unpack(bytes, bits, dtype.startsWith('int'), size));
  return Array.from(tensor.floats());
}

interface Encoding {
  readonly saturate?: boolean;
  readonly rounding?: PowerRounding;
}

/** A tensor of any real type from numbers; integers must already be in range. */
export function tensorOf(dtype: DType, shape: Shape, numbers: readonly number[], encoding: Encoding = {}): Tensor {
  const { saturate = true, rounding = 'up' } = encoding;
  const { bits } = dtypes[dtype];
  if (dtype === 'float32') return Tensor.float32(shape, numbers);
  if (dtype === 'float64') return new Tensor(dtype, shape, bytesOf(Float64Array.from(numbers)));
  if (dtype === 'float16') return new Tensor(dtype, shape, bytesOf(Uint16Array.from(numbers, floatToHalf)));
  if (dtype === 'bfloat16') return new Tensor(dtype, shape, bytesOf(Uint16Array.from(numbers, floatToBfloat)));
  if (dtype === 'float8e8m0') {
    return new Tensor(
      dtype,
      shape,
      Uint8Array.from(numbers, (value) => encodePower(value, rounding, saturate)),
    );
  }
  if (isMinifloat(dtype)) {
    const codes = numbers.map((value) => encodeMinifloat(dtype, value, saturate));
    return new Tensor(dtype, shape, reference.pack(codes, bits));
  }
  if (bits <= 8) return new Tensor(dtype, shape, reference.pack(numbers, bits));
  if (bits === 16) return new Tensor(dtype, shape, bytesOf(Uint16Array.from(numbers)));
  if (dtype === 'int32') return Tensor.int32(shape, numbers);
  throw new Error(`tensorOf: ${dtype} is not needed by any case`);
}

/** For each element of `shape`, the index of its scale: one for all, per position along an axis, or per block. */
function parameterIndices(shape: Shape, scale: Tensor, axis: number, blockSize: number): number[] {
  const at = axis < 0 ? axis + shape.length : axis;
  const size = sizeOf(shape);
  if (scale.size === 1 && scale.shape.length <= 1) return new Array<number>(size).fill(0);
  const inner = sizeOf(shape.slice(at + 1));
  const along = shape[at];
  const blocked = scale.shape.length === shape.length && scale.shape.length > 1;
  const step = blocked && blockSize > 0 ? blockSize : 1;
  const perAxis = blocked ? scale.shape[at] : along;
  return Array.from({ length: size }, (_, i) => {
    const position = Math.floor(i / inner) % along;
    if (!blocked) return position;
    return (Math.floor(i / (inner * along)) * perAxis + Math.floor(position / step)) * inner + (i % inner);
  });
}

const numeric = (attributes: Attributes, name: string, otherwise: number) => Number(attributes[name] ?? otherwise);

/** onnx, operator QuantizeLinear. */
export const quantizeLinear: Operator = ([x, scale, zeroPoint], attributes) => {
  const dtype = zeroPoint?.dtype ?? dtypeOfNumber(numeric(attributes, 'output_dtype', 0)) ?? 'uint8';
  const range = integerRange(dtype);
  const scales = numbersOf(scale!);
  const zeros = zeroPoint ? numbersOf(zeroPoint) : undefined;
  const indices = parameterIndices(
    x!.shape,
    scale!,
    numeric(attributes, 'axis', 1),
    numeric(attributes, 'block_size', 0),
  );
  const numbers = numbersOf(x!).map((value, i) => {
    const [s, z] = [scales[indices[i]], zeros?.[indices[i]] ?? 0];
    return range ? quantizeValue(value, s, z, range.min, range.max) : Math.fround(value / s) + z;
  });
  return tensorOf(dtype, x!.shape, numbers, { saturate: numeric(attributes, 'saturate', 1) === 1 });
};

/** onnx, operator DequantizeLinear. */
export const dequantizeLinear: Operator = ([x, scale, zeroPoint], attributes) => {
  const scales = numbersOf(scale!);
  const zeros = zeroPoint ? numbersOf(zeroPoint) : undefined;
  const indices = parameterIndices(
    x!.shape,
    scale!,
    numeric(attributes, 'axis', 1),
    numeric(attributes, 'block_size', 0),
  );
  const numbers = numbersOf(x!).map((code, i) => dequantizeValue(code, scales[indices[i]], zeros?.[indices[i]] ?? 0));
  return tensorOf(dtypeOfNumber(numeric(attributes, 'output_dtype', 0)) ?? scale!.dtype, x!.shape, numbers);
};

/** onnx, operator DynamicQuantizeLinear: codes, scale and zero point. */
export function dynamicQuantizeLinear(x: Tensor): [Tensor, Tensor, Tensor] {
  const values = x.floats();
  const { min, max } = reference.extent(values);
  const low = Math.min(min, 0);
  const high = Math.max(max, 0);
  const span = Math.fround(Math.fround(high - low) / 255);
  const scale = span === 0 ? 1 : span;
  const zeroPoint = Math.min(Math.max(roundHalfToEven(Math.fround(-low / scale)), 0), 255);
  const codes = Array.from(values, (value) => quantizeValue(value, scale, zeroPoint, 0, 255));
  return [Tensor.uint8(x.shape, codes), Tensor.float32([], [scale]), Tensor.uint8([], [zeroPoint])];
}

/** Integer sums of products of the last two axes, zero points already subtracted; leading axes must agree. */
function integerMatMul(a: readonly number[], aShape: Shape, b: readonly number[], bShape: Shape): number[] {
  const [m, k] = aShape.slice(-2);
  const n = bShape[bShape.length - 1];
  const batches = sizeOf(aShape.slice(0, -2));
  const shared = bShape.length === 2 && aShape.length > 2;
  const sums: number[] = [];
  for (let batch = 0; batch < batches; batch++) {
    const aStart = batch * m * k;
    const bStart = shared ? 0 : batch * k * n;
    for (let row = 0; row < m; row++) {
      for (let column = 0; column < n; column++) {
        let sum = 0;
        for (let i = 0; i < k; i++) sum += a[aStart + row * k + i] * b[bStart + i * n + column];
        sums.push(sum);
      }
    }
  }
  return sums;
}

/** Codes minus zero points; these are one for all, or one per index along `axis`. */
function centred(tensor: Tensor, zeroPoint: Tensor | undefined, axis: number): number[] {
  const codes = numbersOf(tensor);
  if (!zeroPoint) return codes;
  const zeros = numbersOf(zeroPoint);
  const inner = sizeOf(tensor.shape.slice(axis + 1));
  return codes.map((code, i) => code - (zeros.length === 1 ? zeros[0] : zeros[Math.floor(i / inner) % zeros.length]));
}

/** onnx, operator MatMulInteger: zero points of A per row, of B per column. */
export const matMulInteger: Operator = ([a, b, aZero, bZero]) => {
  const sums = integerMatMul(
    centred(a!, aZero, a!.shape.length - 2),
    a!.shape,
    centred(b!, bZero, b!.shape.length - 1),
    b!.shape,
  );
  return Tensor.int32([...a!.shape.slice(0, -1), b!.shape[b!.shape.length - 1]], sums);
};

/**
 * From an int32 sum to the output's code as ONNX Runtime does it: a float32 product with one combined multiplier,
 * halves to even, then the zero point (ALGORITHMS 5.1).
 */
export function requantize(sum: number, multiplier: number, zeroPoint: number, min: number, max: number): number {
  const scaled = Math.fround(Math.fround(sum) * multiplier);
  return Math.min(Math.max(roundHalfToEven(scaled) + zeroPoint, min), max);
}

const multiplierOf = (a: number, b: number, y: number) => Math.fround(Math.fround(a * b) / y);

/** onnx, operator QLinearMatMul. */
export const qLinearMatMul: Operator = ([a, aScale, aZero, b, bScale, bZero, yScale, yZero]) => {
  const sums = integerMatMul(
    centred(a!, aZero, a!.shape.length - 2),
    a!.shape,
    centred(b!, bZero, b!.shape.length - 1),
    b!.shape,
  );
  const columns = b!.shape[b!.shape.length - 1];
  const { min, max } = integerRange(yZero!.dtype)!;
  const [as, bs, ys] = [numbersOf(aScale!), numbersOf(bScale!), numbersOf(yScale!)];
  const [zero] = numbersOf(yZero!);
  const codes = sums.map((sum, i) =>
    requantize(sum, multiplierOf(as[0], bs[bs.length === 1 ? 0 : i % columns], ys[0]), zero, min, max),
  );
  return tensorOf(yZero!.dtype, [...a!.shape.slice(0, -1), columns], codes);
};

/** Integer sums of a convolution over two spatial axes. `x` and `w` hold codes minus zero points. */
function integerConv(
  x: readonly number[],
  [batches, channels, height, width]: Shape,
  w: readonly number[],
  [outputs, groupChannels, kernelHeight, kernelWidth]: Shape,
  attributes: Attributes,
): { sums: number[]; shape: Shape } {
  const [padTop, padLeft, padBottom, padRight] = (attributes.pads as number[] | undefined) ?? [0, 0, 0, 0];
  const [strideY, strideX] = (attributes.strides as number[] | undefined) ?? [1, 1];
  const [dilationY, dilationX] = (attributes.dilations as number[] | undefined) ?? [1, 1];
  const outputsPerGroup = outputs / (channels / groupChannels);
  const outHeight = Math.floor((height + padTop + padBottom - dilationY * (kernelHeight - 1) - 1) / strideY) + 1;
  const outWidth = Math.floor((width + padLeft + padRight - dilationX * (kernelWidth - 1) - 1) / strideX) + 1;
  const shape = [batches, outputs, outHeight, outWidth];
  const sums = Array.from({ length: sizeOf(shape) }, (_, index) => {
    const column = index % outWidth;
    const row = Math.floor(index / outWidth) % outHeight;
    const output = Math.floor(index / (outWidth * outHeight)) % outputs;
    const batch = Math.floor(index / (outWidth * outHeight * outputs));
    const firstChannel = Math.floor(output / outputsPerGroup) * groupChannels;
    let sum = 0;
    for (let c = 0; c < groupChannels; c++) {
      for (let ky = 0; ky < kernelHeight; ky++) {
        for (let kx = 0; kx < kernelWidth; kx++) {
          const y = row * strideY - padTop + ky * dilationY;
          const z = column * strideX - padLeft + kx * dilationX;
          if (y < 0 || y >= height || z < 0 || z >= width) continue;
          const weight = w[((output * groupChannels + c) * kernelHeight + ky) * kernelWidth + kx];
          sum += weight * x[((batch * channels + firstChannel + c) * height + y) * width + z];
        }
      }
    }
    return sum;
  });
  return { sums, shape };
}

/** onnx, operator ConvInteger. */
export const convInteger: Operator = ([x, w, xZero, wZero], attributes) => {
  const { sums, shape } = integerConv(centred(x!, xZero, 0), x!.shape, centred(w!, wZero, 0), w!.shape, attributes);
  return Tensor.int32(shape, sums);
};

/** onnx, operator QLinearConv. */
export const qLinearConv: Operator = ([x, xScale, xZero, w, wScale, wZero, yScale, yZero, bias], attributes) => {
  const { sums, shape } = integerConv(centred(x!, xZero, 0), x!.shape, centred(w!, wZero, 0), w!.shape, attributes);
  const [xs, ws, ys] = [numbersOf(xScale!), numbersOf(wScale!), numbersOf(yScale!)];
  const [zero] = numbersOf(yZero!);
  const biases = bias ? numbersOf(bias) : undefined;
  const { min, max } = integerRange(yZero!.dtype)!;
  const area = shape[2] * shape[3];
  const codes = sums.map((sum, i) => {
    const output = Math.floor(i / area) % shape[1];
    const multiplier = multiplierOf(xs[0], ws[ws.length === 1 ? 0 : output], ys[0]);
    return requantize(sum + (biases?.[output] ?? 0), multiplier, zero, min, max);
  });
  return tensorOf(yZero!.dtype, shape, codes);
};

/** onnx, operator Cast, between real types: float to integer drops the fraction and, beyond the range, high bits. */
export const cast: Operator = ([x], attributes) => {
  const dtype = dtypeOfNumber(numeric(attributes, 'to', 0))!;
  const saturate = numeric(attributes, 'saturate', 1) === 1;
  const rounding = (attributes.round_mode ?? 'up') as PowerRounding;
  const numbers = numbersOf(x!);
  const integral = integerRange(dtype) ? numbers.map(Math.trunc) : numbers;
  return tensorOf(dtype, x!.shape, integral, { saturate, rounding });
};

/** By operator type. DynamicQuantizeLinear has three outputs and stands alone. */
export const operators: Readonly<Record<string, Operator>> = {
  QuantizeLinear: quantizeLinear,
  DequantizeLinear: dequantizeLinear,
  MatMulInteger: matMulInteger,
  ConvInteger: convInteger,
  QLinearMatMul: qLinearMatMul,
  QLinearConv: qLinearConv,
  Cast: cast,
};
