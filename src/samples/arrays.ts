/**
 * Samples from named arrays (npy, npz): which array feeds which model input, and which part of it is one sample.
 *
 * The leading axis of an array counts its samples. With r the rank of the model input:
 * rank r: sample i is array[i:i+1]; rank r+1: sample i is array[i]; rank r-1: the array is one sample without its batch
 * axis, or, where only axes of length 1 are missing, a list of samples. A rank-0 array is the same for every sample.
 * Where the input's leading dimension is a fixed number above 1, that many consecutive items make one sample.
 */
import { HalftoneError } from '../base/errors.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import { byteLengthOf, type DType } from '../tensor/dtype.ts';
import { type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';
import { convertTo } from './convert.ts';
import type { Samples } from './sample.ts';

/** An array whose elements are read when they are needed. */
export interface StoredArray {
  readonly name: string;
  /** Undefined where it holds something that is no number. */
  readonly dtype: DType | undefined;
  /** The element type in the words of the file. */
  readonly descr: string;
  readonly shape: Shape;
  read(): Tensor | Promise<Tensor>;
}

/** How one array is cut: `count` items of shape `shape`, or one that every sample repeats. */
interface Cut {
  readonly count: number;
  readonly shape: Shape;
  /** Items of the same input are joined along axis 0 until the model's fixed batch is full. */
  readonly group: number;
  readonly constant: boolean;
}

interface Feed {
  readonly input: ValueInfo;
  readonly pieces: readonly { readonly array: StoredArray; readonly cut: Cut }[];
  readonly count: number;
  readonly group: number;
  readonly constant: boolean;
}

/**
 * Samples from one or more sets of arrays; several sets are read one after the other.
 * @param sets array name → array, in order (one set a file)
 * @param inputs the model's inputs
 * @throws HalftoneError `missing-data` when an input has no array, `usage` when a shape does not fit. Arrays that are no
 * input are listed in `ignored`.
 */
export function arraySamples(
  sets: readonly ReadonlyMap<string, StoredArray>[],
  inputs: readonly ValueInfo[],
  description: string,
): Samples {
  const feeds = inputs.map((input) => createFeed(input, sets, inputs.length === 1, description));
  const counted = feeds.filter((feed) => !feed.constant);
  const count = counted.length === 0 ? 1 : counted[0].count;
  const other = counted.find((feed) => feed.count !== count);
  if (other) {
    throw new HalftoneError(
      'usage',
      `${description}: expected as many samples for each input, got ${count} for ${counted[0].input.name} and ${other.count} for ${other.input.name}`,
    );
  }
  const used = new Set(feeds.flatMap((feed) => feed.pieces.map((piece) => piece.array)));
  const ignored = sets.flatMap((set) => [...set.values()]).filter((array) => !used.has(array));
  const notes = ignored.map((array) => `array ${describe(array)}`);
  for (const feed of counted) {
    const rest = feed.pieces.reduce((sum, piece) => sum + piece.cut.count, 0) % feed.group;
    if (rest > 0) notes.push(`the last ${rest} of ${feed.input.name}: the model takes ${feed.group} at a time`);
  }
  return {
    description,
    count,
    ignored: notes,
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      const streams = feeds.map((feed) => readFeed(feed, description));
      for (let i = 0; i < count; i++) {
        const sample: Record<string, Tensor> = Object.create(null);
        for (let f = 0; f < feeds.length; f++) sample[feeds[f].input.name] = (await streams[f].next()).value as Tensor;
        yield sample;
      }
    },
  };
}

async function* readFeed(feed: Feed, description: string): AsyncGenerator<Tensor> {
  const { input, group, constant } = feed;
  const subject = `${description}: input ${input.name}`;
  let pending: Tensor[] = [];
  for (const { array, cut } of feed.pieces) {
    const tensor = await array.read();
    const size = sizeOf(cut.shape);
    const width = byteLengthOf(tensor.dtype, size);
    for (let i = 0; constant || i < cut.count; i++) {
      const from = constant ? 0 : i * width;
      const item = new Tensor(tensor.dtype, cut.shape, tensor.bytes.subarray(from, from + width));
      pending.push(convertTo(item, input.dtype, `${subject}, sample ${i}`));
      if (pending.length < group) continue;
      yield concatenated(pending);
      pending = [];
    }
  }
}

/** Tensors of one type and equal trailing dimensions, joined along axis 0. */
export function concatenated(tensors: readonly Tensor[]): Tensor {
  const [first] = tensors;
  // A single one may be a scalar, which has no axis to be joined along.
  if (tensors.length === 1) return first;
  const bytes = new Uint8Array(tensors.reduce((sum, tensor) => sum + tensor.bytes.length, 0));
  let at = 0;
  let rows = 0;
  for (const tensor of tensors) {
    bytes.set(tensor.bytes, at);
    at += tensor.bytes.length;
    rows += tensor.shape[0];
  }
  return new Tensor(first.dtype, [rows, ...first.shape.slice(1)], bytes);
}

function createFeed(
  input: ValueInfo,
  sets: readonly ReadonlyMap<string, StoredArray>[],
  only: boolean,
  description: string,
): Feed {
  const arrays = sets.flatMap((set) => findArrays(input, set, only, description));
  const pieces = arrays.map((array) => {
    const cut = cutOf(input.shape, array.shape);
    if (cut && array.dtype !== undefined) return { array, cut };
    throw new HalftoneError(
      'usage',
      `${description}: input ${input.name}: expected ${describeInput(input)} with samples along the first axis, got array ${describe(array)}`,
      { fields: { input: input.name, array: array.name } },
    );
  });
  const group = pieces[0].cut.group;
  const items = pieces.reduce((sum, piece) => sum + piece.cut.count, 0);
  const constant = pieces.every((piece) => piece.cut.constant);
  if (!constant && items < group) {
    throw new HalftoneError(
      'missing-data',
      `${description}: input ${input.name}: expected at least ${group} items, the model's fixed batch, got ${items}`,
    );
  }
  return { input, pieces, count: Math.floor(items / group), group, constant };
}

/** The array of this name; for a model with one input also the only one that fits, or a numbered list (`f0`, `f1`, …). */
function findArrays(
  input: ValueInfo,
  set: ReadonlyMap<string, StoredArray>,
  only: boolean,
  description: string,
): readonly StoredArray[] {
  const named = set.get(input.name) ?? set.get(input.name.replace(/[/:\\]/g, '_'));
  if (named) return [named];
  const all = [...set.values()];
  const fitting = only ? all.filter((array) => array.dtype !== undefined && cutOf(input.shape, array.shape)) : [];
  const found = fitting.length > 0 ? fitting : only && all.length === 1 ? all : [];
  const list = numberedList(found);
  if (list) return list;
  const names = all.map(describe).join(', ') || 'none';
  throw new HalftoneError(
    'missing-data',
    found.length > 1
      ? `${description}: expected one array for input ${input.name} (${describeInput(input)}), got ${found.map(describe).join(', ')}; name it, as in ${description}#${found[0].name}`
      : `${description}: expected an array named ${input.name} (${describeInput(input)}), got ${names}; save it under that name`,
    { fields: { input: input.name, arrays: all.map((array) => array.name) } },
  );
}

function numberedList(arrays: readonly StoredArray[]): readonly StoredArray[] | undefined {
  if (arrays.length === 1) return arrays;
  const parts = arrays.map((array) => ({ array, match: /^(.*?)(\d+)$/.exec(array.name) }));
  const stem = parts[0]?.match?.[1];
  if (stem === undefined || parts.some((part) => part.match?.[1] !== stem)) return undefined;
  return parts.sort((a, b) => Number(a.match?.[2]) - Number(b.match?.[2])).map((part) => part.array);
}

function isFixed(dimension: number | string | undefined): dimension is number {
  return typeof dimension === 'number' && dimension >= 0;
}

function fits(shape: Shape, wanted: readonly (number | string)[]): boolean {
  return shape.length === wanted.length && wanted.every((want, i) => !isFixed(want) || want === shape[i]);
}

function cutOf(wanted: readonly (number | string)[], shape: Shape): Cut | undefined {
  const [leading, ...rest] = wanted;
  const group = isFixed(leading) && leading > 1 ? leading : 1;
  const plain = { group, constant: false };
  if (wanted.length === 0) {
    // A scalar input, or one whose rank the model does not tell.
    if (shape.length === 0) return { count: 1, shape, group: 1, constant: true };
    if (shape.length === 1) return { count: shape[0], shape: [], group: 1, constant: false };
    return { count: shape[0], shape: [1, ...shape.slice(1)], group: 1, constant: false };
  }
  if (shape.length === wanted.length) {
    return fits(shape.slice(1), rest) ? { ...plain, count: shape[0], shape: [1, ...shape.slice(1)] } : undefined;
  }
  if (shape.length === wanted.length + 1) {
    return fits(shape.slice(1), wanted)
      ? { count: shape[0], shape: shape.slice(1), group: 1, constant: false }
      : undefined;
  }
  if (shape.length !== rest.length) return undefined;
  if (fits(shape, rest)) return { ...plain, count: 1, shape: [1, ...shape] };
  const axis = rest.indexOf(1);
  const squeezed = rest.filter((_, i) => i !== axis);
  if (axis < 0 || !fits(shape.slice(1), squeezed)) return undefined;
  return { ...plain, count: shape[0], shape: [1, ...shape.slice(1, axis + 1), 1, ...shape.slice(axis + 1)] };
}

function describe(array: StoredArray): string {
  return `${array.name} (${array.dtype ?? array.descr}[${array.shape.join(',')}])`;
}

/** An input's type and shape in words, symbolic dimensions by name. */
export function describeInput(input: ValueInfo): string {
  const dimensions = input.shape.map((dimension) => (dimension === -1 || dimension === '' ? '?' : dimension));
  return `${input.dtype}[${dimensions.join(',')}]`;
}
