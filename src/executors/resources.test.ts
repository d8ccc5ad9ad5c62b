/** What one quantization may use: threads, memory, and what an interrupted run of the same work has left. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Graph, Names } from '../graph/graph.ts';
import { Model } from '../graph/model.ts';
import { makePlan, type Plan } from '../pipeline/plan.ts';
import { makeRecipe } from '../pipeline/recipe.ts';
import { Tensor } from '../tensor/tensor.ts';
import { openResources, type ResourceOptions } from './resources.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-resources-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A model of one table of `rows` rows of 1024 numbers, all of them `value`. */
function table(rows: number, value: number): Model {
  const graph = new Graph('table', new Names());
  const ids = graph.addValue('ids', { dtype: 'int64', shape: ['count'] });
  graph.inputs.push(ids);
  const weight = graph.addInitializer('table', Tensor.float32([rows, 1024], new Float32Array(rows * 1024).fill(value)));
  const found = graph.addValue('y', { dtype: 'float32', shape: ['count', 1024] });
  graph.add({ op: 'Gather', inputs: [weight, ids], outputs: [found] });
  graph.outputs.push(found);
  return new Model(graph, 8, new Map([['', 17]]));
}

const open = (model: Model, output: string | undefined, options: ResourceOptions = {}, calibrates = false) =>
  openResources(model, output, { ...options, calibrates, hasExternalData: false });

describe('bounds', () => {
  it('are refused where nothing can be done within them', () => {
    const small = table(4, 1);
    for (const workers of [0, -1, 1.5, Number.NaN]) {
      expect(() => open(small, undefined, { workers })).toThrow(/workers: expected a whole number from 1 on/);
    }
    expect(() => open(small, undefined, { maxMemory: 2 ** 26 })).toThrow(/memory: expected at least \d+ MiB/);
    expect(() => open(table(20_000, 1), undefined, { maxMemory: 200 * 2 ** 20 }, true)).toThrow(
      /to run a model with 79 MiB of tensors on samples/,
    );
  });

  it('choose fewer threads, and smaller pieces', async () => {
    const model = table(20_000, 1);
    const shares = async (maxMemory: number | undefined) => {
      const resources = open(model, undefined, { workers: 4, ...(maxMemory ? { maxMemory } : {}) });
      const { executor, memory } = resources;
      await resources.close();
      return { workers: executor.workers, ...memory };
    };
    expect(await shares(undefined)).toEqual({ workers: 4, partBytes: 2 ** 24 });
    const little = await shares(180 * 2 ** 20);
    expect(little.workers).toBe(1);
    expect(little.partBytes).toBeLessThan(2 ** 24);
    const more = await shares(400 * 2 ** 20);
    expect(more.workers).toBe(4);
    expect(more.wholeBytes).toBeGreaterThan(little.partBytes);
  });
});

it('an interrupted run is resumed for the same tensors alone', async () => {
  const output = join(folder, 'out.onnx');
  const rows = 17_000;
  const [model, other] = [table(rows, 1), table(rows, 2)];
  const plan: Plan = makePlan(model, makeRecipe({ weights: 'int4' }, false)).plan;
  const first = open(model, output);
  const store = first.openStore(plan);
  const codes = [store.append(new Uint8Array(16)), 16] as const;
  store.finished({ tensor: 'table', scheme: 'int4', energy: 1, error: 0, codes, scales: [0, 0], zeroPoints: 0 });
  await first.close({ keep: true });

  const stranger = open(other, output, { resume: true });
  expect(() => stranger.openStore(plan)).toThrow(/expected to resume the same work/);
  await stranger.close({ keep: true });
  const same = open(model, output, { resume: true });
  expect(same.openStore(plan).find('table')?.codes).toEqual([...codes]);
  expect(same.leftover).toBe('Taken over from an interrupted run: 1 weight.');
  await same.close();
});
