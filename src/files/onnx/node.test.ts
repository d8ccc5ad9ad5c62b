/** Models on disk: external data stays inside the model's folder, and files are written whole or not at all. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asset, haveAssets } from '../../../test/onnx/assets.ts';
import { attribute, bytesOfModel, model, node } from '../../../test/onnx/build.ts';
import { decoded, normalForm } from '../../../test/onnx/normal-form.ts';
import { type ErrorCode, HalftoneError } from '../../base/errors.ts';
import { createRandom } from '../../base/random.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { readModel } from './node.ts';
import { readOnnx } from './read.ts';
import { writeOnnx } from './write.ts';
import { writeModel } from './write-files.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-onnx-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function place(name: string): string {
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  return path;
}

type Range = { location?: string; offset?: string; length?: string };

/** A model of uint8 tensors `w0`, `w1` … of `size` elements each, their data where `ranges` say. */
function externalModel(size: number, ...ranges: Range[]): Uint8Array {
  const initializer = ranges.map((range, i) => ({
    name: `w${i}`,
    dataType: 2,
    dims: [BigInt(size)],
    dataLocation: 1,
    externalData: Object.entries(range).map(([key, value]) => ({ key, value })),
  }));
  const output = ranges.map((_, i) => ({ name: `w${i}` }));
  return bytesOfModel(model({ initializer, output }));
}

function refusal(path: string): HalftoneError {
  try {
    readModel(path);
  } catch (error) {
    if (error instanceof HalftoneError) return error;
    throw error;
  }
  throw new Error('expected a refusal, got a model');
}

describe('reading external data', () => {
  const data = Uint8Array.from({ length: 64 }, (_, i) => i);

  function write(name: string, bytes: Uint8Array): string {
    const path = join(place(name), 'm.onnx');
    writeFileSync(path, bytes);
    writeFileSync(join(folder, name, 'w.bin'), data);
    return path;
  }

  it('takes the range stated, also in a folder below', () => {
    const path = write(
      'ranges',
      externalModel(8, { location: 'w.bin', offset: '16', length: '8' }, { location: 'sub/v.bin' }),
    );
    mkdirSync(join(folder, 'ranges', 'sub'));
    writeFileSync(join(folder, 'ranges', 'sub', 'v.bin'), data.subarray(40, 48));
    const tensors = [...readModel(path).graph.initializers].map((value) => [...(value.tensor?.bytes ?? [])]);
    expect(tensors).toEqual([[...data.subarray(16, 24)], [...data.subarray(40, 48)]]);
  });

  it('shares memory between tensors that name one range', () => {
    const range = { location: 'w.bin', offset: '0', length: '64' };
    const path = write('tied', externalModel(64, ...Array.from({ length: 50 }, () => range)));
    expect(new Set([...readModel(path).graph.initializers].map((value) => value.tensor?.bytes.buffer)).size).toBe(1);
  });

  it('does not let a small file claim much memory', () => {
    const ranges = Array.from({ length: 40 }, (_, i) => ({ location: 'w.bin', offset: String(i) }));
    const error = refusal(write('overlap', externalModel(24, ...ranges)));
    expect([error.code, error.message]).toEqual(['invalid-file', expect.stringContaining('overlap')]);
  });

  const refusals: [string, Range, ErrorCode, string][] = [
    ['missing', { location: 'other.bin' }, 'missing-data', '"other.bin" beside the model'],
    ['short', { location: 'w.bin', offset: '60' }, 'missing-data', 'got a file of 64 bytes'],
    ['beyond', { location: 'w.bin', offset: '9007199254740000' }, 'missing-data', 'got a file of 64 bytes'],
    ['absolute', { location: '/etc/hostname' }, 'invalid-file', "inside the model's folder"],
    ['parent', { location: '../secret.bin' }, 'invalid-file', "inside the model's folder"],
    ['winding', { location: 'a/../../secret.bin' }, 'invalid-file', "inside the model's folder"],
    ['linked', { location: 'link.bin' }, 'invalid-file', 'got a link to'],
    ['linked-folder', { location: 'out/secret.bin' }, 'invalid-file', 'got a link to'],
    ['folder', { location: 'sub' }, 'invalid-file', 'no plain file'],
    ['self', { location: '.' }, 'invalid-file', 'no plain file'],
    ['device', { location: 'null' }, 'invalid-file', 'got a link to'],
    ['null-byte', { location: 'w.bin\0' }, 'missing-data', 'no such file'],
    ['negative', { location: 'w.bin', offset: '-8' }, 'invalid-file', 'got "-8"'],
    ['no-number', { location: 'w.bin', offset: 'start' }, 'invalid-file', 'got "start"'],
    ['fraction', { location: 'w.bin', offset: '1.5' }, 'invalid-file', 'got "1.5"'],
    ['other-length', { location: 'w.bin', length: '9' }, 'invalid-file', 'got length "9"'],
    ['endless', { location: 'w.bin', length: '99999999999999999999' }, 'invalid-file', 'got length'],
  ];

  it.each(refusals)('refuses what is %s', (name, range, code, text) => {
    writeFileSync(join(folder, 'secret.bin'), data);
    const path = write(`refused-${name}`, externalModel(8, range));
    const here = dirname(path);
    symlinkSync(join(folder, 'secret.bin'), join(here, 'link.bin'));
    symlinkSync(folder, join(here, 'out'));
    symlinkSync('/dev/null', join(here, 'null'));
    mkdirSync(join(here, 'sub'));
    const error = refusal(path);
    expect(error.code).toBe(code);
    expect(error.message).toContain(text);
    expect(error.message).toContain(`${path}: tensor "w0"`);
  });

  it('follows a link that stays inside', () => {
    const path = write('inner-link', externalModel(64, { location: 'link.bin' }));
    symlinkSync('w.bin', join(dirname(path), 'link.bin'));
    expect([...readModel(path).graph.initializers][0].tensor?.bytes).toEqual(data);
  });

  it('brings data along that only travels through: functions and sparse tensors', () => {
    const t = { dataType: 2, dims: [8n], dataLocation: 1, externalData: [{ key: 'location', value: 'w.bin' }] };
    const constant = node({ opType: 'Constant', output: ['c'], attribute: [attribute({ name: 'value', type: 4, t })] });
    const proto = model(
      {
        sparseInitializer: [{ values: { ...t, name: 's' }, indices: { ...t, dataType: 7, dims: [1n] } }],
        output: [{ name: 's' }],
      },
      { functions: [{ name: 'F', domain: 'local', node: [constant] }] },
    );
    const path = write('carried', bytesOfModel(proto));
    const written = decoded(writeOnnx(readModel(path)));
    const inFunction = written.functions[0].node[0].attribute[0].t;
    expect([inFunction?.dataLocation, inFunction?.rawData]).toEqual([0, data.subarray(0, 8)]);
    expect(written.graph?.sparseInitializer[0].indices?.rawData).toEqual(data.subarray(0, 8));
  });
});

describe('writing', () => {
  const random = createRandom(1);
  const weights = (count: number) => Float32Array.from({ length: count }, () => random());

  function sample(sizes: readonly number[]) {
    const read = readOnnx(
      bytesOfModel(
        model({
          input: [{ name: 'x' }],
          node: [{ opType: 'Neg', input: ['x'], output: ['y'] }],
          output: [{ name: 'y' }],
        }),
      ),
    );
    for (const size of sizes) read.graph.addInitializer('w', Tensor.float32([size], weights(size)));
    return read;
  }

  it('writes one file, and over it', () => {
    const path = join(place('one'), 'm.onnx');
    const written = writeModel(sample([10]), path);
    expect(written).toEqual({ paths: [path], bytes: statSync(path).size });
    writeModel(sample([20]), path);
    expect(readdirSync(dirname(path))).toEqual(['m.onnx']);
    expect([...readModel(path).graph.initializers][0].tensor?.shape).toEqual([20]);
  });

  it('writes external data at offsets that can be mapped, and reads the same model again', () => {
    const path = join(place('external'), 'm.onnx');
    const before = sample([1000, 10, 5000]);
    const written = writeModel(before, path, { external: true });
    expect(written.paths.map((file) => basename(file))).toEqual(['m.onnx', 'm.onnx_data']);
    const tensors = decoded(readFileSync(path)).graph?.initializer ?? [];
    const entries = tensors.map((tensor) =>
      Object.fromEntries(tensor.externalData.map(({ key, value }) => [key, value])),
    );
    expect(entries).toEqual([
      { location: 'm.onnx_data', offset: '0', length: '4000' },
      {},
      { location: 'm.onnx_data', offset: '4096', length: '20000' },
    ]);
    expect(written.bytes).toBe(statSync(path).size + 24096);
    expect(normalForm(writeOnnx(readModel(path)))).toEqual(normalForm(writeOnnx(before)));
  });

  /** Whatever goes wrong, the folder holds what it held before. */
  function expectUnchanged(here: string, action: () => unknown, code: ErrorCode, text: string): void {
    const state = () =>
      readdirSync(here).map((name) => [
        name,
        statSync(join(here, name)).isFile() ? readFileSync(join(here, name), 'hex') : 'folder',
      ]);
    const before = state();
    let thrown: unknown;
    try {
      action();
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(HalftoneError);
    expect((thrown as HalftoneError).code).toBe(code);
    expect((thrown as HalftoneError).message).toContain(text);
    expect(state()).toEqual(before);
  }

  it('leaves nothing where the folder is missing', () => {
    const path = join(folder, 'absent', 'm.onnx');
    for (const external of [false, true])
      expectUnchanged(folder, () => writeModel(sample([5000]), path, { external }), 'runtime', path);
  });

  it('leaves nothing where the target is a folder', () => {
    const here = place('occupied');
    mkdirSync(join(here, 'm.onnx'));
    for (const external of [false, true])
      expectUnchanged(here, () => writeModel(sample([5000]), join(here, 'm.onnx'), { external }), 'runtime', 'm.onnx');
  });

  it.skipIf(process.platform === 'win32')('leaves a pipe in its place', () => {
    const pipe = join(place('pipes'), 'model.onnx');
    execFileSync('mkfifo', [pipe]);
    expect(() => writeModel(sample([5]), pipe)).toThrow(/expected a regular file/);
    expect(statSync(pipe).isFIFO()).toBe(true);
  });

  it('puts earlier external data back when the model file cannot take its place', () => {
    const here = place('restored');
    writeFileSync(join(here, 'm.onnx_data'), 'earlier');
    mkdirSync(join(here, 'm.onnx'));
    expectUnchanged(
      here,
      () => writeModel(sample([5000]), join(here, 'm.onnx'), { external: true }),
      'runtime',
      'm.onnx',
    );
  });

  it.skipIf(process.getuid?.() === 0)('leaves nothing where the folder is read-only', () => {
    const here = place('read-only');
    chmodSync(here, 0o555);
    expectUnchanged(here, () => writeModel(sample([5000]), join(here, 'm.onnx')), 'runtime', 'm.onnx');
    chmodSync(here, 0o755);
  });

  it('leaves the earlier model when something breaks midway through the external data', () => {
    const here = place('midway');
    const path = join(here, 'm.onnx');
    writeModel(sample([4000, 4000]), path, { external: true });
    const broken = sample([2000, 2000, 2000]);
    const last = [...broken.graph.initializers][2];
    last.tensor = new Tensor('float32', [2000], {
      byteLength: 8000,
      read() {
        throw new Error('the disk is gone');
      },
    });
    expectUnchanged(here, () => writeModel(broken, path, { external: true }), 'runtime', 'the disk is gone');
  });

  it('passes on what the writer itself refuses', () => {
    const here = place('cyclic');
    const cyclic = sample([]);
    cyclic.graph.nodes[0].setInput(0, cyclic.graph.nodes[0].output());
    expectUnchanged(here, () => writeModel(cyclic, join(here, 'm.onnx')), 'invalid-file', 'cycle');
  });
});

describe.skipIf(!haveAssets)('the real model with external data', () => {
  const source = haveAssets ? asset('models/mnist-external/mnist.onnx') : '';

  async function run(path: string): Promise<number[]> {
    const session = await ort.InferenceSession.create(path, { intraOpNumThreads: 1 });
    const [input] = session.inputMetadata;
    const dims = (input as ort.InferenceSession.TensorValueMetadata).shape.map((size) =>
      typeof size === 'number' ? size : 1,
    );
    const random = createRandom(7);
    const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random() * 2 - 1);
    const results = await session.run({ [session.inputNames[0]]: new ort.Tensor('float32', data, dims) });
    await session.release();
    return Array.from(results[session.outputNames[0]].data as Float32Array);
  }

  it('is the same and computes the same, written whole or with external data', async () => {
    const here = place('mnist');
    const read = readModel(source);
    const original = normalForm(readFileSync(source), dirname(source));
    const expected = await run(source);
    expect(expected.some((value) => value !== 0)).toBe(true);
    for (const external of [false, true]) {
      const path = join(here, `external-${external}.onnx`);
      writeModel(read, path, { external });
      expect(normalForm(readFileSync(path), here)).toEqual(original);
      expect(await run(path)).toEqual(expected);
      expect(Buffer.compare(writeOnnx(readModel(path)), writeOnnx(read))).toBe(0);
    }
  });
});
