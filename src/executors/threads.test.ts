/** Work on threads gives the bytes that work on one gives; failures keep their names; dead workers are replaced. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { bytesOfModel, model, node, tensor, value } from '../../test/onnx/build.ts';
import { createRandom } from '../base/random.ts';
import { readModel } from '../files/onnx/node.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import { type Executor, inlineExecutor } from '../pipeline/executor.ts';
import { quantizeModel } from '../pipeline/quantize.ts';
import type { RecipeInput } from '../pipeline/recipe.ts';
import { openRuntime } from '../runtime/node.ts';
import { bytesOf } from '../tensor/tensor.ts';
import { openRange } from './node.ts';
import { threadsExecutor } from './threads.ts';

const script = (name: string) => fileURLToPath(new URL(`./${name}`, import.meta.url));

let folder = '';
let path = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-threads-'));
  path = join(folder, 'model.onnx');
  const random = createRandom(3);
  const weight = (name: string, rows: number, columns: number) =>
    tensor({
      name,
      dims: [BigInt(rows), BigInt(columns)],
      dataType: 1,
      rawData: bytesOf(Float32Array.from({ length: rows * columns }, () => random() - 0.5)),
    });
  // Tables and factors, read as they lie and turned over, whole blocks and not, and one that is partly too small for float16.
  const tiny = weight('tiny', 96, 64);
  new Float32Array(tiny.rawData.buffer, tiny.rawData.byteOffset, 64).fill(1e-9);
  const proto = model({
    input: [value('ids', [2], 7)],
    output: [value('y', [2, 64])],
    node: [
      node({ opType: 'Gather', input: ['table', 'ids'], output: ['a'] }),
      node({ opType: 'MatMul', input: ['a', 'up'], output: ['b'] }),
      node({ opType: 'MatMul', input: ['b', 'down'], output: ['c'] }),
      node({ opType: 'Gemm', input: ['c', 'tiny'], output: ['y'] }),
    ],
    initializer: [weight('table', 1000, 200), weight('up', 200, 333), weight('down', 333, 96), tiny],
  });
  writeFileSync(path, bytesOfModel(proto));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const open: Executor[] = [];
function threads(workers: number, name = 'worker-from-source.mjs'): Executor {
  const executor = threadsExecutor({ workers, script: script(name) });
  open.push(executor);
  return executor;
}
afterEach(async () => {
  for (const executor of open.splice(0)) await executor.close();
});

async function quantized(recipe: RecipeInput, executor: Executor, partBytes?: number) {
  const options = { ...recipe, executor, ...(partBytes ? { memory: { partBytes } } : {}) };
  const result = await quantizeModel(readModel(path), options, await openRuntime());
  return { bytes: Buffer.from(writeOnnx(result.model)).toString('base64'), report: result.report };
}

describe('threads', () => {
  it.each([
    { weights: 'int4:g32:sym' },
    { weights: 'uint3:g16:asym', uniform: true },
    { weights: 'int8' },
    { weights: 'int5:tensor', weightRange: 'min-max' },
  ] as const)('write the bytes of one for $weights', async (recipe) => {
    const expected = await quantized(recipe, inlineExecutor(openRange));
    for (const [workers, partBytes] of [
      [2, 30_000],
      [7, 5_000],
    ]) {
      const found = await quantized(recipe, threads(workers), partBytes);
      expect(found.bytes === expected.bytes).toBe(true);
      expect(found.report.weights.map(({ scheme }) => scheme)).toEqual(
        expected.report.weights.map(({ scheme }) => scheme),
      );
    }
  });
});

describe('a worker that dies', () => {
  const mortal = fileURLToPath(new URL('../../test/support/mortal-worker.mjs', import.meta.url));
  const withDeaths = async (deaths: number) => {
    process.env.HALFTONE_DEATHS = String(deaths);
    process.env.HALFTONE_DEATHS_FILE = join(folder, `deaths-${deaths}`);
    const executor = threadsExecutor({ workers: 1, script: mortal });
    open.push(executor);
    return quantized({ weights: 'int4:g32:sym', weightRange: 'min-max' }, executor);
  };

  it('is replaced, and its job done again', async () => {
    const expected = await quantized({ weights: 'int4:g32:sym', weightRange: 'min-max' }, inlineExecutor(openRange));
    expect((await withDeaths(1)).bytes === expected.bytes).toBe(true);
  });

  it('is reported when the next one dies over the same job', async () => {
    await expect(withDeaths(2)).rejects.toMatchObject({
      code: 'runtime',
      message: expect.stringMatching(/^weight "table": expected a worker to finish it, got 2 that ended/),
    });
  });
});

it('failures keep their code and name the file', async () => {
  const gone = { path: join(folder, 'gone'), size: 4, modified: 0, inode: 0 };
  const job = {
    tensor: 'w',
    dtype: 'float32' as const,
    shape: [1, 1],
    data: { file: gone, offset: 0, byteLength: 4 },
    rowAxes: [0],
    rows: [0, 1] as const,
    solver: 'rtn' as const,
    scheme: 'int8:tensor',
    options: {},
  };
  await expect(threads(1).solve(job)).rejects.toMatchObject({
    code: 'missing-data',
    message: expect.stringContaining('gone'),
  });
});

it('ends at once when asked to', async () => {
  const controller = new AbortController();
  const result = quantizeModel(
    readModel(path),
    { weights: 'int4:g32:sym', executor: threads(2), signal: controller.signal },
    await openRuntime(),
  );
  controller.abort(new Error('enough'));
  await expect(result).rejects.toThrow('enough');
});
