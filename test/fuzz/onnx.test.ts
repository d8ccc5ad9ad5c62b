/** Thousands of damaged models: each is refused with a typed error, or is a sound model that can be written and read again. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isHalftoneError } from '../../src/base/errors.ts';
import { createRandom } from '../../src/base/random.ts';
import { openExternalData } from '../../src/files/onnx/node.ts';
import { readOnnx } from '../../src/files/onnx/read.ts';
import { writeOnnx } from '../../src/files/onnx/write.ts';
import { checkModel } from '../../src/graph/check.ts';
import { asset, haveAssets } from '../onnx/assets.ts';
import { bytesOfModel, model, richModel } from '../onnx/build.ts';
import { damage, structureOf } from '../onnx/mutate.ts';
import { decoded } from '../onnx/normal-form.ts';

const folder = mkdtempSync(join(tmpdir(), 'halftone-fuzz-'));
writeFileSync(join(folder, 'w.bin'), new Uint8Array(256));
const external = openExternalData(folder);
afterAll(() => {
  external.close();
  rmSync(folder, { recursive: true, force: true });
});

function withExternalData(): Uint8Array {
  const initializer = [0, 1, 2].map((i) => ({
    name: `w${i}`,
    dataType: 2,
    dims: [8n, 8n],
    dataLocation: 1,
    externalData: [
      { key: 'location', value: 'w.bin' },
      { key: 'offset', value: String(64 * i) },
      { key: 'length', value: '64' },
    ],
  }));
  const node = [
    { opType: 'Concat', input: ['w0', 'w1', 'w2'], output: ['y'], attribute: [{ name: 'axis', type: 2, i: 0n }] },
  ];
  return bytesOfModel(model({ initializer, node, output: [{ name: 'y' }] }));
}

/** The oracle cases are of an opset newer than the range; damage should get past that check. */
function withReadableOpset(bytes: Uint8Array): Uint8Array {
  const proto = decoded(bytes);
  for (const entry of proto.opsetImport) entry.version = 26n;
  return bytesOfModel(proto);
}

type Seed = readonly [name: string, bytes: Uint8Array, cases: number];

const seeds: Seed[] = [
  ['everything by hand', bytesOfModel(richModel()), 6000],
  ['external data', withExternalData(), 6000],
];
if (haveAssets) {
  const file = (path: string) => readFileSync(asset(path));
  seeds.push(
    ['mnist-small', file('models/mnist-small.onnx'), 1500],
    ['mlperf-kws', file('models/mlperf-kws.onnx'), 1000],
    ['digits-cnn', file('own/digits/digits-cnn.onnx'), 300],
    ['silero-vad', file('models/silero-vad.onnx'), 200],
  );
  for (const name of readdirSync(asset('oracles/onnx-node'))) {
    seeds.push([name, withReadableOpset(file(`oracles/onnx-node/${name}/model.onnx`)), 40]);
  }
}

/** Codes that say the file is at fault. `internal` or `runtime` would say that halftone is. */
const refusals = ['invalid-file', 'unsupported', 'missing-data'];

/** Reads, checks, writes and reads again. Returns the code of the refusal, or `sound`. */
function outcome(bytes: Uint8Array): string {
  let read: ReturnType<typeof readOnnx>;
  try {
    read = readOnnx(bytes, { external });
  } catch (error) {
    if (isHalftoneError(error) && refusals.includes(error.code)) return error.code;
    throw error;
  }
  checkModel(read);
  const written = writeOnnx(read);
  const again = writeOnnx(readOnnx(written));
  expect(Buffer.compare(again, written)).toBe(0);
  return 'sound';
}

describe('damaged models', () => {
  const random = createRandom(20240607);
  const totals: Record<string, number> = {};
  let slowest = 0;
  let seconds = 0;
  let largest = 0;

  it.each(seeds)('%s', (_, bytes, cases) => {
    const structure = structureOf(bytes);
    expect(outcome(bytes)).toBe('sound');
    for (let i = 0; i < cases; i++) {
      const other = seeds[Math.floor(random() * seeds.length)][1];
      const damaged = damage(bytes, structure, other, random);
      const memory = process.memoryUsage().arrayBuffers;
      const started = process.cpuUsage();
      let found: string;
      try {
        found = outcome(damaged.bytes);
      } catch (error) {
        throw new Error(`case ${i}: ${damaged.what}`, { cause: error });
      }
      // processor time, because the machine may have other work
      const { user, system } = process.cpuUsage(started);
      const took = (user + system) / 1e6;
      // Reading gives views; what is allocated is the two rewritten files and the external ranges.
      largest = Math.max(largest, process.memoryUsage().arrayBuffers - memory - 6 * damaged.bytes.length);
      slowest = Math.max(slowest, took);
      seconds += took;
      totals[found] = (totals[found] ?? 0) + 1;
    }
  });

  it('were many, of every outcome, each quick and small', () => {
    expect(Object.values(totals).reduce((a, b) => a + b, 0)).toBeGreaterThanOrEqual(haveAssets ? 16_000 : 12_000);
    for (const found of [...refusals, 'sound']) expect(totals[found]).toBeGreaterThan(20);
    expect(slowest).toBeLessThan(2);
    expect(seconds).toBeLessThan(30);
    expect(largest).toBeLessThan(2 ** 24);
  });
});
