/** Plans: which rule wins, what keeps 8 bits, what is left and why, sizes, and that a plan is plain data. */
import { describe, expect, test } from 'vitest';
import { asset, assetModels } from '../../test/onnx/assets.ts';
import { copyOf } from '../../test/support/before-after.ts';
import { Builder, noiseSamples, quantizeStatic, samplesOf } from '../../test/support/static.ts';
import { readModel } from '../files/onnx/node.ts';
import type { Model } from '../graph/model.ts';
import { findWeights } from '../lowerings/weight.ts';
import { openRuntime } from '../runtime/node.ts';
import { randomSamples } from '../samples/random.ts';
import { makePlan } from './plan.ts';
import { findPositions } from './positions.ts';
import { planQuantization, type QuantizeOptions, quantizeModel } from './quantize.ts';
import { makeRecipe, type RecipeInput } from './recipe.ts';

/** Four convolutions in a row, the second depthwise, and a Gemm. */
function network(): Model {
  const b = new Builder();
  let x = b.conv(b.input('x', [1, 8, 6, 6]), 8, 32);
  x = b.conv(x, 32, 32, [3, 3], 32);
  x = b.conv(b.add('Relu', [x]), 32, 64);
  x = b.conv(b.add('Relu', [x]), 64, 64);
  const flat = b.add('Flatten', [b.add('GlobalAveragePool', [x])]);
  return b.output(b.add('Gemm', [flat, b.weight([10, 64]), b.weight([10])], { transB: 1 })).model;
}

const planOf = (input: RecipeInput, model = network(), calibrated = false) =>
  makePlan(model, makeRecipe(input, calibrated)).plan;
const weightsOf = (input: RecipeInput, model?: Model) =>
  planOf(input, model).weights.filter(({ kind }) => kind !== 'other');
const schemes = (input: RecipeInput) => weightsOf(input).map(({ quantize }) => quantize?.scheme ?? 'float');

describe('rules', () => {
  test('the last that matches wins, setting by setting', () => {
    const plans = weightsOf({
      weights: 'int8',
      rules: [
        { match: { op: 'Conv' }, use: { weights: 'int6:channel', range: 'mse' }, because: 'first rule' },
        { match: { op: ['Gemm', 'Conv'], node: 'conv_2*' }, use: { weights: 'int5:channel' } },
        { match: { tensor: 'w_6' }, use: { weights: 'float' }, because: 'stays' },
      ],
    });
    expect(plans.map(({ quantize }) => quantize?.scheme)).toEqual([
      'int6:channel:asym',
      undefined,
      'int5:channel:asym',
      undefined,
      'int8:channel:sym',
    ]);
    expect(plans[0]).toMatchObject({ because: 'first rule', quantize: { range: 'mse' } });
    // A rule that does not speak of the range leaves what an earlier one said.
    expect(plans[2]).toMatchObject({ because: 'rule 2', quantize: { range: 'mse' } });
    expect(plans[3].because).toBe('stays');
    expect(plans[1].because).toContain('bytes');
  });

  test('by kind and position', () => {
    const rules = [
      { match: { kind: 'depthwise-convolution' as const }, use: { weights: 'float' }, because: 'depthwise' },
      { match: { position: 'last' as const }, use: { weights: 'uint8' }, because: 'at the end' },
      { match: { position: 'first' as const }, use: { weights: 'uint8' }, because: 'at the start' },
    ];
    expect(weightsOf({ rules }).map(({ because }) => because)).toEqual([
      'at the start',
      'depthwise',
      'default',
      'default',
      'at the end',
    ]);
  });

  test('a rule may ask for a lowering; where it cannot be, the plan says why', () => {
    const [, , conv, , gemm] = weightsOf({
      weights: 'int4:g32',
      uniform: true,
      rules: [{ match: {}, use: { lowering: 'matmul-nbits' } }],
    });
    expect(gemm.quantize?.lowering).toBe('matmul-nbits');
    expect(conv.quantize?.lowering).toBe('fold-at-load');
    expect(conv.because).toContain('not matmul-nbits: expected a MatMul or Gemm, got Conv');
  });
});

describe('first, last and depthwise layers', () => {
  test('keep 8 bits under narrower ones', () => {
    expect(schemes({ weights: 'int4:g32' })).toEqual([
      'int8:channel:sym',
      'float',
      ...Array(2).fill('int4:g32:asym'),
      'int8:channel:sym',
    ]);
    expect(planOf({ weights: 'int4:g32' }).notes.join()).toContain('--uniform turns that off');
  });

  test('not with `uniform`, and not at 8 bits', () => {
    expect(new Set(schemes({ weights: 'int4:g32', uniform: true }))).toEqual(new Set(['int4:g32:asym', 'float']));
    expect(planOf({ weights: 'int8' }).notes).toEqual([]);
  });

  test('found behind and before nodes without weights, on every branch', () => {
    const b = new Builder();
    const x = b.input('x', [1, 4, 8, 8]);
    const relu = b.add('Relu', [x]);
    const [a, c] = [b.conv(relu, 4, 4), b.conv(relu, 4, 4)];
    const middle = b.conv(b.add('Add', [a, c]), 4, 4);
    b.output(b.add('Tanh', [b.conv(middle, 4, 4)]), b.conv(middle, 4, 4));
    const { first, last } = findPositions(b.graph, findWeights(b.model));
    const names = (nodes: ReadonlySet<{ name: string }>) => [...nodes].map(({ name }) => name).sort();
    expect(names(first)).toEqual(['conv_1_node', 'conv_node']);
    expect(names(last)).toEqual(['conv_3_node', 'conv_4_node']);
  });
});

describe('small layers', () => {
  /** Behind a convolution of 3,456 weights and before one of 51,200: one of 1,024, and one of 4,096, 1/15 of them all. */
  function widening(most = 800): Model {
    const b = new Builder();
    let x = b.conv(b.input('x', [1, 48, 6, 6]), 48, 16, [1, 1]);
    for (const [from, to] of [
      [16, 64],
      [64, 64],
      [64, most],
      [most, 10],
    ]) {
      x = b.conv(b.add('Relu', [x]), from, to, [1, 1]);
    }
    return b.output(x).model;
  }
  const blocks = (input: RecipeInput) =>
    weightsOf(input, widening()).map(({ quantize }) => quantize?.scheme.split(':')[1]);

  test('get blocks of 8, until a sixteenth of the weights has them', () => {
    expect(blocks({ weights: 'int4:g32' })).toEqual(['channel', 'g8', 'g32', 'g32', 'channel']);
    expect(planOf({ weights: 'int4:g32' }, widening()).notes.join()).toContain('Of 3 layers the smallest');
    expect(planOf({ weights: 'int4:g32' }, widening()).notes.join()).toContain(': 1 smaller blocks;');
  });

  test('get 8 bits, until a sixty-fourth of the weights has them', () => {
    const most = widening(2000);
    const schemes = weightsOf({ weights: 'int4:g8:asym' }, most).map(({ quantize }) => quantize?.scheme);
    expect(schemes).toEqual([
      'int8:channel:sym',
      'int8:channel:sym',
      'int4:g8:asym',
      'int4:g8:asym',
      'int8:channel:sym',
    ]);
    expect(planOf({ weights: 'int4:g8:asym' }, most).notes.join()).toContain(': 1 get 8 bits;');
  });

  test('of 16 where they are matrices', () => {
    const b = new Builder();
    const x = b.input('x', [1, 64]);
    const sizes = [64, 32, 64, 512, 64, 64];
    const y = sizes.slice(1).reduce((y, to, index) => b.add('MatMul', [y, b.weight([sizes[index], to])]), x);
    const found = weightsOf({ weights: 'int4:g32' }, b.output(y).model);
    expect(found.map(({ quantize }) => quantize?.scheme.split(':')[1])).toEqual([
      'channel',
      'g16',
      'g32',
      'g32',
      'channel',
    ]);
  });

  test('get 8 bits in blocks where they are matrices, which kernels multiply', () => {
    const b = new Builder();
    const x = b.input('x', [1, 64]);
    const sizes = [64, 32, 64, 1024, 64, 64];
    const y = sizes.slice(1).reduce((y, to, index) => b.add('MatMul', [y, b.weight([sizes[index], to])]), x);
    const [, second] = weightsOf({ weights: 'int4:g32' }, b.output(y).model);
    expect(second.quantize).toMatchObject({ scheme: 'int8:g32:sym', lowering: 'matmul-nbits' });
  });

  test('get 8 bits where there are no blocks, until an eighth has them', () => {
    const formats = (input: RecipeInput) =>
      weightsOf(input, widening()).map(({ quantize }) => quantize?.scheme.split(':')[0]);
    expect(formats({ weights: 'int4:channel' })).toEqual(['int8', 'int8', 'int8', 'int4', 'int8']);
    expect(planOf({ weights: 'int4:channel' }, widening()).notes.join()).toContain(': 2 get 8 bits;');
    expect(formats({ weights: 'int4:channel', uniform: true })).toEqual(Array(5).fill('int4'));
  });

  test('a rule decides in their place', () => {
    const rules = [{ match: { op: 'Conv' }, use: { weights: 'int3:g32' } }];
    expect(blocks({ weights: 'int4:g32', rules })).toEqual(Array(5).fill('g32'));
  });

  test.each([
    ['with `uniform`', { weights: 'int4:g32', uniform: true }],
    ['where blocks are as small', { weights: 'int4:g8' }],
    ['in formats of fixed blocks', { weights: 'mxfp4' }],
  ] as const)('not %s', (_, input) => {
    expect(planOf(input, widening()).notes.join()).not.toContain('so small');
  });
});

describe('a plan', () => {
  const settings: QuantizeOptions[] = [{}, { weights: 'int4' }, { activations: 'dynamic' }, { weights: 'float16' }];

  test.each(settings)('%o is plain JSON and the same every time', async (options) => {
    const runtime = await openRuntime();
    const plan = await planQuantization(network(), options, runtime);
    expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
    expect(await planQuantization(network(), options, runtime)).toEqual(plan);
  });

  test('of static activations names scales, zero points and groups', async () => {
    const { report } = await quantizeStatic(network());
    const { plan } = report;
    expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
    expect(plan.activations.length).toBeGreaterThan(5);
    for (const { scale, zeroPoint, interval, format } of plan.activations) {
      expect(scale).toBeGreaterThan(0);
      expect(Math.fround(scale!)).toBe(scale);
      expect(zeroPoint! >= 0 && zeroPoint! <= 255).toBe(true);
      expect(interval!.max).toBeGreaterThan(interval!.min);
      expect(format).toBe('uint8');
    }
  });

  test('does not depend on the order in which it is asked, and leaves the model alone', () => {
    const model = network();
    const before = copyOf(model);
    const plan = planOf({ weights: 'int4' }, model);
    planOf({ weights: 'int8' }, model);
    expect(planOf({ weights: 'int4' }, model)).toEqual(plan);
    expect(planOf({ weights: 'int4' }, before)).toEqual(plan);
  });
});

test('static activations without samples are refused with the way out', async () => {
  await expect(planQuantization(network(), { activations: 'uint8' }, await openRuntime())).rejects.toMatchObject({
    code: 'missing-data',
    message: expect.stringMatching(/--calibrate DATA.*--activations dynamic.*--calibrate random/),
  });
});

const files = new Set(assetModels());

test.skipIf(!files.has('models/yolov8n-int8.onnx'))('a model that is already quantized is refused', async () => {
  const model = readModel(asset('models/yolov8n-int8.onnx'));
  const runtime = await openRuntime();
  for (const start of [planQuantization, quantizeModel]) {
    await expect(start(model, {}, runtime)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('already quantized'),
    });
  }
  const plan = await planQuantization(model, { allowQuantized: true }, runtime);
  expect(plan.weights.every(({ quantize, because }) => quantize !== undefined || because !== '')).toBe(true);
});

/** Bytes of a model's constants, and how many of them are not counted by plans: biases, parameters of activations. */
function bytesOf(model: Model): number {
  let bytes = 0;
  for (const graph of model.graphs()) for (const { tensor } of graph.initializers) bytes += tensor?.byteLength ?? 0;
  return bytes;
}

const sized: [string, QuantizeOptions][] = [
  ['models/resnet20-cifar10.onnx', { weights: 'int8' }],
  // Dead filters have scales that float16 cannot hold, and whole tensors then fall back: a plan cannot know.
  ['models/resnet20-cifar10.onnx', { weights: 'int4:g32:scale32' }],
  ['models/resnet20-cifar10.onnx', { weights: 'int3:g64:sym:scale32' }],
  ['models/squeezenet1.1.onnx', { weights: 'uint5:channel' }],
  ['models/shakespeare-gpt.onnx', { weights: 'int8' }],
  ['models/shakespeare-gpt.onnx', { weights: 'int4:g32' }],
  ['models/nsnet2-gru.onnx', { weights: 'int4:g32' }],
  ['models/digits-ds2.onnx', { activations: 'dynamic' }],
  ['models/mobilenet-v2.onnx', { weights: 'float16' }],
];

describe.each(sized)('%s %o', (file, options) => {
  test.skipIf(!files.has(file))('predicted sizes are within 2 % of the real ones', async () => {
    const model = readModel(asset(file));
    const { model: result, report } = await quantizeModel(model, { ...options, compare: false }, await openRuntime());
    const { predictedBytes, floatBytes } = report.plan;
    const actual = bytesOf(result);
    expect(Math.abs(actual - predictedBytes) / actual).toBeLessThan(0.02);
    expect(predictedBytes).toBeLessThan(floatBytes);
  });
});

test('a plan with made-up samples corrects nothing and claims nothing', async () => {
  const runtime = await openRuntime();
  const samples = randomSamples([{ name: 'x', dtype: 'float32', shape: [1, 8, 6, 6] }], { count: 8 });
  const made = await quantizeModel(network(), { calibration: samples }, runtime);
  expect(made.report.stages).toBeUndefined();
  expect(made.report.calibration).toMatchObject({ synthetic: true, data: 'random', samples: 8 });
  expect(made.report.comparison?.synthetic).toBe(true);
  // The same numbers given as real ones are used for corrections.
  const list = noiseSamples(network(), 8);
  const real = await quantizeModel(network(), { calibration: samplesOf(list) }, runtime);
  expect(real.report.stages).toBeDefined();
});
