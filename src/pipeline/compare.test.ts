/** Comparisons: identical models, labels and agreement, and a collapse that is recognised and named. */
import { describe, expect, test } from 'vitest';
import { copyOf } from '../../test/support/lowered.ts';
import { Builder, noiseSamples, quantizeStatic, samplesOf } from '../../test/support/static.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { compare } from './compare.ts';
import { quantizeModel } from './quantize.ts';

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

describe('a float model that gives NaN or infinities', () => {
  const infected = (from: number) =>
    samplesOf(
      noiseSamples(model, 10).map((feeds, index) =>
        index < from ? feeds : { x: Tensor.float32(feeds.x.shape, new Float32Array(feeds.x.size).fill(Number.NaN)) },
      ),
    );

  test('is no reference: nothing is known, and nothing has collapsed', async () => {
    const { outputs, agreement, collapsed, notes, layers } = await compare(model, copyOf(model), infected(0), runtime);
    expect(outputs).toMatchObject([{ sqnr: Number.NaN, count: 0, referenceNonFinite: 40 }]);
    expect(agreement).toBeUndefined();
    expect(collapsed).toBeUndefined();
    expect(layers).toEqual([]);
    expect(notes[0]).toMatch(/float model itself gave only NaN or infinite values.*output "gemm"/);
  });

  test('counts where it is finite', async () => {
    const { outputs, notes, agreement } = await compare(model, copyOf(model), infected(4), runtime);
    expect(outputs).toMatchObject([{ sqnr: Number.POSITIVE_INFINITY, count: 16, referenceNonFinite: 24 }]);
    expect(agreement?.rows).toBe(4);
    expect(notes[0]).toMatch(/gave 24 NaN or infinite values/);
  });

  test('quantize names the input that holds them', async () => {
    const { report } = await quantizeModel(model, { calibration: infected(4) }, runtime);
    expect(report.notes.join()).toMatch(/Input "x" holds NaN or infinite values in 6 of the samples/);
  });
});

describe('refuses', () => {
  const refused = async (other: Model, message: RegExp, labels?: readonly number[]) => {
    const result = compare(model, other, samples, runtime, labels ? { labels } : {});
    await expect(result).rejects.toMatchObject({ code: 'usage', message: expect.stringMatching(message) });
  };
  /** A model with one input and one output of these names. */
  function other(input: string, shape: number[], output: string): Model {
    const b = new Builder();
    const flat = b.add('Flatten', [b.input(input, shape)]);
    const result = b.output(b.add('Gemm', [flat, b.weight([shape.slice(1).reduce((x, y) => x * y), 4])])).model;
    for (const value of result.graph.outputs) value.name = output;
    return result;
  }

  test('models of other inputs or outputs', async () => {
    await refused(other('other', [1, 4, 6, 6], 'gemm'), /input "x": expected it in both models, got "other"/);
    await refused(other('x', [1, 4, 5, 6], 'gemm'), /input "x": expected the same shape.*\[1,4,6,6\] and \[1,4,5,6\]/);
    await refused(other('x', [1, 4, 6, 6], 'scores'), /output "gemm": expected it in both models, got "scores"/);
  });

  test('labels that are no classes', async () => {
    await refused(copyOf(model), /labels: expected classes from 0 to 3.*"gemm" has 4.*got 99/, [0, 1, 99]);
    const options = { calibration: samples, labels: new Array<number>(10).fill(-1) };
    await expect(quantizeModel(model, options, runtime)).rejects.toThrow(/expected classes from 0 to 3.*got -1/);
  });
});
