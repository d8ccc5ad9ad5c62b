/** Comparisons: identical models, labels and agreement, and a collapse that is recognised and named. */
import { describe, expect, test } from 'vitest';
import { copyOf } from '../../test/support/lowered.ts';
import { Builder, noiseSamples, quantizeStatic, samplesOf } from '../../test/support/static.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { compare } from './compare.ts';

const runtime = await openRuntime();

/** Three convolutions and scores of four classes. */
function classifier(): Model {
  const b = new Builder();
  let x = b.input('x', [1, 4, 6, 6]);
  for (let i = 0; i < 3; i++) x = b.add('Relu', [b.conv(x, 4, 4)]);
  const flat = b.add('Flatten', [b.add('GlobalAveragePool', [x])]);
  return b.output(b.add('Gemm', [flat, b.weight([4, 4]), b.weight([4], 0.1)], { transB: 1 })).model;
}

const model = classifier();
const samples = samplesOf(noiseSamples(model, 10));

test('identical models do not differ', async () => {
  const result = await compare(model, copyOf(model), samples, runtime);
  expect(result).toMatchObject({ samples: 10, data: 'test', synthetic: false, layers: [] });
  expect(result.outputs).toMatchObject([{ tensor: 'gemm', sqnr: Number.POSITIVE_INFINITY, maxError: 0 }]);
  expect(result.agreement).toMatchObject({ top1: 1, rows: 10, floatAccuracy: undefined });
  expect(result.quantizedBytes).toBe(result.floatBytes);
  expect(result.collapsed).toBeUndefined();
  expect(result.latency).toBeUndefined();
});

test('labels give the accuracy of both', async () => {
  const session = await runtime.open((await import('../files/onnx/write.ts')).writeOnnx(model));
  const best: number[] = [];
  for await (const feeds of samples) {
    const scores = [...(await session.run(feeds)).gemm.floats()];
    best.push(scores.indexOf(Math.max(...scores)));
  }
  await session.close();
  // Three labels are wrong.
  const labels = best.map((label, index) => (index < 3 ? (label + 1) % 4 : label));
  const result = await compare(model, copyOf(model), samples, runtime, { labels });
  expect(result.agreement).toMatchObject({ top1: 1, floatAccuracy: 0.7, quantizedAccuracy: 0.7 });
});

test('layers are listed worst first, with their place in the graph', async () => {
  const { model: quantized } = await quantizeStatic(model, { weights: 'int4:channel', uniform: true });
  const { layers } = await compare(model, quantized, samples, runtime);
  expect(layers.map(({ tensor }) => tensor).sort()).toContain('relu_1');
  expect(layers.map(({ sqnr }) => sqnr)).toEqual(layers.map(({ sqnr }) => sqnr).sort((a, b) => a - b));
  const relu = layers.find(({ tensor }) => tensor === 'relu')!;
  expect(relu.op).toBe('Relu');
  expect(relu.position).toBeLessThan(layers.find(({ tensor }) => tensor === 'gemm')!.position);
  expect((await compare(model, quantized, samples, runtime, { layerSamples: 0 })).layers).toEqual([]);
});

describe('a collapse', () => {
  /** The second convolution turned upside down. */
  function broken(): Model {
    const copy = classifier();
    const weight = copy.graph.nodes.filter((node) => node.op === 'Conv')[1].input(1);
    weight.tensor = Tensor.float32(
      weight.tensor!.shape,
      weight.tensor!.floats().map((x) => -x),
    );
    return copy;
  }

  test('is recognised, and the first broken layer is named', async () => {
    const { collapsed, outputs } = await compare(model, broken(), samples, runtime);
    expect(outputs[0].sqnr).toBeLessThan(3);
    expect(collapsed?.layer).toBe('conv_1');
    expect(collapsed?.message).toMatch(
      /The quantized model has collapsed: output "gemm" has .* dB.*begins at Conv "conv_1"/,
    );
  });

  test('a little noise is none', async () => {
    const { model: quantized } = await quantizeStatic(model);
    expect((await compare(model, quantized, samples, runtime)).collapsed).toBeUndefined();
  });
});

test('the clock times both models, run by run', async () => {
  let now = 0;
  const clock = () => now++;
  const { latency } = await compare(model, copyOf(model), samples, runtime, { clock, runs: 5 });
  expect(latency).toEqual({ float: 1, quantized: 1, speedup: 1, runs: 5, batch: 1 });
});
