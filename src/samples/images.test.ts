/** Pictures: decoding and resizing against Pillow 12.3 (checksums of its pixels), preprocessing, damage, a real model. */
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { isHalftoneError } from '../base/errors.ts';
import { createRandom } from '../base/random.ts';
import { crc32 } from '../files/zip.ts';
import { openRuntime } from '../runtime/node.ts';
import type { ValueInfo } from '../runtime/runtime.ts';
import { imageSamples } from './images.ts';
import { nodeImageDecoder, openSamples } from './node.ts';
import { imageLayout, parsePreprocessing, preprocess, reframe } from './preprocess.ts';
import { type Picture, resize } from './resize.ts';

/** The same pattern that the Pillow script drew. */
function pattern(width: number, height: number): Picture {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) data[(y * width + x) * 3 + c] = (x * 37 + y * 101 + c * 53 + x * y * 7) % 256;
    }
  }
  return { width, height, channels: 3, data };
}

const small = pattern(9, 7);

test.each([
  [0, 5, 4, 8342258],
  [0, 13, 11, 2878393173],
  [0, 9, 3, 3461569609],
  [1, 5, 4, 363571960],
  [1, 13, 11, 2284274089],
  [1, 9, 3, 577992247],
  [2, 5, 4, 2299971615],
  [2, 13, 11, 2192544915],
  [2, 9, 3, 554894349],
  [3, 5, 4, 4206690028],
  [3, 13, 11, 2466798085],
  [3, 9, 3, 1859984464],
  [4, 5, 4, 201857882],
  [4, 9, 3, 1661386171],
  [5, 5, 4, 1603163495],
  [5, 13, 11, 3564629467],
])('filter %i to %i×%i gives the pixels of PIL.Image.resize', (filter, width, height, checksum) => {
  expect(crc32(resize(small, width, height, filter).data)).toBe(checksum);
});

test.each([
  [0, 1905816802],
  [1, 3106141657],
  [2, 1923596666],
  [3, 1405289442],
  [4, 2904850996],
  [5, 3432005798],
])('filter %i shrinks 301×203 to 224×150 as PIL does', (filter, checksum) => {
  expect(crc32(resize(pattern(301, 203), 224, 150, filter).data)).toBe(checksum);
});

const decode = nodeImageDecoder();

function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'));
}

const rgbPng =
  'iVBORw0KGgoAAAANSUhEUgAAAAUAAAAECAIAAADJUWIXAAAAI0lEQVR4nGNkMM1SRQKMqbPO6yABxlP/TYyRAKN+ykwrJAAAuz8Og0VM0FgAAAAASUVORK5CYII=';
const rgbJpeg =
  '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/wAARCAAQABADASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwCy8E0F1caZNodtB4feKWGSwtiILZI4ZN0mYwHiDxgLuE8cyx7wJJ0YABmq3dp5Vjb6jpdjJp0jNqFxoNzLJbRzJDiUssTlTaXEcbpJsTETxyfIT8wpuq3sJh87THOmx2a+ZLdF1iOYwvzuyZCbQY9uzIRXj8sOjot/nX/n3Mk1haz+Vd2jxJbOgZIbPy9zpjBkTy1m89/3Z2iOO+jQlFQ1jBOrOUpJqSd2mpXVratPmaTvzWv5pqSizGhUjVm5UVZRetrx1ta0Xry6WSfxRtqnc//Z';
const grayJpeg =
  '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/wAALCAAQABABAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/ALLwTQXVxpk2h20Hh94pYZLC2Igtkjhk3SZjAeIPGAu4TxzLHvAknRgAGard2nlWNvqOl2MmnSM2oXGg3MsltHMkOJSyxOVNpcRxukmxMRPHJ8hPzCm6rewmHztMc6bHZr5kt0XWI5jC/O7JkJtBj27MhFePyw6Oi3+df+fcyTWFrP5V3aPEls6Bkhs/L3OmMGRPLWbz3/dnaI476NCUVDX/2Q==';

describe('decoding', () => {
  test.each([
    ['RGB PNG', rgbPng, 5, 4, 3891973714],
    [
      'RGBA PNG',
      'iVBORw0KGgoAAAANSUhEUgAAAAUAAAAECAYAAABGM/VAAAAAM0lEQVR4nGNkMM36r6qqyoCMGVNnnf+vo6PDgIwZT/03+W9sbMyAjBn1U2b+t7KyYkDGAA75En9z0+3hAAAAAElFTkSuQmCC',
      5,
      4,
      3891973714,
    ],
    [
      'gray PNG',
      'iVBORw0KGgoAAAANSUhEUgAAAAUAAAAECAAAAABjWKqcAAAAIUlEQVR4nGPUVlVVVWWcoMM/7T7jjbnPjMUYo6xkl7wFAE+rB+pDo0qKAAAAAElFTkSuQmCC',
      5,
      4,
      4098419224,
    ],
    [
      'palette PNG',
      'iVBORw0KGgoAAAANSUhEUgAAAAUAAAAEBAMAAAC0HehzAAAAGFBMVEWw5RqTyP1qn9RXjMHsIVYwZZobUIUANWpCERAGAAAAGElEQVR4nGMoMxJgUGRJYGAJYmAIYkkAABLfAkqHrLcxAAAAAElFTkSuQmCC',
      5,
      4,
      2915897382,
    ],
    [
      '1-bit PNG',
      'iVBORw0KGgoAAAANSUhEUgAAAAUAAAAEAQAAAABuSMjtAAAAEElEQVR4nGPQYHjAtIPpBAAIfAKNWPE/EQAAAABJRU5ErkJggg==',
      5,
      4,
      959922815,
    ],
    ['RGB JPEG', rgbJpeg, 16, 16, 1036878441],
    ['gray JPEG', grayJpeg, 16, 16, 2001490969],
  ])('%s gives the pixels of PIL.Image.open', async (_, text, width, height, checksum) => {
    const picture = await decode(fromBase64(text), 'x');
    expect([picture.width, picture.height, picture.channels, crc32(picture.data)]).toEqual([
      width,
      height,
      3,
      checksum,
    ]);
  });

  test('damaged pictures give a HalftoneError or pixels, and the decoder goes on working', async () => {
    const random = createRandom(4);
    let refused = 0;
    for (const text of [rgbPng, rgbJpeg]) {
      const whole = fromBase64(text);
      // The last 20 bytes of a PNG hold no pixels.
      const cuts = Array.from({ length: 40 }, (_, i) => whole.subarray(0, Math.floor((i * (whole.length - 20)) / 40)));
      const flips = Array.from({ length: 60 }, () => {
        const bytes = whole.slice();
        bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
        return bytes;
      });
      for (const bytes of [...cuts, ...flips]) {
        await decode(bytes, 'x').catch((error: unknown) => {
          if (!isHalftoneError(error)) throw error;
          refused += 1;
        });
      }
      for (const bytes of cuts) await expect(decode(bytes, 'x')).rejects.toThrow('x: expected');
    }
    expect(refused).toBeGreaterThan(80);
    expect(crc32((await decode(fromBase64(rgbPng), 'x')).data)).toBe(3891973714);
    expect(crc32((await decode(fromBase64(rgbJpeg), 'x')).data)).toBe(1036878441);
  });

  test('sizes are bounded before anything is decoded, other formats named', async () => {
    const bomb = fromBase64(rgbPng);
    new DataView(bomb.buffer).setUint32(16, 1_000_000);
    new DataView(bomb.buffer).setUint32(20, 1_000_000);
    await expect(decode(bomb, 'bomb.png')).rejects.toThrow('expected at most 67108864 pixels, got 1000000×1000000');
    await expect(decode(Uint8Array.from(Buffer.from('GIF89a')), 'a.gif')).rejects.toThrow(
      'expected a JPEG or PNG picture',
    );
  });
});

function input(shape: readonly (number | string)[]): ValueInfo {
  return { name: 'x', dtype: 'float32', shape };
}

describe('preprocessing', () => {
  const plain = { do_resize: false, do_rescale: false };

  test('layouts', () => {
    expect(imageLayout(input(['N', 3, 224, 224]))).toEqual({ channels: 3, channelsLast: false, batched: true });
    expect(imageLayout(input([1, 'h', 'w', 3]))).toEqual({ channels: 3, channelsLast: true, batched: true });
    expect(imageLayout(input([28, 28, 1]))).toEqual({ channels: 1, channelsLast: true, batched: false });
    expect(imageLayout(input(['N', 1, 28, 28])).channels).toBe(1);
    expect(() => imageLayout(input(['N', 10]))).toThrow('expected an image input');
    expect(() => imageLayout(input(['N', 4, 8, 8]))).toThrow('got float32[N,4,8,8]');
  });

  test('planes, interleaved, reversed, normalized', () => {
    const picture: Picture = { width: 2, height: 1, channels: 3, data: Uint8Array.of(10, 20, 30, 40, 50, 60) };
    const values = (config: object, shape: readonly (number | string)[]): number[] => [
      ...preprocess(picture, parsePreprocessing(config), input(shape), 'p').floats(),
    ];
    expect(values(plain, ['N', 3, 1, 2])).toEqual([10, 40, 20, 50, 30, 60]);
    expect(values(plain, ['N', 1, 2, 3])).toEqual([10, 20, 30, 40, 50, 60]);
    expect(values({ ...plain, do_flip_channel_order: true }, [1, 2, 3])).toEqual([30, 20, 10, 60, 50, 40]);
    const normalized = { ...plain, image_mean: [10, 20, 30], image_std: [2, 5, 10] };
    expect(values(normalized, ['N', 3, 1, 2])).toEqual([0, 15, 0, 6, 0, 3]);
    expect(values({ ...plain, do_rescale: true }, ['N', 1, 2, 3])[0]).toBe(Math.fround(10 / 255));
    const offset = { do_resize: false, rescale_factor: 1 / 127.5, rescale_offset: true };
    expect(values(offset, ['N', 1, 2, 3])[5]).toBe(Math.fround(60 / 127.5 - 1));
    // Pillow: Image.new('RGB', …).convert('L')
    expect(values(plain, ['N', 1, 1, 2])).toEqual([18, 48]);
  });

  test.each<[string, object, number, number]>([
    ['a number is a square for most processors', { size: 4, image_processor_type: 'ViTImageProcessor' }, 4, 4],
    ['and the shorter edge for some', { size: 4, image_processor_type: 'CLIPImageProcessor' }, 4, 5],
    ['height and width', { size: { height: 3, width: 5 } }, 3, 5],
    ['the shorter edge', { size: { shortest_edge: 14 } }, 14, 18],
    ['the shorter edge, bounded', { size: { shortest_edge: 14, longest_edge: 9 } }, 7, 9],
    ['resize and crop', { size: { shortest_edge: 14 }, crop_size: 12 }, 12, 12],
    ['crop alone', { crop_size: { height: 3, width: 4 } }, 3, 4],
    ['crop_pct', { size: { shortest_edge: 6 }, crop_pct: 0.5, resample: 3 }, 6, 6],
    ['ConvNext without crop_pct', { size: 6, image_processor_type: 'ConvNextImageProcessor' }, 6, 6],
    ['crop_pct from 384 on', { size: { shortest_edge: 384 }, crop_pct: 0.875 }, 384, 384],
    ['timm', { input_size: [3, 6, 6], crop_pct: 0.875, interpolation: 'bicubic', mean: [0.5], std: [0.5] }, 6, 6],
    ['nothing', {}, 7, 9],
    ['switched off', { do_resize: false, size: 4, do_center_crop: false, crop_size: 3 }, 7, 9],
  ])('%s', (_, config, height, width) => {
    const framed = reframe(small, parsePreprocessing(config));
    expect([framed.height, framed.width]).toEqual([height, width]);
  });

  test('the centre is cut as transformers cuts it, and padded with black', () => {
    const gray = (width: number, height: number): Picture => ({
      width,
      height,
      channels: 1,
      data: Uint8Array.from({ length: width * height }, (_, i) => i + 1),
    });
    const crop = (picture: Picture, size: number): number[] => [
      ...reframe(picture, parsePreprocessing({ crop_size: size })).data,
    ];
    expect(crop(gray(4, 3), 2)).toEqual([2, 3, 6, 7]);
    expect(crop(gray(5, 5), 3)).toEqual([7, 8, 9, 12, 13, 14, 17, 18, 19]);
    expect(crop(gray(1, 1), 2)).toEqual([0, 0, 0, 1]);
    expect(crop(gray(4, 2), 3)).toEqual([0, 0, 0, 1, 2, 3, 5, 6, 7]);
  });

  test.each<[unknown, string]>([
    [{ size: 'big' }, 'size: expected a number from 1 to 16384'],
    [{ size: { shortest_edge: 1e9 } }, 'size: expected a number from 1 to 16384'],
    [{ size: 4, resample: 9 }, 'resample: expected 0 to 5, got 9'],
    [{ image_mean: [0], image_std: [0] }, 'image_std: expected numbers other than 0'],
    [{ do_normalize: true }, 'image_mean: expected a list of numbers, as do_normalize is on, got undefined'],
    [{ do_resize: 'yes' }, 'do_resize: expected true or false, got "yes"'],
    [[1], 'expected an object, got [1]'],
  ])('%j is refused', (config, message) => {
    expect(() => parsePreprocessing(config)).toThrow(message);
  });

  test('a size that the model does not take is named', () => {
    expect(() => preprocess(small, parsePreprocessing({}), input(['N', 3, 8, 8]), 'p.png')).toThrow(
      'p.png: input x: expected float32[N,3,8,8], got [1,3,7,9] after preprocessing; correct "size" or "crop_size"',
    );
  });

  test('a fixed batch is filled with consecutive pictures', async () => {
    const files = ['a', 'b', 'c'].map((name) => ({ name, read: async () => fromBase64(rgbPng) }));
    const samples = imageSamples(files, [input([2, 3, 4, 5])], parsePreprocessing({}), decode, 'folder');
    const shapes: (readonly number[])[] = [];
    for await (const sample of samples) shapes.push(sample.x.shape);
    expect([shapes, samples.count, samples.ignored]).toEqual([
      [[2, 3, 4, 5]],
      1,
      ['the last 1 pictures: the model takes 2 at a time'],
    ]);
  });
});

const assets = fileURLToPath(new URL('../../../shared/assets/', import.meta.url));
const hasAssets = existsSync(assets);
if (!hasAssets) console.info('skipped: mobilenet-v2 on pictures of ../shared/assets, which is absent');

const folder = await mkdtemp(join(tmpdir(), 'halftone-images-'));
afterAll(() => rm(folder, { recursive: true }));

test.skipIf(!hasAssets)('mobilenet-v2 knows what is in the pictures', async () => {
  const config = join(folder, 'preprocessor_config.json');
  const half = [0.5, 0.5, 0.5];
  const settings = { do_resize: false, crop_size: { height: 224, width: 224 }, image_mean: half, image_std: half };
  await writeFile(config, JSON.stringify(settings));
  const runtime = await openRuntime();
  const session = await runtime.open(new Uint8Array(await readFile(`${assets}models/mobilenet-v2.onnx`)));
  const data = `${assets}data/imagenet-sample/*4.jpg`;
  const samples = await openSamples(data, session.inputs, { preprocess: config, limit: 60 });
  let right = 0;
  let index = 0;
  for await (const feeds of samples) {
    const outputs = await session.run(feeds);
    const scores = outputs[session.outputs[0].name].floats();
    const best = scores.reduce((at, score, i) => (score > scores[at] ? i : at), 0);
    // The model's class 0 is the background; the file's name is the ImageNet class.
    if (best - 1 === Number.parseInt(samples.names![index], 10)) right += 1;
    index += 1;
  }
  await session.close();
  expect(index).toBe(60);
  expect(right).toBeGreaterThanOrEqual(51);
});
