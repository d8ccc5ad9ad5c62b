/** Equalized ranges, what they do to outputs, clips of every choice, and that noise falls where the model says so. */
import { describe, expect, test } from 'vitest';
import { difference, noise, run } from '../../test/support/before-after.ts';
import { Builder, samplesOf } from '../../test/support/static.ts';
import { createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { equalizationNeeds, measureChannels, peaksOf } from '../pipeline/equalization.ts';
import { cloneModel } from '../pipeline/prepare.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';

import { type CrossLayerOptions, equalizeCrossLayers } from './cross-layer.ts';
import { findGroups } from './groups.ts';
import { noiseOf } from './noise.ts';
import { magnitudes } from './scale.ts';

const runtime = await openRuntime();

/** A weight whose channels on axis 0 differ by powers of ten. */
function uneven(b: Builder, shape: readonly number[], seed: number): Value {
  const random = createRandom(seed);
  const weight = b.weight(shape);
  const sizes = Array.from({ length: shape[0] }, () => 10 ** (2 * random() - 1));
  const inner = weight.tensor!.size / shape[0];
  return b.floats(
    shape,
    Array.from(weight.tensor!.floats(), (value, index) => value * sizes[Math.floor(index / inner)]),
  );
}

/** conv → clip or Relu → depthwise → clip or Relu → conv. */
function triple(act: (b: Builder, x: Value) => Value): Model {
  const b = new Builder();
  const x = b.input('x', [1, 3, 6, 6]);
  const first = act(b, b.add('Conv', [x, uneven(b, [8, 3, 1, 1], 1), b.weight([8])]));
  const second = act(b, b.add('Conv', [first, uneven(b, [8, 1, 3, 3], 2), b.weight([8])], { group: 8 }));
  return b.output(b.add('Conv', [second, b.weight([4, 8, 1, 1]), b.weight([4])])).model;
}

const relu = (b: Builder, x: Value) => b.add('Relu', [x]);
const relu6 = (b: Builder, x: Value) => b.add('Clip', [x, b.floats([], [0]), b.floats([], [0.6])]);
const feeds: Feeds[] = Array.from({ length: 4 }, (_, index) => ({ x: noise([1, 3, 6, 6], index + 1) }));

async function equalized(model: Model, options: CrossLayerOptions) {
  const copy = cloneModel(model);
  const result = equalizeCrossLayers(copy, options);
  let gap = 0;
  for (const feed of feeds) gap = Math.max(gap, difference(await run(model, feed), await run(copy, feed)));
  return { copy, result, gap };
}

const statisticsOf = (model: Model) => measureChannels(model, equalizationNeeds(model), samplesOf(feeds), runtime);

/** Ranges before and behind each group. */
const rangesOf = (model: Model) =>
  findGroups(model.graph).groups.map(({ producers, consumers, channels }) =>
    [producers[0], consumers[0]].map((slot) => magnitudes(slot, slot.node.input(1).tensor!.floats(), channels)),
  );

describe('ranges', () => {
  test('of a pair are alike after one round, √(r₁·r₂) each', async () => {
    const b = new Builder();
    const x = relu(b, b.add('Conv', [b.input('x', [1, 3, 6, 6]), uneven(b, [8, 3, 1, 1], 1), b.weight([8])]));
    const model = b.output(b.add('Conv', [x, b.weight([4, 8, 3, 3])])).model;
    const [[r1, r2]] = rangesOf(model);
    const { copy, gap } = await equalized(model, {});
    const [[after1, after2]] = rangesOf(copy);
    for (const [channel, range] of after1.entries()) {
      expect(range / after2[channel]).toBeCloseTo(1, 5);
      expect(range / Math.sqrt(r1[channel] * r2[channel])).toBeCloseTo(1, 5);
    }
    expect(gap).toBeLessThan(1e-5);
  });

  test('of a triple are alike after some, (r₁·r₂·r₃)^⅓ each', async () => {
    const model = triple(relu);
    const [[r1, r2], [, r3]] = rangesOf(model);
    const { copy, result, gap } = await equalized(model, {});
    const [[after1, after2], [, after3]] = rangesOf(copy);
    for (let channel = 0; channel < 8; channel++) {
      const wanted = Math.cbrt(r1[channel] * r2[channel] * r3[channel]);
      for (const range of [after1, after2, after3]) expect(range[channel] / wanted).toBeCloseTo(1, 2);
    }
    expect(result.iterations).toBeLessThanOrEqual(20);
    expect(gap).toBeLessThan(1e-5);
  });

  test('of dead channels stay, and factors keep their limit', async () => {
    const b = new Builder();
    const weight = b.weight([4, 3, 1, 1]);
    const values = weight.tensor!.floats().map((value, index) => (index < 3 ? 0 : index < 6 ? value * 1e-4 : value));
    const x = relu(b, b.add('Conv', [b.input('x', [1, 3, 6, 6]), b.floats([4, 3, 1, 1], [...values]), b.weight([4])]));
    const model = b.output(b.add('Conv', [x, b.weight([4, 4, 1, 1])])).model;
    const { result, gap } = await equalized(model, { limit: 8 });
    const [divisors] = result.scaled[0].divisors.values();
    expect(divisors[0]).toBe(1);
    expect(divisors[1]).toBe(1 / 8);
    expect(gap).toBeLessThan(1e-5);
  });

  test('are balanced against activations on demand', async () => {
    const model = triple(relu);
    const statistics = await statisticsOf(model);
    const { copy, gap } = await equalized(model, { activationShare: 1, peaks: peaksOf(statistics) });
    const after = await statisticsOf(copy);
    for (const { consumers, channels } of findGroups(copy.graph).groups) {
      const { peak } = after.get(consumers[0].node.input(0).name)!;
      const ranges = magnitudes(consumers[0], consumers[0].node.input(1).tensor!.floats(), channels);
      const ratios = [...peak].flatMap((value, channel) => (value > 0 ? [value / ranges[channel]] : []));
      expect(Math.max(...ratios) / Math.min(...ratios)).toBeLessThan(1.01);
    }
    expect(gap).toBeLessThan(1e-5);
  });
});

describe('clips', () => {
  const operators = (model: Model) => model.graph.nodes.map(({ op }) => op);

  test('keep their groups from being scaled', async () => {
    const { result, gap } = await equalized(triple(relu6), { clips: 'keep' });
    expect(result.scaled).toEqual([]);
    expect(result.refused.map(({ reason }) => reason).join()).toContain('Clip');
    expect(gap).toBe(0);
  });

  test('get a bound for each channel', async () => {
    const { copy, result, gap } = await equalized(triple(relu6), { clips: 'exact' });
    expect(result.clips).toEqual({ removed: 0, perChannel: 2 });
    expect(operators(copy)).toEqual(['Conv', 'Relu', 'Min', 'Conv', 'Relu', 'Min', 'Conv']);
    expect(gap).toBeLessThan(1e-5);
  });

  test('go where nothing came near them, and not where something did', async () => {
    const far = triple((b, x) => b.add('Clip', [x, b.floats([], [0]), b.floats([], [1e6])]));
    const { copy, gap } = await equalized(far, { clips: 'exact', peaks: peaksOf(await statisticsOf(far)) });
    expect(operators(copy)).toEqual(['Conv', 'Relu', 'Conv', 'Relu', 'Conv']);
    expect(gap).toBeLessThan(1e-5);
    const near = triple(relu6);
    const kept = await equalized(near, { clips: 'exact', peaks: peaksOf(await statisticsOf(near)) });
    expect(operators(kept.copy)).toContain('Min');
    expect(kept.gap).toBeLessThan(1e-5);
  });

  test('without a bound change results', async () => {
    const { copy, gap } = await equalized(triple(relu6), { clips: 'unbounded' });
    expect(operators(copy)).toEqual(['Conv', 'Relu', 'Conv', 'Relu', 'Conv']);
    expect(gap).toBeGreaterThan(1e-3);
  });

  test('with one bound for all stay one operator, exact on what was measured', async () => {
    const model = triple(relu6);
    const { copy, result, gap } = await equalized(model, {
      clips: 'shared',
      peaks: peaksOf(await statisticsOf(model)),
    });
    expect(operators(copy)).toEqual(operators(model));
    expect(result.scaled).toHaveLength(2);
    expect(gap).toBeLessThan(1e-5);
  });
});

describe('the model of noise', () => {
  const settings = { weightBits: 8, perChannel: false, activationBits: 8 } as const;

  test('is made smaller, with results as they were', async () => {
    const model = triple(relu);
    const statistics = await statisticsOf(model);
    const noiseIn = async (one: Model) => {
      const seen = await statisticsOf(one);
      return findGroups(one.graph).groups.map((group) =>
        noiseOf(group, { ...settings, statistics: seen }, new Float64Array(group.channels).fill(1)),
      );
    };
    const before = await noiseIn(model);
    const { copy, gap } = await equalized(model, { noise: { ...settings, statistics } });
    const after = await noiseIn(copy);
    expect(after).toHaveLength(2);
    const total = (noises: typeof before) => noises.reduce<number>((sum, one) => sum + one!, 0);
    expect(total(after)).toBeLessThan(0.8 * total(before));
    expect(gap).toBeLessThan(1e-5);
  });

  test('agrees with steps in any direction: what was found is a minimum', async () => {
    const model = triple(relu);
    const { copy } = await equalized(model, { noise: { ...settings, statistics: await statisticsOf(model) } });
    const seen = await statisticsOf(copy);
    const random = createRandom(3);
    for (const group of findGroups(copy.graph).groups) {
      const at = (steps: Float64Array) => noiseOf(group, { ...settings, statistics: seen }, steps)!;
      const still = at(new Float64Array(group.channels).fill(1));
      for (let trial = 0; trial < 20; trial++) {
        // The p-norm in place of a maximum moves the minimum a little.
        expect(at(Float64Array.from({ length: group.channels }, () => 4 ** (2 * random() - 1)))).toBeGreaterThan(
          0.9 * still,
        );
      }
    }
  });

  /** conv → LeakyRelu → conv, with a channel that is below 0 throughout: small behind the function, large before it. */
  function leaky(): Model {
    const b = new Builder();
    const biases = b.floats([8], [-6, 0.1, -0.1, 0.2, 0, 0.3, -0.2, 0]);
    const first = b.add('Conv', [b.input('x', [1, 3, 6, 6]), b.weight([8, 3, 1, 1], 0.5), biases]);
    const behind = b.add('LeakyRelu', [first], { alpha: { type: 'float', value: 0.02 } });
    return b.output(b.add('Conv', [behind, b.weight([4, 8, 1, 1]), b.weight([4])])).model;
  }

  test.each([false, true])('knows whether results are rounded before functions (%s)', async (isRounded) => {
    const model = leaky();
    const statistics = await statisticsOf(model);
    const result = model.graph.nodes[0].output().name;
    const rounded = new Set(isRounded ? [result] : []);
    const { copy, gap } = await equalized(model, { noise: { ...settings, perChannel: true, statistics, rounded } });
    expect(gap).toBeLessThan(1e-5);
    const seen = await statisticsOf(copy);
    // The step of the other channels' results, in their own size.
    const share = ({ most, least }: { most: ArrayLike<number>; least: ArrayLike<number> }) => {
      const peaks = Array.from(most, (high, channel) => Math.max(high, -least[channel]));
      return peaks[0] / Math.max(...peaks.slice(1));
    };
    const [before, after] = [statistics, seen].map((one) => share(one.get(result)!));
    if (isRounded) expect(after).toBeLessThan(0.5 * before);
    else expect(after).toBeGreaterThan(1.3 * before);
  });

  test('counts the rows of embeddings, whose channels are scaled for the layer that reads them', async () => {
    const b = new Builder();
    const sizes = [1, 12];
    const parts = sizes.map((size, index) =>
      b.add('Gather', [b.weight([20, 8], size), b.input(`id${index}`, [6], 'int64')]),
    );
    const joined = b.add('Concat', parts, { axis: 1 });
    const hidden = b.add('Relu', [b.add('Gemm', [joined, b.weight([16, 8]), b.weight([8])])]);
    const { model } = b.output(b.add('Gemm', [hidden, b.weight([8, 4]), b.weight([4])]));
    const ids = Array.from({ length: 6 }, (_, index) => {
      const random = createRandom(index);
      const some = () =>
        Tensor.int64(
          [6],
          Array.from({ length: 6 }, () => Math.floor(20 * random())),
        );
      return { id0: some(), id1: some() };
    });
    const statistics = await measureChannels(model, equalizationNeeds(model), samplesOf(ids), runtime);
    const copy = cloneModel(model);
    equalizeCrossLayers(copy, { noise: { ...settings, perChannel: true, statistics } });
    for (const feed of ids) expect(difference(await run(model, feed), await run(copy, feed))).toBeLessThan(1e-5);
    const largest = (value: Value) => value.tensor!.floats().reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const [small, large] = copy.graph.nodes.filter(({ op }) => op === 'Gather').map((node) => largest(node.input(0)));
    expect(large / small).toBeLessThan(4);
  });
});
