/** Packed codes in a graph: initializers and ordinary operators that ONNX Runtime folds to constants when it loads. */
import { HalftoneError } from '../base/errors.ts';
import { intFormatOf } from '../formats/index.ts';
import { encodeMinifloat, encodePower } from '../formats/minifloat.ts';
import type { Codes, QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { dtypes } from '../tensor/dtype.ts';
import { bytesOf, type Shape, Tensor } from '../tensor/tensor.ts';
import type { SharedConstants } from './weight.ts';

/** Widths whose codes never cross a byte; any other width is the sum of two or three of them. */
const planesOf: Readonly<Record<number, readonly number[]>> = {
  1: [1],
  2: [2],
  3: [2, 1],
  4: [4],
  5: [4, 1],
  6: [4, 2],
  7: [4, 2, 1],
  8: [8],
};

/** What values between packed codes and the result are called: names are stored at each use, so these are short. */
export const inner = 'h';

/** Codes as 0 … 2^bits − 1. */
export function unsignedCodes(codes: Codes, min: number): Uint8Array | Uint16Array {
  const unsigned = codes.BYTES_PER_ELEMENT === 1 ? new Uint8Array(codes.length) : new Uint16Array(codes.length);
  for (let i = 0; i < codes.length; i++) unsigned[i] = codes[i] - min;
  return unsigned;
}

/** Bytes that `packedCodes` stores for `count` codes. */
export function packedBytes(count: number, bits: number): number {
  if (bits > 8) return count * 2;
  return planesOf[bits].reduce((sum, plane) => sum + Math.ceil((count * plane) / 8), 0);
}

/** How many planes `packedCodes` stores codes as; 0 where each has whole bytes of its own. */
export function planeCount(bits: number): number {
  return bits < 8 ? planesOf[bits].length : 0;
}

/** What unpacked codes are: numbers to compute with, or indices into a table. */
export type CodeType = 'float32' | 'int32';

/**
 * A value of `shape` in `graph` that holds unsigned codes of 1 to 8 or 16 bits, stored packed. Uses BitShift (opset 11),
 * Cast, Mul, Add, Reshape and Slice (opset 10).
 */
export function packedCodes(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  codes: Uint8Array | Uint16Array,
  bits: number,
  shape: Shape,
  type: CodeType = 'float32',
): Value {
  if (bits === 16) {
    const value = graph.addInitializer(`${name}/codes`, new Tensor('uint16', shape, bytesOf(codes)));
    return cast(graph, value, type, inner);
  }
  const planes = planesOf[bits];
  if (!planes) throw new HalftoneError('internal', `"${name}": expected codes of 1 to 8 or 16 bits, got ${bits}`);
  if (bits === 8) {
    return cast(graph, graph.addInitializer(`${name}/codes`, Tensor.uint8(shape, codes)), type, inner);
  }
  let sum: Value | undefined;
  let offset = 0;
  for (const plane of planes) {
    const part = unpackedPlane(graph, constants, name, codes, plane, offset, planes.length, type);
    if (sum) {
      const weight = constants.get(`two_to_${offset}_${type}`, () => Tensor[type]([], [2 ** offset]));
      const scaled = op(graph, 'Mul', [part, weight], inner);
      sum = op(graph, 'Add', [sum, scaled], inner);
    } else {
      sum = part;
    }
    offset += plane;
  }
  if (!sum) throw new HalftoneError('internal', `"${name}": expected at least one plane of bits`);
  return reshape(graph, constants, sum, shape, inner);
}

/**
 * `width` bits of each code from bit `offset` on: [count], or [8 / width, bytes] in the same order. Codes that share a
 * byte are far apart: byte b of B holds codes b, B + b, 2·B + b …, the first in its lowest bits. Shifts then run over
 * long rows; over pairs of 4-bit neighbours they take about twelve times as long (measured, onnxruntime 1.30).
 */
function unpackedPlane(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  codes: Uint8Array | Uint16Array,
  width: number,
  offset: number,
  planes: number,
  type: CodeType,
): Value {
  const perByte = 8 / width;
  const length = Math.ceil(codes.length / perByte);
  const bytes = new Uint8Array(length);
  const mask = 2 ** width - 1;
  for (let i = 0; i < codes.length; i++) {
    const row = Math.floor(i / length);
    bytes[i - row * length] |= ((codes[i] >> offset) & mask) << (width * row);
  }
  const packed = graph.addInitializer(`${name}/codes${offset || ''}`, Tensor.uint8([1, length], bytes));
  const left = constants.get(`left_${width}`, () =>
    Tensor.uint8(
      [perByte, 1],
      Array.from({ length: perByte }, (_, index) => 8 - width * (index + 1)),
    ),
  );
  const right = constants.get(`right_${width}`, () => Tensor.uint8([], [8 - width]));
  const high = op(graph, 'BitShift', [packed, left], inner, { direction: 'LEFT' });
  const low = op(graph, 'BitShift', [high, right], inner, { direction: 'RIGHT' });
  const rows = cast(graph, low, type, inner);
  const whole = length * perByte === codes.length;
  // The one plane of 1, 2 or 4-bit codes is brought into its final shape by the caller.
  if (whole && planes === 1) return rows;
  const flat = reshape(graph, constants, rows, [length * perByte], inner);
  return whole ? flat : firstOf(graph, constants, flat, codes.length);
}

/** The first `count` numbers of a value along its axis 0, or along axis 1. */
export function firstOf(graph: Graph, constants: SharedConstants, value: Value, count: number, axis: 0 | 1 = 0): Value {
  const start = constants.get('zero', () => Tensor.int64([1], [0]));
  const end = constants.get(`length_${count}`, () => Tensor.int64([1], [count]));
  const axes = axis === 0 ? [] : [constants.get('one', () => Tensor.int64([1], [1]))];
  return op(graph, 'Slice', [value, start, end, ...axes], inner);
}

/** A node with one new output, which it returns. */
export function op(
  graph: Graph,
  type: string,
  inputs: readonly (Value | undefined)[],
  output: string,
  attributes: Parameters<Graph['add']>[0]['attributes'] = {},
): Value {
  return graph.add({ op: type, inputs, outputs: [output], attributes }).output();
}

export function cast(graph: Graph, value: Value, dtype: keyof typeof dtypes, output: string): Value {
  return op(graph, 'Cast', [value], output, { to: dtypes[dtype].onnx });
}

export function reshape(graph: Graph, constants: SharedConstants, value: Value, shape: Shape, output: string): Value {
  const target = constants.get(`shape_${shape.join('x')}`, () => Tensor.int64([shape.length], [...shape]));
  return op(graph, 'Reshape', [value, target], output);
}

/** Numbers as float32, stored as floats of a type: float16 is cast when the file is loaded. */
export function floatValue(
  graph: Graph,
  name: string,
  numbers: Float32Array,
  type: 'float32' | 'float16',
  shape: Shape,
): Value {
  if (type === 'float32') return graph.addInitializer(name, Tensor.float32(shape, numbers));
  return cast(graph, graph.addInitializer(name, Tensor.float16(shape, numbers)), 'float32', inner);
}

/** Scales in some order, with their factors: one, or one for each row of `factorShape`, which broadcasts against the scales. */
export interface StoredScales {
  readonly scheme: Scheme;
  readonly scales: Float32Array;
  readonly shape: Shape;
  readonly factors?: Float32Array;
  readonly factorShape?: Shape;
}

/** Scales as float32, stored as their scheme says and unpacked when the file is loaded. */
export function scaleValue(graph: Graph, constants: SharedConstants, name: string, stored: StoredScales): Value {
  const { scheme, scales, shape, factors, factorShape = [] } = stored;
  switch (scheme.scaleType) {
    case 'float32':
    case 'float16':
      return floatValue(graph, name, scales, scheme.scaleType, shape);
    case 'float8e8m0': {
      const codes = Uint8Array.from(scales, (scale) => encodePower(scale));
      const exponents = cast(graph, graph.addInitializer(name, Tensor.uint8(shape, codes)), 'float32', inner);
      const bias = constants.get('power_bias', () => Tensor.float32([], [127]));
      const base = constants.get('two', () => Tensor.float32([], [2]));
      return op(graph, 'Pow', [base, op(graph, 'Sub', [exponents, bias], inner)], inner);
    }
    default: {
      if (!factors) throw new HalftoneError('internal', `"${name}": expected factors for its scales, got none`);
      const perFactor = scales.length / factors.length;
      const dtype = scheme.scaleType;
      const multiple = (scale: number, index: number) => scale / factors[Math.floor(index / perFactor)];
      const codes =
        dtype === 'int8'
          ? bytesOf(Int8Array.from(scales, (scale, index) => Math.round(multiple(scale, index))))
          : Uint8Array.from(scales, (scale, index) => encodeMinifloat(dtype, multiple(scale, index)));
      const multiples = cast(graph, graph.addInitializer(name, new Tensor(dtype, shape, codes)), 'float32', inner);
      const factor = graph.addInitializer(`${name}/factor`, Tensor.float32(factorShape, factors));
      return op(graph, 'Mul', [multiples, factor], inner);
    }
  }
}

/** Bytes of scales as a scheme stores them, with their factors. */
export function scaleBytes({ scaleType }: Scheme, count: number, rows: number): number {
  switch (scaleType) {
    case 'float32':
      return count * 4;
    case 'float16':
      return count * 2;
    case 'float8e8m0':
      return count;
    case 'float8e4m3fn':
      return count + 4;
    case 'int8':
      return count + rows * 4;
  }
}

/** The opset that unpacking the scales of a scheme needs. */
export function scaleOpset({ scaleType }: Scheme): number {
  return scaleType === 'float8e4m3fn' ? 19 : 7;
}

/** True when every zero point is the same number, so that one stored number is enough. */
export function sharedZeroPoint(matrix: QuantizedMatrix): number | undefined {
  // Numbers that are all the same are stored as one.
  if (matrix.stored) return typeof matrix.stored.zeroPoints === 'number' ? matrix.stored.zeroPoints : undefined;
  const { zeroPoints } = matrix;
  const first = zeroPoints[0];
  return zeroPoints.every((zeroPoint) => zeroPoint === first) ? first : undefined;
}

/** Zero points counted from the smallest code, as unsigned codes are. */
export function unsignedZeroPoints(matrix: QuantizedMatrix): Uint8Array {
  const { min } = intFormatOf(matrix.scheme.format);
  const { zeroPoints } = matrix;
  const unsigned = new Uint8Array(zeroPoints.length);
  for (let i = 0; i < zeroPoints.length; i++) unsigned[i] = zeroPoints[i] - min;
  return unsigned;
}

/** The type of scales that are plain floats. @throws HalftoneError `internal` for others. */
export function plainScaleType({ scaleType }: Scheme): 'float32' | 'float16' {
  if (scaleType === 'float32' || scaleType === 'float16') return scaleType;
  throw new HalftoneError('internal', `scales: expected float32 or float16 ones, got ${scaleType}`);
}
