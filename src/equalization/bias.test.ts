/** Statistics of channels without data, what they say of rounded weights, and biases that move: against ONNX Runtime. */
import { describe, expect, test } from 'vitest';
import { asset, haveAssets } from '../../test/onnx/assets.ts';
import { difference, noise, run } from '../../test/support/before-after.ts';
import { Builder, samplesOf } from '../../test/support/static.ts';
import { createGaussian, createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { readModel } from '../node.ts';
import { foldBatchNorm } from '../passes/fold-batch-norm.ts';
import { type ChannelStatistics, equalizationNeeds, measureChannels } from '../pipeline/equalization.ts';
import { cloneModel, prepare } from '../pipeline/prepare.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { sizeOf, Tensor } from '../tensor/tensor.ts';
import { batchNormStatistics, dividedStatistics } from './batch-norm-statistics.ts';
import { absorbBiases } from './bias-absorption.ts';
import { analyticBiasCorrection } from './bias-correction.ts';
import { equalizeCrossLayers } from './cross-layer.ts';

const runtime = await openRuntime();

function gaussian(shape: readonly number[], seed: number): Tensor {
  const draw = createGaussian(createRandom(seed));
  return Tensor.float32(shape, Float32Array.from({ length: sizeOf(shape) }, draw));
}

const statistics = (model: Model, values: readonly (readonly [Value, number])[], feeds: readonly Feeds[]) =>
  measureChannels(
    model,
    values.map(([value, axis]) => ({ value, axis })),
    samplesOf(feeds),
    runtime,
  );

function expectNear(found: Float64Array, wanted: ArrayLike<number>, tolerance: number): void {
  for (const [channel, value] of found.entries()) expect(Math.abs(value - wanted[channel])).toBeLessThan(tolerance);
}

/** BatchNormalization of standard normal numbers is exactly what the statistics suppose. */
function normalizedNetwork() {
  const b = new Builder();
  const x = b.input('x', [4, 5, 16, 16]);
  const normalize = (value: Value) =>
    b.add('BatchNormalization', [
      value,
      b.weight([5], 2),
      b.weight([5], 2),
      b.floats([5], [0, 0, 0, 0, 0]),
      b.floats([5], [1, 1, 1, 1, 1]),
    ]);
  const first = normalize(x);
  const second = normalize(b.input('y', [4, 5, 16, 16]));
  const relu = b.add('Relu', [first]);
  const relu6 = b.add('Clip', [second, b.floats([], [0]), b.floats([], [1.5])]);
  const leaky = b.add('LeakyRelu', [second], { alpha: { type: 'float', value: 0.3 } });
  const sum = b.add('Add', [first, second]);
  const joined = b.add('Concat', [relu, relu6], { axis: 1 });
  const pooled = b.add('Flatten', [b.add('GlobalAveragePool', [relu])]);
  b.output(joined, leaky, sum, pooled);
  return { model: b.model, values: [first, relu, relu6, leaky, sum, joined], pooled };
}

describe('statistics without data', () => {
  test('are those of the numbers that BatchNormalization makes, and of what follows', async () => {
    const { model, values, pooled } = normalizedNetwork();
    const feeds = [1, 2, 3, 4].map((seed) => ({
      x: gaussian([4, 5, 16, 16], seed),
      y: gaussian([4, 5, 16, 16], seed + 9),
    }));
    const found = batchNormStatistics(model);
    const seen = await statistics(model, [...values.map((value) => [value, 1] as const), [pooled, 1]], feeds);
    for (const { name } of values) {
      const { mean, deviation } = seen.get(name)!;
      expectNear(found.get(name)!.mean, mean, 0.15);
      expectNear(found.get(name)!.deviation, deviation, 0.1);
    }
    const pool = found.get(pooled.name)!;
    expectNear(pool.mean, seen.get(pooled.name)!.mean, 0.15);
    for (const [channel, value] of pool.deviation.entries()) {
      expect(value).toBeGreaterThan(seen.get(pooled.name)!.deviation[channel]);
    }
  });

  test('follow the factors of equalization', async () => {
    const b = new Builder();
    const x = b.add('Relu', [b.conv(b.input('x', [1, 3, 5, 5]), 3, 4)]);
    const y = b.add('Add', [b.conv(x, 4, 4, [3, 3], 4), x]);
    const { model } = b.output(b.conv(y, 4, 2));
    const feeds = [1, 2].map((seed) => ({ x: noise([1, 3, 5, 5], seed) }));
    const measured = (one: Model) => measureChannels(one, equalizationNeeds(one), samplesOf(feeds), runtime);
    const before = await measured(model);
    const { scaled } = equalizeCrossLayers(model);
    const [after, divided] = [await measured(model), dividedStatistics(before, scaled)];
    expect([...divided.keys()]).toEqual([...after.keys()]);
    for (const [name, { mean, deviation }] of divided) {
      expectNear(mean, after.get(name)!.mean, 1e-5);
      expectNear(deviation, after.get(name)!.deviation, 1e-5);
    }
  });

  test('keep their names when BatchNormalization is folded', () => {
    const b = new Builder();
    const conv = b.conv(b.input('x', [1, 3, 4, 4]), 3, 4);
    const norm = b.add('BatchNormalization', [
      conv,
      b.weight([4]),
      b.weight([4]),
      b.weight([4]),
      b.floats([4], [1, 2, 3, 4]),
    ]);
    const { model } = b.output(b.add('Relu', [norm]));
    const found = batchNormStatistics(model);
    foldBatchNorm.run(model);
    expect([...found.keys()]).toEqual(model.graph.nodes.map((node) => node.output().name));
  });
});

describe('analytic bias correction', () => {
  test('is what rounding does to the mean, for every kind of layer', async () => {
    const b = new Builder();
    const x = b.input('x', [2, 6, 9, 9]);
    const flat = b.input('flat', [40, 6]);
    const layers = [
      b.add('Conv', [x, b.weight([4, 6, 3, 3]), b.weight([4])]),
      b.add('Conv', [x, b.weight([6, 1, 3, 3])], { group: 6 }),
      b.add('Conv', [x, b.weight([8, 3, 2, 2])], { group: 2 }),
      b.add('Gemm', [flat, b.weight([5, 6]), b.weight([5])], { transB: 1 }),
      b.add('Gemm', [flat, b.weight([6, 5])], { alpha: { type: 'float', value: 0.5 } }),
      b.add('MatMul', [flat, b.weight([6, 5])]),
    ];
    const { model } = b.output(...layers);
    const plus = (tensor: Tensor, seed: number) =>
      Tensor.float32(
        tensor.shape,
        tensor.floats().map((value) => value + seed),
      );
    const feeds = { x: plus(noise([2, 6, 9, 9], 1), 0.5), flat: plus(noise([40, 6], 2), -0.3) };
    // Borders see other positions than the middle, so the input is one number a channel here, with its mean.
    const constantFeeds = {
      x: Tensor.float32(
        [2, 6, 9, 9],
        feeds.x.floats().map((_, index) => feeds.x.floats()[(Math.floor(index / 81) % 6) * 81]),
      ),
      flat: feeds.flat,
    };
    const means = new Map([
      ['x', { mean: Array.from({ length: 6 }, (_, channel) => constantFeeds.x.floats()[channel * 81]) }],
      [
        'flat',
        {
          mean: Array.from(
            { length: 6 },
            (_, channel) =>
              feeds.flat
                .floats()
                .filter((__, i) => i % 6 === channel)
                .reduce((a, v) => a + v, 0) / 40,
          ),
        },
      ],
    ]);
    const rounded = cloneModel(model);
    const roundedLayers = model.graph.nodes.map((node, index) => {
      const quantized = node
        .input(1)
        .tensor!.floats()
        .map((value) => Math.floor(value * 3) / 3);
      const twin = rounded.graph.nodes[index].input(1);
      twin.tensor = Tensor.float32(twin.tensor!.shape, quantized);
      return { node, quantized };
    });
    const shifts = analyticBiasCorrection(roundedLayers, means);
    const [before, after] = [await run(model, constantFeeds), await run(rounded, constantFeeds)];
    expect(shifts.size).toBe(6);
    for (const { name, producer } of layers) {
      const shift = shifts.get(name)!;
      const [a, c] = [before[name], after[name]];
      const axis = producer!.op === 'Conv' ? a.shape[2] * a.shape[3] : 1;
      const sums = new Float64Array(shift.length);
      a.floats().forEach((value, index) => {
        sums[Math.floor(index / axis) % shift.length] += value - c.floats()[index];
      });
      const count = a.size / shift.length;
      for (const [channel, value] of shift.entries()) expect(value).toBeCloseTo(sums[channel] / count, 4);
    }
  });

  test('leaves out layers of unknown inputs', () => {
    const b = new Builder();
    b.output(b.conv(b.input('x', [1, 3, 4, 4]), 3, 4));
    const [node] = b.graph.nodes;
    expect(analyticBiasCorrection([{ node, quantized: node.input(1).tensor!.floats() }], new Map()).size).toBe(0);
  });
});

describe('bias absorption', () => {
  /** Convolutions whose results lie far above zero, in some channels. */
  const network = (pads: number, act = 'Relu') => {
    const b = new Builder();
    const x = b.input('x', [1, 3, 8, 8]);
    const first = b.add('Conv', [x, b.weight([4, 3, 1, 1], 0.1), b.floats([4], [5, 0, 9, -1])]);
    const value = b.add('MaxPool', [b.add(act, [first])], { kernel_shape: [2, 2] });
    const second = b.add('Conv', [value, b.weight([6, 4, 3, 3]), b.weight([6])], { pads: [pads, pads, pads, pads] });
    return b.output(second).model;
  };
  const feeds = [1, 2, 3].map((seed) => ({ x: noise([1, 3, 8, 8], seed) }));
  const measured = (model: Model): Promise<Map<string, ChannelStatistics>> =>
    measureChannels(model, equalizationNeeds(model), samplesOf(feeds), runtime);

  test('moves what Relu never cuts; results stay', async () => {
    const model = network(0);
    const copy = cloneModel(model);
    const seen = await measured(model);
    const [done, ...others] = absorbBiases(copy, seen);
    expect(others).toEqual([]);
    expect(done.channels).toBe(2);
    expect(done.largest).toBeGreaterThan(8);
    for (const feed of feeds) expect(difference(await run(model, feed), await run(copy, feed))).toBeLessThan(1e-5);
    const relu = copy.graph.nodes[1].output().name;
    expect((await measured(copy)).get(copy.graph.nodes[0].output().name)!.most[2]).toBeLessThan(2);
    expect(relu).toBe(model.graph.nodes[1].output().name);
  });

  test.each([
    ['padding before the next layer', network(1)],
    ['another function than Relu', network(0, 'LeakyRelu')],
  ])('leaves %s alone', async (_, model) => {
    const copy = cloneModel(model);
    expect(absorbBiases(copy, await measured(model))).toEqual([]);
    expect(difference(await run(model, feeds[0]), await run(copy, feeds[0]))).toBe(0);
  });
});

test.skipIf(!haveAssets)('resnet20: its statistics name values of the folded model', async () => {
  const float = readModel(asset('models/resnet20-cifar10.onnx'));
  const found = batchNormStatistics(float);
  const { model } = await prepare(float, runtime);
  const names = new Set(model.graph.nodes.flatMap((node) => node.outputs.map((output) => output?.name)));
  expect(found.size).toBe(53);
  const relus = model.graph.nodes.filter(({ op }) => op === 'Relu').map((node) => node.output().name);
  for (const name of relus) expect(names.has(name) && found.has(name), name).toBe(true);
});
