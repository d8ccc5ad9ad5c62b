/** Samples from JSON lines: token ids (`[1, 2, 3]`), or one object a line keyed by model input. */
import { HalftoneError, messageOf } from '../base/errors.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import { describeInput } from './arrays.ts';
import { convertTo } from './convert.ts';
import { fillOf, isFillable, isPast } from './fill.ts';
import type { Samples } from './sample.ts';

/**
 * One sample a line; empty lines are skipped. A bare array feeds `input_ids`, or the only input that `fillOf` cannot fill.
 * Values may be nested to the rank of the input, or one less (a leading axis of 1 is added). Where absent, masks are 1,
 * token types 0, positions 0, 1, 2 …, and the past is empty. A line shorter than a fixed length is padded with 0, and
 * masked, where the model has an attention mask.
 * @param text the file
 * @throws HalftoneError `invalid-file` naming the line that is no JSON, `missing-data` naming an input without values,
 * `usage` for values that do not fit the model.
 */
export function jsonlSamples(text: string, inputs: readonly ValueInfo[], description: string): Samples {
  const lines = text
    .split('\n')
    .map((line, i) => ({ line: line.trim(), subject: `${description}, line ${i + 1}` }))
    .filter(({ line }) => line !== '');
  if (lines.length === 0)
    throw new HalftoneError('missing-data', `${description}: expected a sample a line, got no lines`);
  return {
    description,
    count: lines.length,
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      for (const { line, subject } of lines) yield readLine(line, inputs, subject);
    },
  };
}

function readLine(line: string, inputs: readonly ValueInfo[], subject: string): Feeds {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new HalftoneError('invalid-file', `${subject}: expected JSON, got ${messageOf(error)}`, { cause: error });
  }
  const given = valuesOf(value, inputs, subject);
  const sample: Record<string, Tensor> = Object.create(null);
  const real = new Map<string, Tensor>();
  for (const input of inputs) {
    const values = given.get(input.name);
    if (values !== undefined) real.set(input.name, tensorFrom(values, input, `${subject}: input ${input.name}`));
  }
  const main = real.get('input_ids') ?? [...real.values()].find((tensor) => tensor.shape.length === 2);
  const length = main?.shape[1] ?? 0;
  const hasMask = inputs.some((input) => input.name === 'attention_mask');
  for (const input of inputs) {
    const tensor = real.get(input.name) ?? filled(input, main, subject);
    sample[input.name] = padded(tensor, input, length, hasMask, `${subject}: input ${input.name}`);
  }
  return sample;
}

function valuesOf(value: unknown, inputs: readonly ValueInfo[], subject: string): ReadonlyMap<string, unknown> {
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) return new Map(Object.entries(value));
  if (!Array.isArray(value)) {
    throw new HalftoneError('usage', `${subject}: expected an array of token ids or an object, got ${typeof value}`);
  }
  const named = inputs.find((input) => input.name === 'input_ids');
  const open = inputs.filter((input) => !isFillable(input.name));
  const target = named ?? (open.length === 1 ? open[0] : undefined);
  if (!target) {
    throw new HalftoneError(
      'usage',
      `${subject}: expected an object with ${inputs.map((input) => input.name).join(', ')}, got a bare array`,
    );
  }
  return new Map([[target.name, value]]);
}

function filled(input: ValueInfo, main: Tensor | undefined, subject: string): Tensor {
  if (isPast(input.name)) {
    const shape = input.shape.map((dimension, axis) =>
      typeof dimension === 'number' && dimension >= 0 ? dimension : axis === 0 ? 1 : 0,
    );
    return new Tensor(input.dtype, shape, new Uint8Array(convertTo(zeros(shape), input.dtype, subject).bytes));
  }
  const shape: Shape = input.shape.length <= 1 ? input.shape.map(() => 1) : [1, main?.shape[1] ?? 1];
  const tensor = fillOf(input, shape);
  if (tensor) return tensor;
  throw new HalftoneError(
    'missing-data',
    `${subject}: expected values for input ${input.name} (${describeInput(input)}), got none; add "${input.name}" to the line`,
    { fields: { input: input.name } },
  );
}

function zeros(shape: Shape): Tensor {
  return Tensor.float32(shape, new Float32Array(shape.reduce((size, dimension) => size * dimension, 1)));
}

/** A nested array as a tensor of the input's rank. */
function tensorFrom(value: unknown, input: ValueInfo, subject: string): Tensor {
  const shape: number[] = [];
  for (let level = value; Array.isArray(level); level = level[0]) shape.push(level.length);
  const flat: number[] = [];
  flatten(value, shape, 0, flat, subject);
  const rank = input.shape.length;
  const full = shape.length === rank - 1 ? [1, ...shape] : shape;
  if (full.length !== rank) {
    throw new HalftoneError(
      'usage',
      `${subject}: expected ${describeInput(input)}, or one sample of it without the first axis, got shape [${shape.join(',')}]`,
    );
  }
  return convertTo(new Tensor('float64', full, new Uint8Array(Float64Array.from(flat).buffer)), input.dtype, subject);
}

function flatten(value: unknown, shape: Shape, axis: number, flat: number[], subject: string): void {
  if (axis === shape.length) {
    if (typeof value !== 'number' && typeof value !== 'boolean') {
      throw new HalftoneError('usage', `${subject}: expected numbers, got ${JSON.stringify(value)}`);
    }
    flat.push(Number(value));
    return;
  }
  if (!Array.isArray(value) || value.length !== shape[axis]) {
    throw new HalftoneError('usage', `${subject}: expected rows of equal length ${shape[axis]}, got a ragged array`);
  }
  for (const item of value) flatten(item, shape, axis + 1, flat, subject);
}

/** Pads the second axis with zeros to the model's fixed length, and checks the other fixed dimensions. */
function padded(tensor: Tensor, input: ValueInfo, length: number, hasMask: boolean, subject: string): Tensor {
  const [rows, found] = tensor.shape;
  const wanted = input.shape[1];
  const misfit = tensor.shape.some((dimension, axis) => {
    const want = input.shape[axis];
    return typeof want === 'number' && want >= 0 && want !== dimension;
  });
  if (!misfit) return tensor;
  const canPad = tensor.shape.length === 2 && hasMask && found === length && typeof wanted === 'number';
  if (!canPad || wanted < found || (typeof input.shape[0] === 'number' && input.shape[0] > 1)) {
    throw new HalftoneError(
      'usage',
      `${subject}: expected ${describeInput(input)}, got shape [${tensor.shape.join(',')}]; ${
        typeof wanted === 'number' && found > wanted ? 'cut the line' : 'pad the line'
      } to the model's length`,
    );
  }
  const width = tensor.bytes.length / (rows * found || 1);
  const bytes = new Uint8Array(rows * wanted * width);
  for (let row = 0; row < rows; row++) {
    bytes.set(tensor.bytes.subarray(row * found * width, (row + 1) * found * width), row * wanted * width);
  }
  return new Tensor(tensor.dtype, [rows, wanted], bytes);
}
