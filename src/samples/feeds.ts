/**
 * Samples from a user's own code: any iterable of feeds, whose values are halftone tensors, tensors as onnxruntime-common
 * makes them (`{type, dims, data}`), `{dtype, shape, data}`, or typed arrays that take their shape from the model.
 */
import { HalftoneError } from '../base/errors.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import { type DType, dtypes } from '../tensor/dtype.ts';
import { floatToHalf } from '../tensor/half.ts';
import { bytesOf, type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';
import { describeInput } from './arrays.ts';
import { convertTo } from './convert.ts';
import type { Samples } from './sample.ts';

/** What user code may give: an iterable of feeds, or a function that makes a fresh one each time it is called. */
export type FeedSource =
  | Iterable<unknown>
  | AsyncIterable<unknown>
  | ((
      inputs: readonly ValueInfo[],
    ) => Iterable<unknown> | AsyncIterable<unknown> | Promise<Iterable<unknown> | AsyncIterable<unknown>>);

/**
 * @param source arrays and functions can be read again and again; an iterator only once
 * @throws HalftoneError `usage` when it is neither, or when a feed does not fit the model; on the second reading of an
 * iterator, which cannot start again.
 */
export function feedSamples(source: unknown, inputs: readonly ValueInfo[], description: string): Samples {
  if (typeof source !== 'function' && !isIterable(source)) {
    throw new HalftoneError(
      'usage',
      `${description}: expected a function that returns an (async) iterable of feeds, got ${typeof source}; use export default async function* (inputs) { yield { ${inputs[0]?.name ?? 'input'}: … }; }`,
    );
  }
  let consumed = false;
  const start = async (): Promise<Iterable<unknown> | AsyncIterable<unknown>> => {
    if (typeof source === 'function') {
      const made: unknown = await source(inputs);
      if (isIterable(made)) return made;
      throw new HalftoneError(
        'usage',
        `${description}: expected the function to return an iterable, got ${typeof made}`,
      );
    }
    if (consumed && isOneShot(source)) {
      throw new HalftoneError(
        'usage',
        `${description}: expected samples that can be read again, got an iterator that is used up; export the function that makes it instead`,
      );
    }
    consumed = true;
    return source;
  };
  return {
    description,
    ...(Array.isArray(source) ? { count: source.length } : {}),
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      let index = 0;
      for await (const feed of await start()) {
        yield toFeeds(feed, inputs, `${description}, sample ${index}`);
        index += 1;
      }
    },
  };
}

function isIterable(value: unknown): value is Iterable<unknown> | AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value);
}

/** An iterator returns itself when asked for an iterator; a collection makes a new one. */
function isOneShot(source: Iterable<unknown> | AsyncIterable<unknown>): boolean {
  return 'next' in source;
}

/**
 * One feed of user code as tensors of the model's types. For a model with one input the value alone will do.
 * @throws HalftoneError `missing-data` for an absent input, `usage` for a value that does not fit.
 */
export function toFeeds(feed: unknown, inputs: readonly ValueInfo[], subject: string): Feeds {
  const sample: Record<string, Tensor> = Object.create(null);
  if (typeof feed !== 'object' || feed === null) {
    throw new HalftoneError('usage', `${subject}: expected { input name: tensor }, got ${typeof feed}`);
  }
  const entries = feed instanceof Map ? feed : new Map<string, unknown>(isValue(feed) ? [] : Object.entries(feed));
  for (const input of inputs) {
    const value = isValue(feed) && inputs.length === 1 ? feed : entries.get(input.name);
    if (value === undefined || value === null) {
      throw new HalftoneError(
        'missing-data',
        `${subject}: expected a value for input ${input.name} (${describeInput(input)}), got ${[...entries.keys()].join(', ') || 'none'}`,
        { fields: { input: input.name } },
      );
    }
    sample[input.name] = toTensor(value, input, `${subject}: input ${input.name}`);
  }
  return sample;
}

function isValue(value: object): boolean {
  return ArrayBuffer.isView(value) || 'data' in value || 'bytes' in value || Array.isArray(value);
}

function toTensor(value: unknown, input: ValueInfo, subject: string): Tensor {
  const tensor = convertTo(tensorOf(value, input, subject), input.dtype, subject);
  const fits =
    tensor.shape.length === input.shape.length &&
    input.shape.every((want, axis) => typeof want === 'string' || want < 0 || want === tensor.shape[axis]);
  if (fits) return tensor;
  throw new HalftoneError(
    'usage',
    `${subject}: expected ${describeInput(input)}, got shape [${tensor.shape.join(',')}]`,
  );
}

function tensorOf(value: unknown, input: ValueInfo, subject: string): Tensor {
  if (value instanceof Tensor) return value;
  if (ArrayBuffer.isView(value) || Array.isArray(value)) return fromData(value, undefined, undefined, input, subject);
  if (typeof value === 'object' && value !== null) {
    const record = value as Readonly<Record<string, unknown>>;
    const dtype = (record.dtype ?? record.type) as DType | undefined;
    const shape = (record.shape ?? record.dims) as Shape | undefined;
    if (record.bytes instanceof Uint8Array && dtype && shape) return new Tensor(dtype, shape, record.bytes);
    if (ArrayBuffer.isView(record.data) || Array.isArray(record.data)) {
      return fromData(record.data, dtype, shape, input, subject);
    }
  }
  throw new HalftoneError('usage', `${subject}: expected a tensor or a typed array, got ${typeof value}`);
}

const arrayTypes: Readonly<Record<string, DType>> = {
  Float32Array: 'float32',
  Float64Array: 'float64',
  Float16Array: 'float16',
  Int8Array: 'int8',
  Uint8Array: 'uint8',
  Uint8ClampedArray: 'uint8',
  Int16Array: 'int16',
  Uint16Array: 'uint16',
  Int32Array: 'int32',
  Uint32Array: 'uint32',
  BigInt64Array: 'int64',
  BigUint64Array: 'uint64',
};

function fromData(
  data: ArrayBufferView | readonly unknown[],
  dtype: DType | undefined,
  dims: Shape | undefined,
  input: ValueInfo,
  subject: string,
): Tensor {
  if (dtype !== undefined && !Object.hasOwn(dtypes, dtype)) {
    throw new HalftoneError('usage', `${subject}: expected an ONNX element type, got ${String(dtype)}`);
  }
  const array = Array.isArray(data) ? numbersOf(data, dtype, subject) : (data as ArrayBufferView);
  const kind = arrayTypes[array.constructor.name] ?? (array instanceof Uint8Array ? 'uint8' : undefined);
  if (kind === undefined) {
    throw new HalftoneError('usage', `${subject}: expected a typed array of numbers, got ${array.constructor.name}`);
  }
  const width = (array as Uint8Array).BYTES_PER_ELEMENT * 8;
  // onnxruntime-common keeps float16 in a Uint16Array and bool in a Uint8Array; any other array tells its type itself.
  const raw = kind === 'uint8' || kind === 'uint16';
  const stored = raw && dtype !== undefined && dtypes[dtype].bits === width ? dtype : kind;
  const length = array.byteLength / (width / 8);
  const shape = dims ? Array.from(dims, Number) : shapeOf(input, length, subject);
  if (sizeOf(shape) !== length) {
    throw new HalftoneError(
      'usage',
      `${subject}: expected ${sizeOf(shape)} elements for shape [${shape.join(',')}], got ${length}`,
    );
  }
  return new Tensor(stored, shape, bytesOf(array));
}

function numbersOf(values: readonly unknown[], dtype: DType | undefined, subject: string): ArrayBufferView {
  const flat = values.flat(8);
  if (flat.length > 0 && flat.every((value) => typeof value === 'bigint')) return BigInt64Array.from(flat as bigint[]);
  if (!flat.every((value) => typeof value === 'number' || typeof value === 'boolean')) {
    throw new HalftoneError(
      'usage',
      `${subject}: expected numbers, got ${typeof flat.find((v) => typeof v !== 'number')}`,
    );
  }
  const numbers = Float64Array.from(flat, Number);
  return dtype === 'float16' ? Uint16Array.from(numbers, floatToHalf) : numbers;
}

/** The model's shape with the first symbolic axis 1 and one other symbolic axis taken from the length. */
function shapeOf(input: ValueInfo, length: number, subject: string): Shape {
  const open = input.shape.flatMap((dimension, axis) => (typeof dimension === 'string' || dimension < 0 ? [axis] : []));
  const shape = input.shape.map((dimension) => (typeof dimension === 'string' || dimension < 0 ? 1 : dimension));
  const size = sizeOf(shape);
  const free = open[open.length - 1];
  if (open.length > 2 || (open.length === 2 && open[0] !== 0)) {
    throw new HalftoneError(
      'usage',
      `${subject}: expected a shape for ${describeInput(input)}, got a plain array; give { data, dims }`,
    );
  }
  if (free !== undefined && size > 0 && length % size === 0) shape[free] = length / size;
  return shape;
}
