/** The whole way: every weight is accounted for, the same input gives the same bytes, and it can be stopped. */
import { describe, expect, test } from 'vitest';
import { asset, assetModels } from '../../test/onnx/assets.ts';
import { difference, type FeedOptions, feedsFor } from '../../test/support/before-after.ts';
import { branchesModel, decibels, noiseTensor, run } from '../../test/support/lowered.ts';
import { Builder, noiseSamples, samplesOf } from '../../test/support/static.ts';
import { readModel } from '../files/onnx/node.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import { checkModel } from '../graph/check.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { findWeights } from '../lowerings/weight.ts';
import { openRuntime } from '../runtime/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { batchesFor } from './batching.ts';
import { type QuantizeOptions, quantizeModel } from './quantize.ts';

const runtime = await openRuntime();
const files = new Set(assetModels());
const plain = (model: Model, options: QuantizeOptions = {}) =>
  quantizeModel(model, { compare: false, ...options }, runtime);

function small(): Model {
  const b = new Builder();
  const x = b.add('Relu', [b.conv(b.input('x', [1, 8, 6, 6]), 8, 16)]);
  return b.output(b.conv(b.conv(x, 16, 16), 16, 8)).model;
}

interface Real extends FeedOptions {
  readonly output: string;
  /** Decibels at 8 bits under noise. */
  readonly floor: number;
  /** Kinds of the weights that are quantized. */
  readonly kinds: readonly string[];
}

const reals: Readonly<Record<string, Real>> = {
  'models/silero-vad.onnx': {
    sizes: { batch: 1, sequence: 512 },
    feeds: { sr: Tensor.int64([], [16000]) },
    output: 'stateN',
    floor: 25,
    kinds: ['convolution', 'recurrent'],
  },
  'models/nsnet2-gru.onnx': { sizes: { N: 1, T: 40 }, output: 'gain', floor: 35, kinds: ['matrix', 'recurrent'] },
  'models/dtln-1.onnx': { output: 'activation_2', floor: 30, kinds: ['matrix', 'recurrent'] },
  'models/digits-ds2.onnx': {
    sizes: { batch: 1, time: 60 },
    output: 'log_probs',
    floor: 40,
    kinds: ['convolution', 'matrix', 'recurrent'],
  },
  'models/shakespeare-gpt.onnx': {
    sizes: { batch: 1, time: 64 },
    vocabulary: 65,
    output: 'logits',
    floor: 35,
    kinds: ['embedding', 'matrix'],
  },
};

describe.each(Object.entries(reals))('%s', (file, real) => {
  test.skipIf(!files.has(file))('every weight is listed, with what was done or why not', async () => {
    const model = readModel(asset(file));
    const { model: result, report } = await plain(model);
    checkModel(result);
    const { plan, weights } = report;
    const done = plan.weights.filter(({ quantize }) => quantize);
    expect(weights.map(({ tensor }) => tensor).sort()).toEqual(done.map(({ tensor }) => tensor).sort());
    for (const { sqnr, left } of weights) expect(left === undefined && sqnr! > 30).toBe(true);
    for (const weight of plan.weights) expect(weight.because, weight.tensor).not.toBe('');
    // Whatever is left is no layer's weight, or too small.
    const reasons = new Set(plan.weights.filter(({ quantize }) => !quantize).map(({ because }) => because));
    for (const reason of reasons) expect(reason).toMatch(/^not a layer's weight|^only \d+ bytes/);
    expect([...new Set(done.map(({ kind }) => kind))].sort()).toEqual(real.kinds);
    // The result holds what the plan says: large float constants are gone.
    const large = findWeights(result).filter(({ use, tensor }) => use.kind !== 'other' && tensor.size > 4096);
    expect(large.map(({ value }) => value.name)).toEqual([]);
    expect(report.quantizedBytes).toBeLessThan(report.floatBytes * 0.5);

    const feeds = feedsFor(model, real);
    const [before, after] = [await run(model, feeds), await run(result, feeds)];
    expect(decibels(before[real.output].floats(), after[real.output].floats())).toBeGreaterThan(real.floor);
  });
});

describe('unusual weights', () => {
  test('in the branches of an If, and read from there', async () => {
    const model = branchesModel([noiseTensor([64, 32], 1), noiseTensor([64, 32], 2)]);
    const { model: result, report } = await plain(model, { weights: 'int8' });
    expect(report.plan.weights.map(({ tensor, quantize }) => [tensor, quantize !== undefined])).toEqual([
      ['inner', true],
      ['outer', true],
    ]);
    for (const chosen of [0, 1]) {
      const feeds = { x: noiseTensor([2, 64], 3), condition: new Tensor('bool', [], Uint8Array.of(chosen)) };
      const [before, after] = [await run(model, feeds), await run(result, feeds)];
      expect(decibels(before.y.floats(), after.y.floats())).toBeGreaterThan(35);
    }
  });

  test('a tied embedding: one tensor, quantized once for both readers', async () => {
    const b = new Builder();
    const ids = b.input('ids', [1, 6], 'int64');
    const table = b.weight([64, 32]);
    const hidden = b.add('Tanh', [b.add('Gather', [table, ids])]);
    const flat = b.add('Reshape', [hidden, b.ints(6, 32)]);
    const { model } = b.output(b.add('Gemm', [flat, table], { transB: 1 }));
    const { model: result, report } = await plain(model, { weights: 'int4:g32', uniform: true });
    expect(report.plan.weights.map(({ users, quantize }) => [users.length, quantize !== undefined])).toEqual([
      [2, true],
    ]);
    const codes = [...result.graph.initializers].filter(({ tensor }) => tensor!.bytes.byteLength >= 64 * 16);
    expect(codes).toHaveLength(1);
    const feeds = { ids: Tensor.int64([1, 6], [0, 5, 63, 7, 7, 20]) };
    const [before, after] = [await run(model, feeds), await run(result, feeds)];
    const { name } = model.graph.outputs[0];
    expect(decibels(before[name].floats(), after[name].floats())).toBeGreaterThan(15);
  });

  test.each([0, 1])('a Gemm with transB = %i', async (transB) => {
    const b = new Builder();
    const weight = b.weight(transB ? [48, 64] : [64, 48]);
    const { model } = b.output(b.add('Gemm', [b.input('x', [4, 64]), weight, b.weight([48])], { transB }));
    const feeds = { x: noiseTensor([4, 64], 5) };
    for (const weights of ['int8', 'int4:g32', 'int4:channel', 'uint3:g16']) {
      const { model: result, report } = await plain(model, { weights, uniform: true });
      expect(report.plan.weights.filter(({ quantize }) => quantize)).toHaveLength(1);
      const { name } = model.graph.outputs[0];
      const [before, after] = [await run(model, feeds), await run(result, feeds)];
      const floor = weights === 'int8' ? 40 : weights === 'uint3:g16' ? 12 : 17;
      expect(decibels(before[name].floats(), after[name].floats()), weights).toBeGreaterThan(floor);
    }
  });

  test('of an LSTM in two formats are folded, with the reason', async () => {
    const b = new Builder();
    const x = b.input('x', [3, 1, 16]);
    const model = b.output(b.add('LSTM', [x, b.weight([1, 64, 16]), b.weight([1, 64, 16])], { hidden_size: 16 })).model;
    const [w, r] = findWeights(model).map(({ value }) => value.name);
    const rules = [{ match: { tensor: r }, use: { weights: 'uint8:channel:sym' } }];
    const { model: result, report } = await quantizeModel(model, { activations: 'dynamic', rules }, runtime);
    expect(report.weights).toMatchObject([
      { tensor: w, scheme: 'int8:channel:sym', sqnr: expect.any(Number), instead: { lowering: 'fold-at-load' } },
      { tensor: r, instead: { because: expect.stringContaining('got int8 and uint8') } },
    ]);
    expect(report.notes.join()).toContain(`Weight "${w}" is written as fold-at-load, not dynamic: `);
    const [feeds] = noiseSamples(model, 1);
    const [before, after] = [await run(model, feeds), await run(result, feeds)];
    const [name] = Object.keys(before);
    expect(decibels(before[name].floats(), after[name].floats())).toBeGreaterThan(30);
  });

  test('that hold NaN are left, with the reason', async () => {
    const b = new Builder();
    const x = b.input('x', [1, 16]);
    const values = new Float32Array(16 * 64).fill(1);
    values[7] = Number.NaN;
    b.output(b.add('MatMul', [x, b.floats([16, 64], [...values])]));
    const { report } = await plain(b.model);
    expect(report.plan.weights).toHaveLength(1);
    expect(report.plan.weights[0]).not.toHaveProperty('quantize');
    expect(report.plan.weights[0].because).toBe('1 of its 1024 numbers are NaN or infinite');
  });
});

describe('the same again', () => {
  test.each<[string, QuantizeOptions]>([
    ['weights', { weights: 'int4' }],
    ['static', { activations: 'uint8' }],
    ['integer-only', { lowering: 'qoperator', activations: 'uint8' }],
    ['dynamic', { activations: 'dynamic' }],
  ])('%s: two runs give the same bytes, and the model is left alone', async (_, options) => {
    const model = small();
    const before = writeOnnx(model);
    const calibration = samplesOf(noiseSamples(model, 12));
    const first = await plain(model, { ...options, calibration });
    const second = await plain(small(), { ...options, calibration });
    expect(Buffer.compare(writeOnnx(first.model), writeOnnx(second.model))).toBe(0);
    expect(second.report).toEqual(first.report);
    expect(Buffer.compare(writeOnnx(model), before)).toBe(0);
  });

  test('nothing to quantize gives the same model', async () => {
    const model = small();
    const { model: result } = await plain(model, { weights: 'float' });
    const feeds = noiseSamples(model, 1)[0];
    expect(difference(await run(model, feeds), await run(result, feeds))).toBeLessThan(1e-6);
  });
});

describe('samples', () => {
  const free = (build: (b: Builder, x: Value) => Value) => {
    const b = new Builder();
    const x = b.input('x', [1, 16]);
    x.type = { dtype: 'float32', shape: ['N', 16] };
    return b.output(build(b, x)).model;
  };
  const rowsOf = async (model: Model) => {
    const samples = samplesOf(Array.from({ length: 5 }, (_, index) => ({ x: noiseTensor([1, 16], index) })));
    const rows: number[] = [];
    for await (const feeds of await batchesFor(model, samples, 4, runtime)) rows.push(feeds.x.shape[0]);
    return rows;
  };

  test('run together where the model takes them', async () => {
    expect(await rowsOf(free((b, x) => b.add('MatMul', [x, b.weight([16, 8])])))).toEqual([4, 1]);
  });

  test('run one by one where a shape inside is fixed, whatever the input declares', async () => {
    expect(await rowsOf(free((b, x) => b.add('Reshape', [x, b.ints(1, 16)])))).toEqual([1, 1, 1, 1, 1]);
    expect(await rowsOf(free((b, x) => b.add('Reshape', [x, b.ints(1, -1)])))).toEqual([1, 1, 1, 1, 1]);
  });

  test('run one by one where the input has a fixed batch', async () => {
    const b = new Builder();
    expect(await rowsOf(b.output(b.add('Tanh', [b.input('x', [1, 16])])).model)).toEqual([1, 1, 1, 1, 1]);
  });
});

describe('on the way', () => {
  test('progress names the steps in order, each ending with all done', async () => {
    const steps: string[] = [];
    await quantizeModel(
      small(),
      {
        activations: 'uint8',
        calibration: samplesOf(noiseSamples(small(), 12)),
        onProgress: ({ step }) => steps.at(-1) !== step && steps.push(step),
      },
      runtime,
    );
    expect(steps).toEqual(['prepare', 'calibrate', 'quantize', 'correct', 'compare']);
  });

  test.each(['prepare', 'calibrate', 'quantize', 'correct', 'compare'])('stops when aborted in %s', async (step) => {
    const controller = new AbortController();
    const calibration = samplesOf(noiseSamples(small(), 40));
    const reason = new Error('enough');
    const started: string[] = [];
    const work = quantizeModel(
      small(),
      {
        activations: 'uint8',
        calibration,
        signal: controller.signal,
        onProgress: (event) => {
          started.push(event.step);
          if (event.step === step) controller.abort(reason);
        },
      },
      runtime,
    );
    await expect(work).rejects.toBe(reason);
    expect(started.filter((other) => other === step).length).toBeLessThan(10);
  });
});
