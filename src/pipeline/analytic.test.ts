/** Correction by the statistics of BatchNormalization: means come back without a single sample. */
import { expect, test } from 'vitest';
import { run } from '../../test/support/lowered.ts';
import { Builder } from '../../test/support/static.ts';
import { createGaussian, createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type QuantizeOptions, quantizeModel } from './quantize.ts';

const runtime = await openRuntime();
const channels = 8;

/** BatchNormalization of what is normal already, so that its statistics are exact; then Relu, and a layer without padding. */
function network(): Model {
  const b = new Builder();
  const numbers = (of: (channel: number) => number) =>
    b.floats(
      [channels],
      Array.from({ length: channels }, (_, i) => of(i)),
    );
  const input = b.input('x', [4, channels, 12, 12]);
  const scale = numbers((channel) => 0.5 + 0.1 * channel);
  const shift = numbers((channel) => 0.6 - 0.2 * channel);
  const normal = b.add('BatchNormalization', [input, scale, shift, numbers(() => 0), numbers(() => 1)]);
  const weight = b.weight([24, channels, 3, 3]);
  return b.output(b.add('Conv', [b.add('Relu', [normal]), weight])).model;
}

async function meanErrors(float: Model, quantized: Model): Promise<number> {
  const gaussian = createGaussian(createRandom(3));
  const values = Float32Array.from({ length: 4 * channels * 144 }, gaussian);
  const feeds = { x: Tensor.float32([4, channels, 12, 12], values) };
  const [a, b] = await Promise.all([float, quantized].map(async (model) => Object.values(await run(model, feeds))[0]));
  const sums = new Float64Array(24);
  const [x, y] = [a.floats(), b.floats()];
  for (let i = 0; i < x.length; i++) sums[Math.floor(i / 100) % 24] += y[i] - x[i];
  return Math.sqrt(sums.reduce((total, sum) => total + (sum / 400) ** 2, 0) / 24);
}

test('what rounding does to the means of a layer behind BatchNormalization and Relu is made up for', async () => {
  const model = network();
  const options: QuantizeOptions = { weights: 'int2:channel', uniform: true };
  const plain = await quantizeModel(model, { ...options, corrections: [] }, runtime);
  const corrected = await quantizeModel(model, options, runtime);
  const [before, after] = [await meanErrors(model, plain.model), await meanErrors(model, corrected.model)];
  expect(before).toBeGreaterThan(0.2);
  expect(after).toBeLessThan(before / 5);
  expect(corrected.report.notes.join()).toContain(
    'Biases of 1 layers were corrected by the statistics of BatchNormalization',
  );
  expect(plain.report.notes.join()).not.toContain('BatchNormalization');
});
