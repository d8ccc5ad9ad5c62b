/** Samples from JSON lines, user code and chance, and labels. */
import { describe, expect, test } from 'vitest';
import { writeNpy } from '../files/npy.ts';
import { writeNpz } from '../files/npz.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import type { DType } from '../tensor/dtype.ts';
import { Tensor } from '../tensor/tensor.ts';
import { feedSamples } from './feeds.ts';
import { jsonlSamples } from './jsonl.ts';
import { labelsOf, parseLabels } from './labels.ts';
import { randomSamples } from './random.ts';
import type { Samples } from './sample.ts';

function info(name: string, shape: readonly (number | string)[], dtype: DType = 'float32'): ValueInfo {
  return { name, shape, dtype };
}

async function all(samples: Samples): Promise<Feeds[]> {
  const found: Feeds[] = [];
  for await (const sample of samples) found.push(sample);
  return found;
}

const ids = info('input_ids', ['N', 'T'], 'int64');
const mask = info('attention_mask', ['N', 'T'], 'int64');
const positions = info('position_ids', ['N', 'T'], 'int64');
const types = info('token_type_ids', ['N', 'T'], 'int64');
const past = info('past_key_values.0.key', ['N', 4, 'past', 8]);

describe('JSON lines', () => {
  test('token ids, with what follows from them', async () => {
    const samples = jsonlSamples('[5, 6, 7]\n\n[8]\n', [ids, mask, positions, types, past], 't.jsonl');
    const found = await all(samples);
    expect(samples.count).toBe(2);
    expect(found.map((sample) => sample.input_ids.shape)).toEqual([
      [1, 3],
      [1, 1],
    ]);
    const { input_ids, attention_mask, position_ids, token_type_ids } = found[0];
    expect([input_ids, attention_mask, position_ids, token_type_ids].map((tensor) => tensor.integers())).toEqual([
      [5, 6, 7],
      [1, 1, 1],
      [0, 1, 2],
      [0, 0, 0],
    ]);
    expect([found[0]['past_key_values.0.key'].shape, found[0]['past_key_values.0.key'].dtype]).toEqual([
      [1, 4, 0, 8],
      'float32',
    ]);
  });

  test('objects, given values first, other keys ignored', async () => {
    const [sample] = await all(
      jsonlSamples('{"input_ids":[[1,2]],"attention_mask":[1,0],"label":3}', [ids, mask], 't'),
    );
    expect([sample.input_ids.shape, sample.attention_mask.integers()]).toEqual([
      [1, 2],
      [1, 0],
    ]);
  });

  test('a fixed length is padded and masked', async () => {
    const fixed = [info('input_ids', [1, 4], 'int32'), info('attention_mask', [1, 4], 'int64')];
    const [sample] = await all(jsonlSamples('[5,6]', fixed, 't'));
    expect([sample.input_ids.dtype, sample.input_ids.integers()]).toEqual(['int32', [5, 6, 0, 0]]);
    expect(sample.attention_mask.integers()).toEqual([1, 1, 0, 0]);
  });

  test.each<[string, string, readonly ValueInfo[], string]>([
    ['no JSON', '[1]\n[2', [ids], 't, line 2: expected JSON'],
    ['text', '["a"]', [ids], 't, line 1: input input_ids: expected numbers, got "a"'],
    ['ragged rows', '[[1,2],[3]]', [ids], 'expected rows of equal length 2'],
    [
      'too deep',
      '[[[1]]]',
      [ids],
      'expected int64[N,T], or one sample of it without the first axis, got shape [1,1,1]',
    ],
    ['a fraction', '[1.5]', [ids], "expected values that fit the model's int64, got 1.5"],
    [
      'a missing input',
      '[1]',
      [ids, info('pixels', ['N', 3])],
      'expected values for input pixels (float32[N,3]), got none',
    ],
    ['too long', '[1,2,3]', [info('input_ids', [1, 2], 'int64'), mask], 'cut the line'],
    ['too short without a mask', '[1]', [info('input_ids', [1, 2], 'int64')], 'pad the line'],
    [
      'a bare array for two open inputs',
      '[1]',
      [info('a', ['N', 'T'], 'int64'), info('b', ['N', 'T'], 'int64')],
      'expected an object with a, b',
    ],
  ])('%s', async (_, text, inputs, message) => {
    await expect(all(jsonlSamples(text, inputs, 't'))).rejects.toThrow(message);
  });

  test('an empty file', () => {
    expect(() => jsonlSamples('\n', [ids], 't')).toThrow('expected a sample a line, got no lines');
  });
});

describe('user code', () => {
  const x = info('x', ['N', 2]);

  test.each<[string, unknown, readonly number[], readonly number[]]>([
    ['our tensor', { x: Tensor.float32([1, 2], [1, 2]) }, [1, 2], [1, 2]],
    ['a tensor of onnxruntime', { x: { type: 'float32', dims: [1, 2], data: Float32Array.of(3, 4) } }, [1, 2], [3, 4]],
    ['its half floats', { x: { type: 'float16', dims: [1, 2], data: Uint16Array.of(0x3c00, 0x4000) } }, [1, 2], [1, 2]],
    ['dtype and shape', { x: { dtype: 'uint8', shape: [1, 2], data: Uint8Array.of(5, 6) } }, [1, 2], [5, 6]],
    ['a typed array', { x: Float64Array.of(1, 2, 3, 4) }, [2, 2], [1, 2, 3, 4]],
    ['bytes', { x: Uint8Array.of(7, 8) }, [1, 2], [7, 8]],
    ['nested numbers', { x: [[1, 2]] }, [1, 2], [1, 2]],
    ['a Map', new Map([['x', Float32Array.of(1, 2)]]), [1, 2], [1, 2]],
    ['the value alone', Float32Array.of(1, 2), [1, 2], [1, 2]],
  ])('%s', async (_, feed, shape, values) => {
    const [sample] = await all(feedSamples([feed], [x], 'm.mjs'));
    expect([sample.x.dtype, sample.x.shape, [...sample.x.floats()]]).toEqual(['float32', shape, values]);
  });

  test('functions are called afresh with the inputs, arrays read again', async () => {
    const seen: unknown[] = [];
    async function* generate(inputs: readonly ValueInfo[]): AsyncGenerator<unknown> {
      seen.push(inputs[0].name);
      yield { x: Float32Array.of(1, 2) };
    }
    const samples = feedSamples(generate, [x], 'm.mjs');
    expect([(await all(samples)).length, (await all(samples)).length, seen]).toEqual([1, 1, ['x', 'x']]);
    const list = feedSamples([Float32Array.of(1, 2)], [x], 'm.mjs');
    expect([(await all(list)).length, (await all(list)).length, list.count]).toEqual([1, 1, 1]);
  });

  test('an iterator is read once, then the user is told what to do', async () => {
    async function* generate(): AsyncGenerator<unknown> {
      yield { x: Float32Array.of(1, 2) };
    }
    const samples = feedSamples(generate(), [x], 'm.mjs');
    expect(await all(samples)).toHaveLength(1);
    await expect(all(samples)).rejects.toThrow('export the function that makes it instead');
  });

  test.each<[string, unknown, string]>([
    ['a number', [{ x: 1 }], 'input x: expected a tensor or a typed array, got number'],
    ['another name', [{ y: Float32Array.of(1, 2) }], 'expected a value for input x (float32[N,2]), got y'],
    [
      'another shape',
      [{ x: { dims: [1, 3], type: 'float32', data: new Float32Array(3) } }],
      'expected float32[N,2], got shape [1,3]',
    ],
    [
      'too few values',
      [{ x: { dims: [1, 2], type: 'float32', data: new Float32Array(3) } }],
      'expected 2 elements for shape [1,2], got 3',
    ],
    ['text', [{ x: ['a', 'b'] }], 'expected numbers'],
    [
      'an unknown type',
      [{ x: { dims: [1, 2], type: 'float7', data: new Float32Array(2) } }],
      'expected an ONNX element type, got float7',
    ],
    ['nothing', [null], 'm.mjs, sample 0: expected { input name: tensor }'],
  ])('%s is refused', async (_, source, message) => {
    await expect(all(feedSamples(source, [x], 'm.mjs'))).rejects.toThrow(message);
  });

  test('what is no source at all', () => {
    expect(() => feedSamples(5, [x], 'm.mjs')).toThrow(
      'expected a function that returns an (async) iterable of feeds, got number',
    );
  });
});

describe('random', () => {
  test('the same seed, the same samples', async () => {
    const inputs = [
      info('x', ['N', 3, 'H']),
      ids,
      mask,
      past,
      info('b', [2], 'bool'),
      info('u', ['N', 'whole + past'], 'uint8'),
    ];
    const a = await all(randomSamples(inputs, { count: 3, seed: 5 }));
    const b = await all(randomSamples(inputs, { count: 3, seed: 5 }));
    const c = await all(randomSamples(inputs, { count: 3, seed: 6 }));
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
    expect(a[0].x.equals(a[1].x)).toBe(false);
    expect(Object.values(a[0]).map((tensor) => tensor.shape)).toEqual([
      [1, 3, 16],
      [1, 16],
      [1, 16],
      [1, 4, 0, 8],
      [2],
      [1, 16],
    ]);
    expect(a[0].attention_mask.integers()).toEqual(Array(16).fill(1));
    expect(a[0].input_ids.integers().every((id) => id === 0 || id === 1)).toBe(true);
  });

  test('floats are standard normal, and the stream says that it is made up', async () => {
    const samples = randomSamples([info('x', ['N', 'n'])], { count: 1, dimensions: { n: 20000 } });
    expect([samples.synthetic, samples.count]).toEqual([true, 1]);
    const values = (await all(samples))[0].x.floats();
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(variance - 1)).toBeLessThan(0.05);
  });
});

describe('labels', () => {
  const text = (value: string): Uint8Array => new TextEncoder().encode(value);

  test.each<[string, Uint8Array, number[]]>([
    ['a.npy', writeNpy(Tensor.uint8([3], [1, 2, 3])), [1, 2, 3]],
    ['a.npy', writeNpy(Tensor.int64([2, 1], [4, 5])), [4, 5]],
    [
      'a.npz',
      writeNpz([
        ['x', Tensor.float32([2, 2], [0, 0, 0, 0])],
        ['y', Tensor.int64([2], [8, 9])],
      ]),
      [8, 9],
    ],
    ['a.json', text('[3, 4]'), [3, 4]],
    ['a.txt', text('7\n8\r\n\n9\n'), [7, 8, 9]],
    ['a.csv', text('label\n7\n8\n'), [7, 8]],
  ])('%s', (name, bytes, values) => {
    expect(parseLabels(bytes, name)).toEqual({ description: name, values });
  });

  test('by name: a csv of file and label, in any order', () => {
    const labels = parseLabels(text('file,label\nb.jpg,2\n"a.jpg",1\nc,3\n'), 'l.csv');
    const samples = { ...randomSamples([]), names: ['sub/a.jpg', 'b.jpg', 'c.png'] };
    expect(labelsOf(samples, labels)).toEqual([1, 2, 3]);
    expect(() => labelsOf({ ...samples, names: ['d.jpg'] }, labels)).toThrow('expected a label for d.jpg, got none');
    expect(() => labelsOf(randomSamples([]), labels)).toThrow('expected labels by position');
    const json = parseLabels(text('{"a": 4}'), 'l.json');
    expect(labelsOf({ ...samples, names: ['a.png'] }, json)).toEqual([4]);
  });

  test('by position: as many as samples', () => {
    const labels = parseLabels(text('[1, 2]'), 'l.json');
    expect(labelsOf(randomSamples([], { count: 2 }), labels)).toEqual([1, 2]);
    expect(() => labelsOf(randomSamples([], { count: 3 }), labels)).toThrow('expected 3 labels');
  });

  test.each<[string, Uint8Array, string]>([
    ['a.txt', text('1\ncat\n'), 'a.txt, line 2: expected a class index, got "cat"'],
    ['a.json', text('[1.5]'), 'a.json, element 0: expected a class index, got 1.5'],
    ['a.json', text('{'), 'a.json: expected JSON'],
    ['a.npy', writeNpy(Tensor.int64([2, 2], [1, 2, 3, 4])), 'expected one label a sample, got shape [2,2]'],
    [
      'a.npz',
      writeNpz([
        ['y', Tensor.int64([1], [8])],
        ['z', Tensor.int64([1], [9])],
      ]),
      'name it, as in a.npz#labels',
    ],
  ])('%s is refused', (name, bytes, message) => {
    expect(() => parseLabels(bytes, name)).toThrow(message);
  });
});
