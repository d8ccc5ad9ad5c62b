/** Which array feeds which input, and how it is cut into samples; conversions; selections of samples. */
import { describe, expect, test } from 'vitest';
import { type NpzArray, readNpz, writeNpz } from '../files/npz.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import type { DType } from '../tensor/dtype.ts';
import { Tensor } from '../tensor/tensor.ts';
import { arraySamples } from './arrays.ts';
import { convertTo } from './convert.ts';
import type { Samples } from './sample.ts';
import { batches, isHeldOut, split, take } from './select.ts';

function info(name: string, shape: readonly (number | string)[], dtype: DType = 'float32'): ValueInfo {
  return { name, shape, dtype };
}

function counting(shape: readonly number[]): Tensor {
  return Tensor.float32(
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i),
  );
}

function stored(arrays: Readonly<Record<string, Tensor>>): ReadonlyMap<string, NpzArray> {
  return readNpz(writeNpz(Object.entries(arrays)));
}

async function all(samples: Samples): Promise<Feeds[]> {
  const found: Feeds[] = [];
  for await (const sample of samples) found.push(sample);
  return found;
}

/** Shape and first value of each sample's input. */
async function outline(samples: Samples, input: string): Promise<[readonly number[], number][]> {
  return (await all(samples)).map((sample) => [sample[input].shape, sample[input].floats()[0]]);
}

describe('one input', () => {
  test.each<[string, readonly (number | string)[], readonly number[], [readonly number[], number][]]>([
    [
      'the leading axis is the batch',
      ['N', 2],
      [3, 2],
      [
        [[1, 2], 0],
        [[1, 2], 2],
        [[1, 2], 4],
      ],
    ],
    [
      'a batch without a name',
      [-1, 2],
      [2, 2],
      [
        [[1, 2], 0],
        [[1, 2], 2],
      ],
    ],
    [
      'an axis of samples before the batch',
      ['N', 2],
      [2, 3, 2],
      [
        [[3, 2], 0],
        [[3, 2], 6],
      ],
    ],
    ['a whole sample without its batch axis', ['N', 'T', 2], [3, 2], [[[1, 3, 2], 0]]],
    [
      'a missing channel axis',
      ['N', 1, 2, 2],
      [3, 2, 2],
      [
        [[1, 1, 2, 2], 0],
        [[1, 1, 2, 2], 4],
        [[1, 1, 2, 2], 8],
      ],
    ],
    [
      'a missing last axis',
      ['N', 2, 1],
      [2, 2],
      [
        [[1, 2, 1], 0],
        [[1, 2, 1], 2],
      ],
    ],
    [
      'a fixed batch of 2, the rest left out',
      [2, 2],
      [5, 2],
      [
        [[2, 2], 0],
        [[2, 2], 4],
      ],
    ],
    [
      'scalars',
      [],
      [3],
      [
        [[], 0],
        [[], 1],
        [[], 2],
      ],
    ],
    [
      'one axis',
      ['N'],
      [2],
      [
        [[1], 0],
        [[1], 1],
      ],
    ],
  ])('%s', async (_, wanted, shape, expected) => {
    const samples = arraySamples([stored({ x: counting(shape) })], [info('x', wanted)], 'data');
    expect(await outline(samples, 'x')).toEqual(expected);
    expect(await outline(samples, 'x')).toEqual(expected);
    expect(samples.count).toBe(expected.length);
  });

  test('several sets follow each other; a fixed batch spans them', async () => {
    const sets = [stored({ x: counting([3, 2]) }), stored({ x: counting([3, 2]) })];
    expect(await outline(arraySamples(sets, [info('x', ['N', 2])], 'data'), 'x')).toHaveLength(6);
    const fixed = await all(arraySamples(sets, [info('x', [2, 2])], 'data'));
    expect(fixed.map((sample) => [...sample.x.floats()])).toEqual([
      [0, 1, 2, 3],
      [4, 5, 0, 1],
      [2, 3, 4, 5],
    ]);
  });

  test('any name will do where one array fits; numbered arrays are samples in numeric order', async () => {
    const images = stored({ images: counting([2, 3]), labels: Tensor.int64([2], [1, 2]) });
    const samples = arraySamples([images], [info('x', ['N', 3])], 'data');
    expect(samples.count).toBe(2);
    expect(samples.ignored).toEqual(['array labels (int64[2])']);
    const list = stored({ f0: counting([2, 3]), f10: counting([4, 3]), f2: counting([3, 3]) });
    const found = await all(arraySamples([list], [info('x', ['N', 'T', 3])], 'data'));
    expect(found.map((sample) => sample.x.shape)).toEqual([
      [1, 2, 3],
      [1, 3, 3],
      [1, 4, 3],
    ]);
  });

  test('stored types become the type of the model, unscaled', async () => {
    const bytes = stored({ x: Tensor.uint8([1, 3], [0, 127, 255]) });
    const [sample] = await all(arraySamples([bytes], [info('x', ['N', 3])], 'data'));
    expect([sample.x.dtype, [...sample.x.floats()]]).toEqual(['float32', [0, 127, 255]]);
  });
});

describe('several inputs', () => {
  test('are read side by side; a scalar is the same for all', async () => {
    const set = stored({ a: counting([2, 2]), b: Tensor.int64([2], [7, 8]), rate: Tensor.int64([], [16000]) });
    const inputs = [info('a', ['N', 2]), info('b', ['N'], 'int64'), info('rate', [], 'int64')];
    const found = await all(arraySamples([set], inputs, 'data'));
    expect(found.map((sample) => [sample.b.integers(), sample.rate.integers()])).toEqual([
      [[7], [16000]],
      [[8], [16000]],
    ]);
  });

  test.each([
    ['a missing input', { a: counting([2, 2]) }, 'expected an array named b (int64[N]), got a (float32[2,2])'],
    [
      'unequal counts',
      { a: counting([2, 2]), b: Tensor.int64([3], [1, 2, 3]) },
      'expected as many samples for each input, got 2 for a and 3 for b',
    ],
    [
      'a wrong dimension',
      { a: counting([2, 3]), b: Tensor.int64([2], [1, 2]) },
      'input a: expected float32[N,2] with samples along the first axis, got array a (float32[2,3])',
    ],
    [
      'a wrong rank',
      { a: counting([2]), b: Tensor.int64([2, 1, 1], [1, 2]) },
      'input b: expected int64[N] with samples along the first axis, got array b (int64[2,1,1])',
    ],
  ])('%s is an error', (_, arrays, message) => {
    const inputs = [info('a', ['N', 2]), info('b', ['N'], 'int64')];
    expect(() => arraySamples([stored(arrays as Record<string, Tensor>)], inputs, 'data')).toThrow(message);
  });

  test('two arrays that fit are not guessed between', () => {
    const set = stored({ train: counting([2, 2]), test: counting([2, 2]) });
    expect(() => arraySamples([set], [info('x', ['N', 2])], 'd.npz')).toThrow('name it, as in d.npz#train');
    expect(() => arraySamples([stored({ x: counting([1, 2]) })], [info('x', [2, 2])], 'd.npz')).toThrow(
      "expected at least 2 items, the model's fixed batch, got 1",
    );
  });
});

describe('convertTo', () => {
  test.each<[DType, DType, number[], number[]]>([
    ['float32', 'int64', [-3, 4], [-3, 4]],
    ['float32', 'uint8', [0, 255], [0, 255]],
    ['float32', 'float16', [0.1, 65504], [0.0999755859375, 65504]],
    ['float32', 'bfloat16', [1.00390625], [1]],
    ['float32', 'bool', [0, 1], [0, 1]],
    ['int64', 'float32', [5, -6], [5, -6]],
    ['int64', 'int32', [5, -6], [5, -6]],
    ['int64', 'uint64', [5, 6], [5, 6]],
    ['float32', 'int8', [-128, 127], [-128, 127]],
    ['float32', 'uint16', [65535], [65535]],
    ['float32', 'int16', [-32768], [-32768]],
  ])('%s as %s', (from, to, values, expected) => {
    const source = from === 'int64' ? Tensor.int64([values.length], values) : Tensor.float32([values.length], values);
    const converted = convertTo(source, to, 'x');
    expect(converted.dtype).toBe(to);
    expect(to === 'uint64' ? converted.integers() : [...converted.floats()]).toEqual(expected);
  });

  test.each<[DType, number, string]>([
    ['int64', 0.5, "expected values that fit the model's int64, got 0.5 at element 0"],
    ['uint8', 256, '256 at element 0'],
    ['int8', -129, '-129 at element 0'],
    ['int32', Number.NaN, 'NaN at element 0'],
    ['string', 1, 'expected a model input of numbers'],
  ])('%s cannot hold %s', (dtype, value, message) => {
    expect(() => convertTo(Tensor.float32([1], [value]), dtype, 'x')).toThrow(message);
  });

  test('64-bit integers keep their last digit', () => {
    const big = Tensor.int64([1], [2n ** 62n + 1n]);
    expect(convertTo(big, 'uint64', 'x').bigints()[0]).toBe(2n ** 62n + 1n);
    expect(() => convertTo(Tensor.int64([1], [-1]), 'uint64', 'x')).toThrow('-1 at element 0');
  });
});

describe('selections', () => {
  const ten = arraySamples([stored({ x: counting([10, 1]) })], [info('x', ['N', 1])], 'data');
  const values = async (samples: Samples): Promise<number[]> =>
    (await all(samples)).flatMap((sample) => [...sample.x.floats()]);

  test('take', async () => {
    expect(await values(take(ten, 3))).toEqual([0, 1, 2]);
    expect(take(ten, 3).count).toBe(3);
    expect(take(ten, 30).count).toBe(10);
    expect(await values(take(ten, 0))).toEqual([]);
    expect(() => take(ten, -1)).toThrow('expected a whole number from 0, got -1');
  });

  test('split holds out every fourth, with its name', async () => {
    const named = { ...ten, names: Array.from({ length: 10 }, (_, i) => `n${i}`) };
    const { calibration, heldOut } = split(named);
    expect(await values(heldOut)).toEqual([3, 7]);
    expect(await values(calibration)).toEqual([0, 1, 2, 4, 5, 6, 8, 9]);
    expect([heldOut.names, heldOut.count, calibration.count]).toEqual([['n3', 'n7'], 2, 8]);
    expect(await values(split(ten, { every: 2 }).heldOut)).toEqual([1, 3, 5, 7, 9]);
    expect([3, 4].map((index) => isHeldOut(index))).toEqual([true, false]);
    expect(() => split(ten, { every: 1 })).toThrow('expected a whole number from 2');
  });

  test('batches join equal shapes', async () => {
    expect((await all(batches(ten, 4))).map((batch) => batch.x.shape)).toEqual([
      [4, 1],
      [4, 1],
      [2, 1],
    ]);
    expect(await values(batches(ten, 4))).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const list = stored({ f0: counting([2, 3]), f1: counting([2, 3]), f2: counting([3, 3]) });
    const ragged = arraySamples([list], [info('x', ['N', 'T', 3])], 'data');
    expect((await all(batches(ragged, 4))).map((batch) => batch.x.shape)).toEqual([
      [2, 2, 3],
      [1, 3, 3],
    ]);
    expect(batches(ten, 1)).toBe(ten);
  });
});
