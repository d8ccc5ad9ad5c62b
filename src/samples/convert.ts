/** Stored numbers as the type a model input wants: the same values, never scaled. */
import { HalftoneError } from '../base/errors.ts';
import type { DType } from '../tensor/dtype.ts';
import { floatToBfloat } from '../tensor/half.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';

type IntegerType = 'int8' | 'uint8' | 'int16' | 'uint16' | 'int32' | 'uint32' | 'int64' | 'uint64' | 'bool';

const ranges: Readonly<Record<IntegerType, readonly [number, number]>> = {
  int8: [-128, 127],
  uint8: [0, 255],
  int16: [-32768, 32767],
  uint16: [0, 65535],
  int32: [-2147483648, 2147483647],
  uint32: [0, 4294967295],
  int64: [-(2 ** 63), 2 ** 63 - 1024],
  uint64: [0, 2 ** 64 - 2048],
  bool: [0, 1],
};

/**
 * The same values as another element type. Floats are rounded to nearest where the wanted type is narrower.
 * @param subject what to call the tensor in messages
 * @throws HalftoneError `usage` when a value has no place in the wanted type (0.5 as int64, 300 as uint8), `unsupported`
 * for types that hold no real numbers.
 */
export function convertTo(tensor: Tensor, dtype: DType, subject: string): Tensor {
  if (tensor.dtype === dtype) return tensor;
  const { shape } = tensor;
  if (isWide(tensor.dtype) && isWide(dtype)) return convertWide(tensor, dtype, subject);
  const values = doublesOf(tensor, subject);
  switch (dtype) {
    case 'float32':
      return Tensor.float32(shape, values);
    case 'float64':
      return new Tensor('float64', shape, bytesOf(values));
    case 'float16':
      return Tensor.float16(shape, values);
    case 'bfloat16':
      return new Tensor('bfloat16', shape, bytesOf(Uint16Array.from(values, floatToBfloat)));
    default:
      return integersFrom(values, shape, dtype, subject);
  }
}

function isWide(dtype: DType): boolean {
  return dtype === 'int64' || dtype === 'uint64';
}

function convertWide(tensor: Tensor, dtype: DType, subject: string): Tensor {
  const limit = 2n ** 63n;
  const values = tensor.bigints();
  for (let i = 0; i < values.length; i++) {
    if (values[i] < 0n || values[i] >= limit) throw misfit(subject, dtype, `${values[i]} at element ${i}`);
  }
  return new Tensor(dtype, tensor.shape, tensor.bytes);
}

function misfit(subject: string, dtype: DType, got: string): HalftoneError {
  return new HalftoneError(
    'usage',
    `${subject}: expected values that fit the model's ${dtype}, got ${got}; store the data as the model takes it`,
  );
}

function integersFrom(values: Float64Array, shape: readonly number[], dtype: DType, subject: string): Tensor {
  const range = ranges[dtype as IntegerType];
  if (range === undefined) {
    throw new HalftoneError('unsupported', `${subject}: expected a model input of numbers, got one of ${dtype}`);
  }
  for (let i = 0; i < values.length; i++) {
    if (!Number.isInteger(values[i]) || values[i] < range[0] || values[i] > range[1]) {
      throw misfit(subject, dtype, `${values[i]} at element ${i}`);
    }
  }
  return new Tensor(dtype, shape, bytesOf(encode(values, dtype as IntegerType)));
}

function encode(values: Float64Array, dtype: IntegerType): ArrayBufferView {
  switch (dtype) {
    case 'int8':
      return Int8Array.from(values);
    case 'bool':
    case 'uint8':
      return Uint8Array.from(values);
    case 'int16':
      return Int16Array.from(values);
    case 'uint16':
      return Uint16Array.from(values);
    case 'int32':
      return Int32Array.from(values);
    case 'uint32':
      return Uint32Array.from(values);
    case 'int64':
      return encodeWide(values, new BigInt64Array(values.length));
    case 'uint64':
      return encodeWide(values, new BigUint64Array(values.length));
  }
}

function encodeWide(values: Float64Array, target: BigInt64Array | BigUint64Array): ArrayBufferView {
  for (let i = 0; i < values.length; i++) target[i] = BigInt(values[i]);
  return target;
}

function doublesOf(tensor: Tensor, subject: string): Float64Array {
  const { bytes, dtype } = tensor;
  switch (dtype) {
    case 'float64':
      return new Float64Array(bytes.slice().buffer);
    case 'uint32':
      return Float64Array.from(new Uint32Array(bytes.slice().buffer));
    case 'int64':
    case 'uint64':
      return Float64Array.from(tensor.bigints(), Number);
    case 'string':
    case 'complex64':
    case 'complex128':
      throw new HalftoneError('unsupported', `${subject}: expected real numbers, got ${dtype}`);
    default:
      return Float64Array.from(tensor.floats());
  }
}
