/** What the command line refuses before any work, how it says so, and what it tells about itself. */
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { readModel } from '../../src/files/onnx/node.ts';
import { writeModel } from '../../src/files/onnx/write-files.ts';
import { formatIds } from '../../src/formats/index.ts';
import { loweringIds } from '../../src/lowerings/index.ts';
import { ranges } from '../../src/ranges/index.ts';
import { digit, halftone, scratch } from './run.ts';

const folder = scratch();
afterAll(() => folder.remove());
const model = digit('digits-cnn.onnx');
mkdirSync(folder.path('sub'));
mkdirSync(folder.path('folder.onnx_data'));
copyFileSync(model, folder.path('own.onnx'));
symlinkSync(folder.path('own.onnx'), folder.path('link.onnx'));
writeFileSync(folder.path('recipe.json'), '{"weigths": "int4"}');
writeFileSync(folder.path('broken.json'), '{weights');
writeFileSync(folder.path('broken.onnx'), 'not a model');
writeFileSync(folder.path('good.json'), '{}');
writeFileSync(folder.path('labels.txt'), '1');
writeModel(readModel(model), folder.path('apart.onnx'), { external: true });
const before = folder.files();
const out = folder.path('out.onnx');
const random = ['--calibrate', 'random'];

/** Arguments → exit code and what the message must hold. */
const refusals: readonly (readonly [what: string, args: readonly string[], code: number, message: RegExp])[] = [
  ['an unknown command', ['quantise'], 2, /unknown command 'quantise'[\s\S]*quantize/],
  ['an unknown option', ['quantize', model, '--wights', 'int4'], 2, /unknown option '--wights'[\s\S]*--weights/],
  ['a missing model', ['inspect'], 2, /missing required argument 'model'/],
  ['no data to compare on', ['compare', model, model], 2, /--data <data>/],
  ['a number that is none', ['quantize', model, '-o', out, ...random, '--samples', 'many'], 2, /whole number/],
  ['no output', ['quantize', model], 2, /-o: expected a file.*--dry-run/],
  ['an unknown format', ['quantize', model, '-o', out, '-w', 'int9'], 2, /int8.*got "int9"/],
  ['a scheme with an unknown part', ['quantize', model, '-o', out, '-w', 'int4:g0'], 2, /block size.*"g0"/],
  ['an unknown lowering', ['quantize', model, '-o', out, '--lowering', 'magic'], 2, /fold-at-load/],
  [
    'static activations without data',
    ['quantize', model, '-o', out, '-a', 'uint8'],
    1,
    /--calibrate DATA.*dynamic.*random/,
  ],
  ['the model as output', ['quantize', folder.path('own.onnx'), '-o', folder.path('own.onnx')], 2, /another file/],
  [
    'the model as output by a link',
    ['quantize', folder.path('own.onnx'), '-o', folder.path('link.onnx')],
    2,
    /another/,
  ],
  ['a folder that is not there', ['quantize', model, '-o', folder.path('no/out.onnx')], 2, /existing folder/],
  ['a folder as output', ['quantize', model, '-o', folder.path('sub')], 2, /got a folder/],
  [
    'a report over the model',
    ['quantize', folder.path('own.onnx'), '-o', out, '--report', folder.path('own.onnx')],
    2,
    /--report.*another/,
  ],
  [
    'its own external data as output',
    ['quantize', folder.path('apart.onnx'), '-o', folder.path('apart.onnx_data')],
    2,
    /^halftone: -o .*which is read/,
  ],
  [
    'a report over external data',
    ['quantize', folder.path('apart.onnx'), '--dry-run', '--report', folder.path('apart.onnx_data')],
    2,
    /--report .*which is read/,
  ],
  [
    'a report over external data of a compared model',
    ['compare', model, folder.path('apart.onnx'), '--data', 'random', '--report', folder.path('apart.onnx_data')],
    2,
    /--report .*which is read/,
  ],
  [
    'a recipe as output',
    ['quantize', model, '-o', folder.path('good.json'), '--recipe', folder.path('good.json')],
    2,
    /-o .*which is read/,
  ],
  [
    'labels as report',
    [
      'quantize',
      model,
      '-o',
      out,
      ...random,
      '--labels',
      folder.path('labels.txt'),
      '--report',
      folder.path('labels.txt'),
    ],
    2,
    /--report .*which is read/,
  ],
  [
    'a folder where external data goes',
    ['quantize', model, '-o', folder.path('folder.onnx'), '--external-data'],
    2,
    /folder\.onnx_data.*got a folder/,
  ],
  ['a report over the output', ['quantize', model, '-o', out, '--report', out], 2, /--report.*the same/],
  [
    'labels without samples',
    ['quantize', model, '-o', out, '--labels', digit('digits.npz')],
    2,
    /--labels.*--calibrate/,
  ],
  ['a gate without samples', ['quantize', model, '-o', out, '--min-sqnr', '20'], 2, /--min-sqnr.*--calibrate/],
  ['a gate on made-up samples', ['quantize', model, '-o', out, ...random, '--min-sqnr', '20'], 2, /real samples/],
  [
    'a gate without comparison',
    ['quantize', model, '-o', out, ...random, '--min-sqnr', '20', '--no-compare'],
    2,
    /--no-compare/,
  ],
  [
    'a recipe with an unknown setting',
    ['quantize', model, '-o', out, '--recipe', folder.path('recipe.json')],
    2,
    /weigths/,
  ],
  [
    'a recipe that is no JSON',
    ['quantize', model, '-o', out, '--recipe', folder.path('broken.json')],
    2,
    /broken\.json.*JSON/,
  ],
  [
    'blocks with integer arithmetic',
    ['quantize', model, '-o', out, ...random, '-a', 'uint8', '-w', 'int8:g32'],
    2,
    /:channel/,
  ],
  [
    'lengths for real samples',
    ['quantize', model, '-o', out, '--calibrate', digit('calibration.mjs'), '--dimensions', 'batch=2'],
    2,
    /--dimensions: expected made-up/,
  ],
  ['a length that is none', ['quantize', model, '-o', out, ...random, '--dimensions', 'batch'], 2, /NAME=SIZE/],
  [
    'a length of no dimension',
    ['quantize', model, '-o', out, ...random, '--dimensions', 'width=3'],
    2,
    /--dimensions width: expected a dimension/,
  ],
  ['a model that is not there', ['inspect', folder.path('nothing.onnx')], 1, /nothing\.onnx: expected a readable/],
  ['a file that is no model', ['quantize', folder.path('broken.onnx'), '-o', out], 1, /broken\.onnx/],
  ['data that is not there', ['quantize', model, '-o', out, '--calibrate', folder.path('no.npz')], 1, /no\.npz/],
];

describe('halftone refuses', () => {
  it.each(refusals)('%s', async (_what, args, code, message) => {
    const { code: found, stdout, stderr } = await halftone(args);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^halftone: /);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(stdout).toBe('');
    expect(found).toBe(code);
  });

  it('and leaves every folder as it was', () => {
    expect(folder.files()).toEqual(before);
  });

  it('with a stack trace under --debug', async () => {
    const { code, stderr } = await halftone(['inspect', folder.path('nothing.onnx'), '--debug']);
    expect(stderr).toMatch(/^halftone: [\s\S]*^\s+at /m);
    expect(stderr).toMatch(/Caused by: /);
    expect(code).toBe(1);
  });
});

describe('help', () => {
  it('names every format, range and lowering of the families', async () => {
    const { code, stdout } = await halftone(['quantize', '--help']);
    expect(code).toBe(0);
    const words = new Set(stdout.split(/[\s",():]+/));
    for (const id of [...formatIds, ...loweringIds, ...ranges.map((range) => range.id)]) expect(words).toContain(id);
  });
});
