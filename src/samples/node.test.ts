/** Samples from paths: every kind of data, as the command line gives it. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isHalftoneError } from '../base/errors.ts';
import { writeNpy } from '../files/npy.ts';
import { writeNpz } from '../files/npz.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { moduleError, openSamples, readLabels } from './node.ts';
import type { Samples } from './sample.ts';

const digits = fileURLToPath(new URL('../../examples/digits/digits.npz', import.meta.url));
const image: ValueInfo = { name: 'image', dtype: 'float32', shape: ['N', 1, 28, 28] };
const pair: readonly ValueInfo[] = [
  { name: 'a', dtype: 'float32', shape: ['N', 2] },
  { name: 'b', dtype: 'int64', shape: ['N'] },
];
const x: ValueInfo = { name: 'x', dtype: 'float32', shape: ['N', 2] };
const folder = await mkdtemp(join(tmpdir(), 'halftone-samples-'));
const at = (name: string): string => join(folder, name);

async function all(samples: Samples): Promise<Feeds[]> {
  const found: Feeds[] = [];
  for await (const sample of samples) found.push(sample);
  return found;
}

const png = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAUAAAAECAIAAADJUWIXAAAAI0lEQVR4nGNkMM1SRQKMqbPO6yABxlP/TYyRAKN+ykwrJAAAuz8Og0VM0FgAAAAASUVORK5CYII=',
  'base64',
);

beforeAll(async () => {
  for (const name of ['arrays', 'parts', 'pictures/cat', 'empty']) await mkdir(at(name), { recursive: true });
  const a = Tensor.float32([2, 2], [1, 2, 3, 4]);
  const b = Tensor.uint8([2], [5, 6]);
  await writeFile(at('arrays/a.npy'), writeNpy(a));
  await writeFile(at('arrays/b.npy'), writeNpy(b));
  await writeFile(at('arrays/readme.txt'), 'hello');
  await writeFile(at('parts/2.npz'), writeNpz([['x', Tensor.float32([1, 2], [5, 6])]]));
  await writeFile(at('parts/1.npz'), writeNpz([['x', a]], { compress: true }));
  await writeFile(at('pictures/b.png'), png);
  await writeFile(at('pictures/cat/a.PNG'), png);
  await writeFile(at('pictures/.hidden.png'), 'no picture');
  await writeFile(at('ids.jsonl'), '[1, 2]\n[3]\n');
  await writeFile(
    at('feeds.mjs'),
    'export default async function* (inputs) { yield { [inputs[0].name]: Float32Array.of(1, 2) }; }',
  );
  await writeFile(at('bare.mjs'), 'export const feeds = [];');
  await writeFile(at('broken.mjs'), 'import "./nowhere.mjs";');
  await writeFile(at('config.json'), '{"do_resize": false}');
  await writeFile(at('broken.json'), '{');
});
afterAll(() => rm(folder, { recursive: true }));

describe('openSamples', () => {
  test('one array of an npz, and its labels', async () => {
    const samples = await openSamples(`${digits}#test_images`, [image], { limit: 5 });
    const found = await all(samples);
    expect([samples.count, found.length, found[0].image.dtype, found[0].image.shape]).toEqual([
      5,
      5,
      'float32',
      [1, 1, 28, 28],
    ]);
    expect(Math.max(...found[0].image.floats())).toBeGreaterThan(100);
    expect((await readLabels(digits)).values).toHaveLength(1000);
    expect((await readLabels(`${digits}#test_labels`)).values.every((label) => label >= 0 && label <= 9)).toBe(true);
    await expect(openSamples(digits, [image])).rejects.toThrow(`name it, as in ${digits}#calibration`);
    await expect(openSamples(`${digits}#train`, [image])).rejects.toThrow(
      'expected an array named train, got calibration',
    );
  });

  test('a folder of npy files, one an input', async () => {
    const found = await all(await openSamples(at('arrays'), pair));
    expect(found.map((sample) => [[...sample.a.floats()], sample.b.integers()])).toEqual([
      [[1, 2], [5]],
      [[3, 4], [6]],
    ]);
  });

  test('a single npy, whatever its name', async () => {
    expect(await all(await openSamples(at('arrays/a.npy'), [x]))).toHaveLength(2);
  });

  test('a folder of npz files, in the order of their names; or some of them', async () => {
    const values = async (data: string): Promise<number[]> =>
      (await all(await openSamples(data, [x]))).flatMap((sample) => [...sample.x.floats()]);
    expect(await values(at('parts'))).toEqual([1, 2, 3, 4, 5, 6]);
    expect(await values(at('parts/2*'))).toEqual([5, 6]);
  });

  test('a folder of pictures and its subfolders', async () => {
    const input: ValueInfo = { name: 'p', dtype: 'float32', shape: ['N', 3, 'h', 'w'] };
    const samples = await openSamples(at('pictures'), [input], { preprocess: at('config.json') });
    expect(samples.names).toEqual(['b.png', 'cat/a.PNG']);
    expect((await all(samples)).map((sample) => sample.p.shape)).toEqual([
      [1, 3, 4, 5],
      [1, 3, 4, 5],
    ]);
    await expect(openSamples(at('pictures'), [input])).rejects.toThrow('expected --preprocess FILE');
    await expect(openSamples(at('pictures'), [input], { preprocess: at('broken.json') })).rejects.toThrow(
      'expected JSON',
    );
    await expect(openSamples(at('pictures'), [input], { preprocess: at('none.json') })).rejects.toThrow(
      'expected a readable file',
    );
    await expect(openSamples(at('pictures'), pair, { preprocess: at('config.json') })).rejects.toThrow(
      'one image input',
    );
  });

  test('JSON lines, modules and chance', async () => {
    const ids: ValueInfo = { name: 'input_ids', dtype: 'int64', shape: ['N', 'T'] };
    expect((await all(await openSamples(at('ids.jsonl'), [ids]))).map((sample) => sample.input_ids.shape)).toEqual([
      [1, 2],
      [1, 1],
    ]);
    const module = await openSamples(at('feeds.mjs'), [x]);
    expect([...(await all(module))[0].x.floats(), (await all(module)).length]).toEqual([1, 2, 1]);
    const random = await openSamples('random', [x], { limit: 3 });
    expect([(await all(random)).length, random.synthetic]).toEqual([3, true]);
  });

  test.each([
    ['nowhere', 'expected a .npz, .npy, .jsonl or .js/.mjs file, a folder of'],
    ['arrays/readme.txt', 'got a file ending in .txt'],
    ['empty', 'got 0 files, none of them such'],
    ['parts/9*', 'got 0 files, none of them such'],
    ['bare.mjs', 'expected a default export, got feeds'],
    ['broken.mjs', 'broken.mjs: expected a module that loads'],
  ])('%s is refused', async (name, message) => {
    const error = await openSamples(at(name), [x]).catch((caught: unknown) => caught);
    expect(isHalftoneError(error)).toBe(true);
    expect((error as Error).message).toContain(message);
  });

  test('TypeScript on a Node that cannot strip types', () => {
    const error = moduleError(
      Object.assign(new Error('Unknown file extension'), { code: 'ERR_UNKNOWN_FILE_EXTENSION' }),
      'f.ts',
    );
    expect(error.code).toBe('unsupported');
    expect(error.message).toContain('expected JavaScript, or TypeScript on Node 22.18 or later');
  });
});
