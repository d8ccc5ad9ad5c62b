/** Collecting moments: the same whatever memory and batches are, by seed, and for two models at once. */
import { describe, expect, test } from 'vitest';
import { noise, run } from '../../test/support/lowered.ts';
import { Builder, noiseSamples, samplesOf } from '../../test/support/static.ts';
import type { Model } from '../graph/model.ts';
import { findWeights } from '../lowerings/weight.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import { batches } from '../samples/select.ts';
import { sizeOf, Tensor } from '../tensor/tensor.ts';
import { collectCrossMoments, collectMoments, type MomentTarget, momentKey } from './moments.ts';
import { cloneModel } from './prepare.ts';

const runtime = await openRuntime();

const targetsOf = (model: Model): MomentTarget[] =>
  findWeights(model)
    .filter(({ use }) => use.kind !== 'other')
    .flatMap((weight) => weight.uses.map(({ node }) => ({ weight, node })));

/** Convolutions of few and of many columns, one of them by channel, and a product. */
function network() {
  const b = new Builder();
  const x = b.input('x', ['N', 8, 6, 6] as unknown as number[]);
  const first = b.add('Relu', [b.conv(x, 8, 12)]);
  const second = b.add('Relu', [b.conv(first, 12, 12, [3, 3], 12)]);
  const flat = b.add('Flatten', [second]);
  return b.output(b.add('MatMul', [flat, b.weight([432, 5])]));
}

const { model } = network();
const feeds: Feeds[] = Array.from({ length: 7 }, (_, index) => ({
  x: Tensor.float32([1, 8, 6, 6], noise(288, index + 1)),
}));
const targets = targetsOf(model);
const collected = (samples = samplesOf(feeds), options = {}, own = runtime) =>
  collectMoments(model, targets, samples, own, options);

const distance = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, index) => Math.max(most, Math.abs(value - b[index])), 0);

const expectSame = (a: Awaited<ReturnType<typeof collected>>, b: typeof a, digits = 5) => {
  expect([...a.keys()]).toEqual([...b.keys()]);
  for (const [name, groups] of a) {
    for (const [index, { moment, mean, count }] of groups.entries()) {
      const other = b.get(name)![index];
      expect(count).toBe(other.count);
      expect(distance(moment, other.moment)).toBeLessThan(10 ** -digits);
      expect(distance(mean, other.mean)).toBeLessThan(10 ** -digits);
    }
  }
};

test('moments are the means of the rows, one for each group', async () => {
  const found = await collected();
  expect([...found.values()].map((groups) => groups.length)).toEqual([1, 12, 1]);
  // Images of 36 positions: all are taken.
  expect([...found.values()].map(([{ count }]) => count)).toEqual([252, 252, 7]);
  const watched = network();
  const value = watched.graph.nodes.find(({ op }) => op === 'Flatten')!.output();
  watched.output(value);
  const rows = await Promise.all(feeds.map(async (feed) => (await run(watched.model, feed))[value.name].floats()));
  const [{ moment, mean }] = found.get('w_4') ?? [...found.values()][2];
  for (let i = 0; i < 432; i += 17) {
    expect(mean[i]).toBeCloseTo(rows.reduce((sum, row) => sum + row[i], 0) / 7, 4);
    for (let j = 0; j < 432; j += 5) {
      expect(moment[i * 432 + j]).toBeCloseTo(rows.reduce((sum, row) => sum + row[i] * row[j], 0) / 7, 3);
      expect(moment[i * 432 + j]).toBe(moment[j * 432 + i]);
    }
  }
});

describe('chosen rows', () => {
  const few = { rowsPerSample: 5 };

  test('are as many as were asked for, the same for the same seed, others for another', async () => {
    const [a, b, c] = [
      await collected(samplesOf(feeds), few),
      await collected(samplesOf(feeds), few),
      await collected(samplesOf(feeds), { ...few, seed: 1 }),
    ];
    expect([...a.values()].map(([{ count }]) => count)).toEqual([35, 35, 7]);
    expect(a).toEqual(b);
    expect(() => expectSame(a, c)).toThrow();
  });

  test('do not depend on batches', async () => {
    expectSame(await collected(samplesOf(feeds), few), await collected(batches(samplesOf(feeds), 3), few));
  });

  test('do not depend on memory; with little of it few values are exposed at once', async () => {
    const opened: number[] = [];
    const counting: Runtime = {
      ...runtime,
      async open(bytes, options) {
        const session = await runtime.open(bytes, options);
        if (session.inputs.some(({ name }) => name === 'x')) opened.push(session.outputs.length);
        return session;
      },
    };
    const done: [number, number | undefined][] = [];
    const onProgress = (...event: [number, number | undefined]) => done.push(event);
    const small = await collected(samplesOf(feeds), { ...few, maxBytes: 1, onProgress }, counting);
    expectSame(await collected(samplesOf(feeds), few), small);
    // The first session only asks for shapes; the first layer reads the samples themselves.
    expect(opened).toEqual([2, 1, 1]);
    expect(done.at(-1)).toEqual([21, 21]);
  });
});

test('many rows: blocks add up to the whole', async () => {
  const b = new Builder();
  const x = b.input('x', [5000, 100]);
  b.output(b.add('MatMul', [x, b.weight([100, 2])]));
  const long = noiseSamples(b.model, 3);
  const options = { rowsPerSample: 4321 };
  const [[{ moment, count }]] = (
    await collectMoments(b.model, targetsOf(b.model), samplesOf(long), runtime, options)
  ).values();
  expect(count).toBe(15000);
  const values = long.map((feed) => feed.x.floats());
  for (const [i, j] of [
    [0, 0],
    [3, 97],
    [50, 51],
  ]) {
    let sum = 0;
    for (const one of values) for (let row = 0; row < 5000; row++) sum += one[row * 100 + i] * one[row * 100 + j];
    expect(moment[i * 100 + j]).toBeCloseTo(sum / 15000, 4);
  }
});

test('rows that are not finite are left out', async () => {
  const broken = new Float32Array(288);
  broken.set(noise(288, 1));
  broken[50] = Number.NaN;
  const huge = new Float32Array(288).fill(1e30);
  const more = [broken, huge].map((values) => ({ x: Tensor.float32([1, 8, 6, 6], values) }));
  const found = await collected(samplesOf([...feeds, ...more]));
  for (const groups of found.values()) {
    for (const { moment, mean } of groups) expect([...moment, ...mean].every(Number.isFinite)).toBe(true);
  }
  // Nine patches hold the one value; those of the huge picture are left out all together.
  expect([...found.values()][0][0].count).toBe(252 + 27);
  expect([...found.values()][2][0].count).toBe(7);
  const [[none]] = (await collected(samplesOf([more[1]]))).values();
  expect([none.count, none.moment.every((value) => value === 0)]).toEqual([0, true]);
});

test('layers with one input share their arrays; tied weights have an entry for each reader', async () => {
  const b = new Builder();
  const x = b.input('x', [4, 8]);
  const weight = b.weight([8, 8]);
  const [first, second] = [b.add('MatMul', [x, weight]), b.add('MatMul', [x, b.weight([8, 8])])];
  b.output(b.add('MatMul', [b.add('Add', [first, second]), weight]));
  const own = targetsOf(b.model);
  expect(own.map(momentKey)).toEqual(['w/matmul', 'w/matmul_2', 'w_1']);
  const found = await collectMoments(b.model, own, samplesOf(noiseSamples(b.model)), runtime);
  expect(found.get('w_1')).toBe(found.get('w/matmul'));
  expect(found.get('w/matmul_2')).not.toBe(found.get('w/matmul'));
});

test('what has no such input is left out; an abort stops', async () => {
  const b = new Builder();
  const ids = b.input('ids', [3], 'int64');
  const rows = b.add('Gather', [b.weight([20, 8]), ids]);
  b.output(b.add('MatMul', [rows, b.weight([8, 4])]));
  const some = samplesOf([{ ids: Tensor.int64([3], [1, 2, 3]) }]);
  const found = await collectMoments(b.model, targetsOf(b.model), some, runtime);
  expect([...found.keys()]).toEqual(['w_1']);
  expect(await collectMoments(b.model, [], some, runtime)).toEqual(new Map());
  expect(await collectMoments(b.model, targetsOf(b.model), some, runtime, { maxColumns: 7 })).toEqual(new Map());
  const controller = new AbortController();
  const reason = new Error('stop');
  controller.abort(reason);
  await expect(collected(samplesOf(feeds), { signal: controller.signal })).rejects.toBe(reason);
});

test('two models: moments of the second, and how the first goes with it, over the same rows', async () => {
  const other = cloneModel(model);
  for (const { value, tensor } of findWeights(other)) {
    const error = noise(sizeOf(tensor.shape), 9);
    value.tensor = Tensor.float32(
      tensor.shape,
      tensor.floats().map((x, index) => x + 0.2 * error[index]),
    );
  }
  const options = { rowsPerSample: 7 };
  const [a, b] = [model, other].map((one) => collectMoments(one, targetsOf(one), samplesOf(feeds), runtime, options));
  const cross = await collectCrossMoments(model, other, targets, batches(samplesOf(feeds), 2), runtime, options);
  const own = new Map([...cross].map(([name, groups]) => [name, groups.map(({ moments }) => moments)]));
  expectSame(own, await b);
  // By (x − x̃)(x − x̃)ᵀ the noise of the input itself: the last layer's rows are all the samples.
  const name = [...cross.keys()][2];
  const [x, y] = await Promise.all([model, other].map(inputsOfLast));
  const noisePower =
    x.reduce((sum, row, n) => sum + row.reduce((all, value, i) => all + (value - y[n][i]) ** 2, 0), 0) / 7;
  const trace = (values: Float32Array) =>
    Array.from({ length: 432 }, (_, i) => values[i * 433]).reduce((p, q) => p + q);
  const [{ moments, cross: product }] = cross.get(name)!;
  const [{ moment }] = (await a).get(name)!;
  expect((trace(moment) - 2 * trace(product) + trace(moments.moment)) / noisePower).toBeCloseTo(1, 3);
  // Rows belong to the first model, columns to the second.
  expect(product[3]).toBeCloseTo(x.reduce((sum, row, n) => sum + row[0] * y[n][3], 0) / 7, 4);
  // Without nodes of the same results, inputs are found by their names.
  const copy = cloneModel(other);
  for (const node of copy.graph.nodes) {
    if (node.op !== 'MatMul') continue;
    const output = node.output();
    const scores = copy.graph.addValue('scores');
    node.setOutput(0, scores);
    copy.graph.add({ op: 'Neg', inputs: [scores], outputs: [output] });
  }
  const byNames = await collectCrossMoments(model, copy, targets.slice(2), samplesOf(feeds), runtime, options);
  expect(distance(byNames.get(name)![0].cross, product)).toBeLessThan(1e-5);
  // Of a model with itself both are the moments.
  const same = await collectCrossMoments(model, model, targets, samplesOf(feeds), runtime, options);
  for (const groups of same.values()) {
    for (const { moments, cross } of groups) {
      expect(distance(cross, moments.moment)).toBeLessThan(1e-5);
    }
  }
});

async function inputsOfLast(one: Model): Promise<Float32Array[]> {
  const copy = cloneModel(one);
  const value = copy.graph.nodes.find(({ op }) => op === 'Flatten')!.output();
  copy.graph.outputs.push(value);
  return Promise.all(feeds.map(async (feed) => (await run(copy, feed))[value.name].floats()));
}
