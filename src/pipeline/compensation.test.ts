/** The solver gptq from end to end: better than the nearest codes on samples it has not seen, and honest where it is not. */
import { describe, expect, it } from 'vitest';
import { addInput, addOutput, emptyModel, noise, noiseTensor } from '../../test/support/lowered.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import { randomSamples } from '../samples/random.ts';
import type { Samples } from '../samples/sample.ts';
import { Tensor } from '../tensor/tensor.ts';
import { compare } from './compare.ts';
import { quantizeModel } from './quantize.ts';

const runtime = await openRuntime('onnxruntime-node');

/** Convolutions, one of them in groups and one depthwise, and a Gemm. */
function network(): Model {
  const model = emptyModel();
  const { graph } = model;
  const image = addInput(graph, 'image', [1, 8, 10, 10]);
  const layer = (op: string, input: typeof image, shape: number[], attributes = {}) => {
    const { length } = graph.nodes;
    const bias = graph.addInitializer(`bias_${length}`, noiseTensor([shape[0]], length + 50));
    const weight = graph.addInitializer(`weight_${length}`, noiseTensor(shape, length + 1));
    return graph.add({ op, inputs: [input, weight, bias], outputs: [`layer_${length}`], attributes }).output();
  };
  const relu = (input: typeof image) =>
    graph.add({ op: 'Relu', inputs: [input], outputs: [`relu_${graph.nodes.length}`] }).output();
  let value = relu(layer('Conv', image, [32, 8, 3, 3]));
  value = relu(layer('Conv', value, [32, 1, 3, 3], { group: 32 }));
  value = relu(layer('Conv', value, [64, 16, 3, 3], { group: 2 }));
  value = graph.add({ op: 'GlobalAveragePool', inputs: [value], outputs: ['pooled'] }).output();
  value = graph.add({ op: 'Flatten', inputs: [value], outputs: ['flat'] }).output();
  addOutput(graph, layer('Gemm', value, [40, 64], { transB: 1 }));
  return model;
}

/** Smooth pictures: neighbours are correlated, as in real ones. */
function pictures(count: number, seed: number): Samples {
  return {
    description: 'smooth pictures',
    count,
    async *[Symbol.asyncIterator]() {
      for (let index = 0; index < count; index++) {
        const [a, b] = [0, 1].map((part) => noise(8, seed + 2 * index + part));
        const values = Float32Array.from({ length: 800 }, (_, i) => {
          const [channel, place] = [Math.floor(i / 100), i % 100];
          return a[channel] + Math.sin((place % 10) * 0.4 * b[channel]) + Math.cos(Math.floor(place / 10) * a[channel]);
        });
        yield { image: Tensor.float32([1, 8, 10, 10], values) };
      }
    },
  };
}

const run = (weights: string, solver: 'nearest' | 'gptq') =>
  quantizeModel(network(), { weights, solver, uniform: true, calibration: pictures(96, 1), samples: 96 }, runtime);

describe('solver gptq', () => {
  it.each(['int3:g16', 'int4:channel', 'nf4:g16', 'ternary:g16', 'kmeans2:channel'])(
    '%s: brings outputs of other samples closer than the nearest codes do',
    async (weights) => {
      const [nearest, gptq] = [await run(weights, 'nearest'), await run(weights, 'gptq')];
      const test = pictures(40, 5000);
      const sqnr = async ({ model }: typeof gptq) => (await compare(network(), model, test, runtime)).outputs[0].sqnr;
      const stage = gptq.report.stages?.find((one) => one.stage === 'gptq');
      expect(stage).toMatchObject({ changed: 3, kept: true, left: [] });
      expect(stage?.gain).toBeGreaterThan(0);
      expect(await sqnr(gptq)).toBeGreaterThan(await sqnr(nearest));
      expect(gptq.report.quantizedBytes).toBe(nearest.report.quantizedBytes);
    },
  );

  it('gives the same bytes every time', async () => {
    const [one, two] = [await run('int3:g16', 'gptq'), await run('int3:g16', 'gptq')];
    expect(writeOnnx(one.model)).toEqual(writeOnnx(two.model));
  });

  it('leaves what it cannot do, and says why', async () => {
    const { report } = await run('kmeans3:g16', 'gptq');
    const left = report.stages?.find((one) => one.stage === 'gptq')?.left ?? [];
    expect(left.map(({ because }) => because)).toEqual(['its groups share a scale']);
  });

  it('lets rows make up for each other where unseen samples gain, and says where it cannot', async () => {
    const { report } = await run('int2:g8', 'gptq');
    const stage = report.stages?.find((one) => one.stage === 'coupled');
    expect(stage).toMatchObject({ kept: true });
    expect(stage?.gain).toBeGreaterThan(0.3);
    expect(stage?.left).toContainEqual({ tensor: 'weight_4', because: 'its rows meet different inputs' });
    expect((stage?.changed ?? 0) + (stage?.left.length ?? 0)).toBe(3);
  });

  it('keeps the codes of a layer whose rows have nothing to do with each other', async () => {
    const model = emptyModel();
    const { graph } = model;
    const inputs = [
      addInput(graph, 'x', [4, 64]),
      graph.addInitializer('weight', noiseTensor([64, 40], 1)),
      graph.addInitializer('bias', noiseTensor([40], 2)),
    ];
    addOutput(graph, graph.add({ op: 'Gemm', inputs, outputs: ['y'] }).output());
    const calibration = randomSamples([{ name: 'x', dtype: 'float32', shape: [4, 64] }], { count: 64, seed: 3 });
    const { report } = await quantizeModel(
      model,
      { weights: 'int3:g16', solver: 'gptq', calibration: { ...calibration, synthetic: false }, samples: 64 },
      runtime,
    );
    const stage = report.stages?.find((one) => one.stage === 'coupled');
    const because = 'rows that make up for each other are no better there';
    expect(stage).toMatchObject({ kept: false, changed: 0, left: [{ tensor: 'weight', because }] });
  });

  it('is refused without samples, and without correction', async () => {
    const model = network();
    const attempt = (options: Parameters<typeof quantizeModel>[1]) =>
      quantizeModel(model, { weights: 'int4', solver: 'gptq', ...options }, runtime);
    await expect(attempt({})).rejects.toThrow('solver gptq: expected samples of real use, got none');
    const synthetic = randomSamples([{ name: 'image', dtype: 'float32', shape: [1, 8, 10, 10] }], { count: 8 });
    await expect(attempt({ calibration: synthetic })).rejects.toThrow('expected samples of real use');
    const calibration = pictures(8, 1);
    await expect(attempt({ calibration, corrections: [] })).rejects.toThrow(
      'solver gptq: expected the correction bias',
    );
  });
});
