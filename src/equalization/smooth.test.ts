/** SmoothQuant's and AWQ's factors on a small transformer: the formula, exact results, and less error where it counts. */
import { describe, expect, test } from 'vitest';
import { difference, noise, run } from '../../test/support/before-after.ts';
import { Builder, samplesOf } from '../../test/support/static.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { equalizationNeeds, measureChannels, weighOnSamples } from '../pipeline/equalization.ts';
import { cloneModel } from '../pipeline/prepare.ts';
import { openRuntime } from '../runtime/node.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import { smooth } from './smooth.ts';

const runtime = await openRuntime();

/** LayerNormalization with outlying channels, read by two products; a gated layer behind it. */
function transformer(): Model {
  const b = new Builder();
  const x = b.input('x', [2, 12, 16]);
  const gamma = b.floats(
    [16],
    Array.from({ length: 16 }, (_, index) => (index === 3 ? 40 : index === 7 ? 15 : 1)),
  );
  const norm = b.add('LayerNormalization', [x, gamma, b.weight([16])]);
  const gate = b.add('Sigmoid', [b.add('MatMul', [norm, b.weight([16, 32], 0.1)])]);
  const up = b.add('MatMul', [norm, b.weight([16, 32])]);
  return b.output(b.add('MatMul', [b.add('Mul', [gate, up]), b.weight([32, 16])])).model;
}

const feeds = [1, 2, 3, 4].map((seed) => ({ x: noise([2, 12, 16] as Shape, seed) }));
const model = transformer();
const measured = (one: Model) => measureChannels(one, equalizationNeeds(one), samplesOf(feeds), runtime);

/** The error of the results with weights rounded to 4 bits a channel, relative. */
async function roundedError(one: Model): Promise<number> {
  const rounded = cloneModel(one);
  for (const { inputs } of rounded.graph.nodes) {
    const tensor = inputs[1]?.tensor;
    if (tensor?.shape.length !== 2) continue;
    const [rows, columns] = tensor.shape;
    const values = tensor.floats().slice();
    for (let column = 0; column < columns; column++) {
      let most = 0;
      for (let row = 0; row < rows; row++) most = Math.max(most, Math.abs(values[row * columns + column]));
      const step = most / 7;
      for (let row = 0; row < rows; row++) {
        const index = row * columns + column;
        values[index] = Math.floor(values[index] / step + 0.5) * step;
      }
    }
    inputs[1]!.tensor = Tensor.float32(tensor.shape, values);
  }
  let [error, energy] = [0, 0];
  for (const feed of feeds) {
    const [[a], [b]] = [Object.values(await run(model, feed)), Object.values(await run(rounded, feed))];
    const other = b.floats();
    a.floats().forEach((value, index) => {
      error += (value - other[index]) ** 2;
      energy += value ** 2;
    });
  }
  return error / energy;
}

describe('SmoothQuant', () => {
  test('divides by max|X|^α / max|W|^(1−α), and results stay', async () => {
    const seen = await measured(model);
    for (const strength of [0.25, 0.5, 0.8]) {
      const copy = cloneModel(model);
      const done = smooth(copy, { statistics: seen, strength });
      expect(done.map(({ channels }) => channels)).toEqual([16, 32]);
      for (const feed of feeds) expect(difference(await run(model, feed), await run(copy, feed))).toBeLessThan(1e-5);
      const norm = model.graph.nodes[0].output().name;
      const divisors = done[0].divisors.get(norm)!;
      const weights = [1, 3].map((index) => model.graph.nodes[index].input(1).tensor!.floats());
      for (let channel = 0; channel < 16; channel++) {
        const most = Math.max(
          ...weights.flatMap((values) => [...values.subarray(channel * 32, channel * 32 + 32)].map(Math.abs)),
        );
        const wanted = seen.get(norm)!.peak[channel] ** strength / most ** (1 - strength);
        expect(divisors[channel] / wanted).toBeCloseTo(1, 6);
      }
      const after = (await measured(copy)).get(norm)!.peak;
      const spread = (peaks: Float64Array) => Math.max(...peaks) / Math.min(...peaks);
      expect(spread(after)).toBeLessThan(spread(seen.get(norm)!.peak));
    }
  });

  test('searches the strength of each group', async () => {
    const copy = cloneModel(model);
    const done = smooth(copy, { statistics: await measured(model), strength: 'search' });
    expect(done[0].strength).toBeGreaterThan(0.2);
    for (const feed of feeds) expect(difference(await run(model, feed), await run(copy, feed))).toBeLessThan(1e-5);
  });
});

describe('AWQ', () => {
  test('finds factors that make the error of 4 bits a channel less; results stay', async () => {
    const copy = cloneModel(model);
    const scheme = parseScheme('int4:channel');
    const done = await weighOnSamples(copy, () => scheme, samplesOf(feeds), runtime);
    expect(done).toHaveLength(2);
    expect(done[0].exponent).toBeGreaterThan(0);
    expect(done[0].gain).toBeLessThan(0.9);
    for (const feed of feeds) expect(difference(await run(model, feed), await run(copy, feed))).toBeLessThan(1e-5);
    expect(await roundedError(copy)).toBeLessThan(0.9 * (await roundedError(model)));
  });

  test('leaves alone what stays float', async () => {
    const copy = cloneModel(model);
    expect(await weighOnSamples(copy, () => undefined, samplesOf(feeds), runtime)).toEqual([]);
    expect(difference(await run(model, feeds[0]), await run(copy, feeds[0]))).toBe(0);
  });
});
