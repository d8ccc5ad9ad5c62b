/** Corrections: known losses are made up for, and what makes matters worse is taken back. */
import { describe, expect, test } from 'vitest';
import { noise, run } from '../../test/support/lowered.ts';
import { Builder, samplesOf } from '../../test/support/static.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import type { AttributeInput } from '../graph/attribute.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { correctionTargets } from './correction-targets.ts';
import { makePlan } from './plan.ts';
import { type QuantizeOptions, quantizeModel } from './quantize.ts';
import { makeRecipe } from './recipe.ts';

const runtime = await openRuntime();
const options: QuantizeOptions = { weights: 'int2:channel:sym', uniform: true, activations: 'none', compare: false };

/** Inputs around `mean`. */
const inputs = (shape: readonly number[], mean: (index: number) => number, count = 40): Feeds[] =>
  Array.from({ length: count }, (_, index) => {
    const values = noise(
      shape.reduce((a, b) => a * b, 1),
      index + 1,
    ).map((x) => x + mean(index));
    return { x: Tensor.float32(shape, values) };
  });

/** Mean and mean square of every channel of the one output, over the samples. */
async function momentsOf(model: Model, feeds: readonly Feeds[], axis: number) {
  const { name } = model.graph.outputs[0];
  let means: Float64Array = new Float64Array(0);
  let squares: Float64Array = new Float64Array(0);
  let count = 0;
  for (const feed of feeds) {
    const tensor = (await run(model, feed))[name];
    const channels = tensor.shape.at(axis)!;
    const inner = tensor.shape.slice(axis < 0 ? tensor.shape.length + axis + 1 : axis + 1).reduce((a, b) => a * b, 1);
    if (means.length === 0) [means, squares] = [new Float64Array(channels), new Float64Array(channels)];
    tensor.floats().forEach((value, index) => {
      const channel = Math.floor(index / inner) % channels;
      means[channel] += value;
      squares[channel] += value ** 2;
    });
    count += tensor.size / channels;
  }
  const mean = [...means].map((sum) => sum / count);
  const deviation = [...squares].map((sum, channel) => Math.sqrt(sum / count - mean[channel] ** 2));
  return { mean, deviation };
}

const largest = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((x, index) => Math.abs(x - b[index])));

const layers: [string, readonly number[], number, (b: Builder) => Builder][] = [
  ['Conv', [2, 16, 6, 6], 1, (b) => b.output(b.conv(b.input('x', [2, 16, 6, 6]), 16, 12))],
  [
    'Conv without bias',
    [2, 16, 6, 6],
    1,
    (b) => b.output(b.add('Conv', [b.input('x', [2, 16, 6, 6]), b.weight([12, 16, 3, 3])])),
  ],
  [
    'ConvTranspose',
    [2, 16, 6, 6],
    1,
    (b) => b.output(b.add('ConvTranspose', [b.input('x', [2, 16, 6, 6]), b.weight([16, 12, 3, 3])])),
  ],
  [
    'Gemm',
    [8, 64],
    -1,
    (b) => b.output(b.add('Gemm', [b.input('x', [8, 64]), b.weight([12, 64]), b.weight([1])], { transB: 1 })),
  ],
  [
    'MatMul and Add',
    [8, 64],
    -1,
    (b) => b.output(b.add('Add', [b.add('MatMul', [b.input('x', [8, 64]), b.weight([64, 12])]), b.weight([12])])),
  ],
];

describe.each(layers)('%s', (_, shape, axis, make) => {
  test('the mean of every channel comes back, and its deviation', async () => {
    const { model } = make(new Builder());
    const feeds = inputs(shape, () => 1.5);
    const calibration = samplesOf(feeds);
    const before = await quantizeModel(model, { ...options, calibration, corrections: [] }, runtime);
    const after = await quantizeModel(model, { ...options, calibration }, runtime);
    expect(after.report.stages?.[1]).toMatchObject({ stage: 'bias', changed: 1, kept: true, left: [] });
    expect(before.report.stages).toBeUndefined();

    // The samples that were not held out.
    const seen = feeds.filter((_, index) => index % 4 !== 3);
    const [float, plain, corrected] = await Promise.all(
      [model, before.model, after.model].map((one) => momentsOf(one, seen, axis)),
    );
    expect(largest(float.mean, plain.mean)).toBeGreaterThan(0.5);
    expect(largest(float.mean, corrected.mean)).toBeLessThan(1e-3);
    expect(largest(float.deviation, corrected.deviation)).toBeLessThan(1e-3);
  });
});

test('static activations: biases become int32 with the correction in them', async () => {
  const b = new Builder();
  const { model } = b.output(b.conv(b.input('x', [2, 16, 6, 6]), 16, 12));
  const feeds = inputs([2, 16, 6, 6], () => 1.5);
  const both = await Promise.all(
    [['bias' as const], []].map((corrections) =>
      quantizeModel(model, { ...options, activations: 'uint8', calibration: samplesOf(feeds), corrections }, runtime),
    ),
  );
  const [float, corrected, plain] = await Promise.all(
    [model, both[0].model, both[1].model].map((one) => momentsOf(one, feeds, 1)),
  );
  expect(largest(float.mean, plain.mean)).toBeGreaterThan(0.5);
  expect(largest(float.mean, corrected.mean)).toBeLessThan(0.1);
  const conv = both[0].model.graph.nodes.find((node) => node.op === 'Conv')!;
  expect(conv.input(2).producer?.input(0).tensor?.dtype).toBe('int32');
});

test.each<[string, Record<string, AttributeInput>]>([
  ['Relu', {}],
  ['LeakyRelu', { alpha: { type: 'float', value: 0.1 } }],
])('static activations: means come back behind %s, which turns noise into a shift', async (op, attributes) => {
  const b = new Builder();
  const { model } = b.output(b.add(op, [b.conv(b.input('x', [2, 16, 6, 6]), 16, 12)], attributes));
  const feeds = inputs([2, 16, 6, 6], () => 1.5);
  const shared: QuantizeOptions = { ...options, activations: 'uint8', calibration: samplesOf(feeds) };
  const after = await quantizeModel(model, shared, runtime);
  expect(after.report.stages?.[1]).toMatchObject({ stage: 'bias', kept: true });
  const seen = feeds.filter((_, index) => index % 4 !== 3);
  const [float, corrected] = await Promise.all([model, after.model].map((one) => momentsOf(one, seen, 1)));
  // Codes of 2 bits make so much noise that means behind the function are off by 0.11 where those before it are right.
  expect(largest(float.mean, corrected.mean)).toBeLessThan(0.05);
});

test('a correction that does harm on held-out samples is taken back', async () => {
  const { model } = layers[0][3](new Builder());
  // Every fourth sample is held out, and lies on the other side of zero.
  const feeds = inputs([2, 16, 6, 6], (index) => (index % 4 === 3 ? -3 : 3));
  const calibration = samplesOf(feeds);
  const after = await quantizeModel(model, { ...options, weightRange: 'min-max', calibration }, runtime);
  expect(after.report.stages?.[1]).toMatchObject({ stage: 'bias', kept: false });
  expect(after.report.notes.join()).toContain('bias was taken back');
  const off = { ...options, weightRange: 'min-max' as const, calibration, corrections: [] };
  const without = await quantizeModel(model, off, runtime);
  expect(Buffer.compare(writeOnnx(after.model), writeOnnx(without.model))).toBe(0);
});

describe('targets', () => {
  const targetsOf = (b: Builder) => correctionTargets(makePlan(b.model, makeRecipe({ uniform: true }, false)));

  test('a sum with one number a row is no bias', () => {
    const b = new Builder();
    const product = b.add('MatMul', [b.input('x', [64, 64]), b.weight([64, 64])]);
    b.output(b.add('Add', [product, b.weight([64, 1])]));
    expect(targetsOf(b).map(({ bias }) => bias)).toEqual([undefined]);
  });

  test('a product that is read twice has no place for a bias', () => {
    const b = new Builder();
    const product = b.add('MatMul', [b.input('x', [64, 64]), b.weight([64, 64])]);
    b.output(b.add('Add', [product, b.weight([64])]), b.add('Tanh', [product]));
    expect(targetsOf(b)).toMatchObject([{ tensor: 'matmul', bias: undefined }]);
  });

  test('a weight with two readers is corrected at both', () => {
    const b = new Builder();
    const weight = b.weight([64, 64]);
    const first = b.add('Gemm', [b.input('x', [4, 64]), weight]);
    b.output(b.add('Gemm', [b.add('Tanh', [first]), weight]));
    expect(targetsOf(b).map(({ tensor }) => tensor)).toEqual(['gemm', 'gemm_1']);
  });
});
