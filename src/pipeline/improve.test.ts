/** Stages: what they bring where there is something to gain, what they leave, and that the gate holds. */
import { describe, expect, it } from 'vitest';
import { Builder, samplesOf } from '../../test/support/static.ts';
import { createGaussian, createRandom } from '../base/random.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { compare } from './compare.ts';
import { presetIds, presets } from './presets.ts';
import { type QuantizeOptions, quantizeModel } from './quantize.ts';
import type { Report } from './report.ts';

const runtime = await openRuntime('onnxruntime-node');

const gaussianTensor = (shape: readonly number[], seed: number, factor: (index: number) => number = () => 1) => {
  const gaussian = createGaussian(createRandom(seed));
  const size = shape.reduce((a, b) => a * b, 1);
  return Tensor.float32(
    shape,
    Float32Array.from({ length: size }, (_, index) => gaussian() * factor(index)),
  );
};

const samples = (shape: readonly number[], count: number, seed = 0) =>
  samplesOf(Array.from({ length: count }, (_, index) => ({ x: gaussianTensor(shape, seed + index + 1) })));

/** Inputs with little of their own: eight factors make most of 64 numbers. */
const correlated = (count: number) => {
  const mixing = gaussianTensor([8, 64], 500).floats();
  return samplesOf(
    Array.from({ length: count }, (_, index) => {
      const [own, factors] = [
        gaussianTensor([4, 64], 2 * index + 1).floats(),
        gaussianTensor([4, 8], 2 * index + 2).floats(),
      ];
      const x = own.map((number, at) => {
        const [row, column] = [Math.floor(at / 64), at % 64];
        let sum = 0.1 * number;
        for (let k = 0; k < 8; k++) sum += factors[row * 8 + k] * mixing[k * 64 + column];
        return sum;
      });
      return { x: Tensor.float32([4, 64], x) };
    }),
  );
};

/** Channels between the layers differ a thousandfold in one weight, and the other way round in the next. */
function unequal(): Model {
  const b = new Builder();
  const weight = (shape: readonly number[], seed: number, factor: (index: number) => number) =>
    b.graph.addInitializer('w', gaussianTensor(shape, seed, factor));
  const size = (channel: number) => 10 ** ((3 * channel) / 15);
  const first = weight([16, 8, 3, 3], 7, (index) => size(Math.floor(index / 72)));
  const second = weight([12, 16, 3, 3], 8, (index) => 1 / size(Math.floor(index / 9) % 16));
  const hidden = b.add('Relu', [b.add('Conv', [b.input('x', [1, 8, 12, 12]), first])]);
  return b.output(b.add('Conv', [hidden, second])).model;
}

function perceptron(): Model {
  const b = new Builder();
  const hidden = b.add('Relu', [b.add('Gemm', [b.input('x', [4, 64]), b.weight([64, 96]), b.weight([96])])]);
  return b.output(b.add('Gemm', [hidden, b.weight([96, 10]), b.weight([10])])).model;
}

const stageOf = (report: Report, id: string) => report.stages?.find(({ stage }) => stage === id);

describe('stages', () => {
  it('cross-layer lets one scale serve a tensor whose channels differ a thousandfold', async () => {
    const model = unequal();
    const options: QuantizeOptions = {
      ...{ weights: 'int8:tensor', activations: 'uint8', calibration: samples([1, 8, 12, 12], 24) },
      corrections: ['cross-layer', 'bias'],
    };
    const { model: result, report } = await quantizeModel(model, options, runtime);
    expect(stageOf(report, 'cross-layer')).toMatchObject({ kept: true });
    expect(stageOf(report, 'cross-layer')?.gain).toBeGreaterThan(10);
    const { outputs } = await compare(model, result, samples([1, 8, 12, 12], 8, 900), runtime);
    const plain = await quantizeModel(model, { ...options, corrections: ['bias'] }, runtime);
    const before = await compare(model, plain.model, samples([1, 8, 12, 12], 8, 900), runtime);
    expect(outputs[0].sqnr).toBeGreaterThan(before.outputs[0].sqnr + 5);
  });

  /** Pictures of three channels, whose bytes are scaled and shifted channel by channel, and smooth as pictures are. */
  const pictures = (count: number, isOnGrid: boolean) =>
    samplesOf(
      Array.from({ length: count }, (_, index) => {
        const random = createRandom(index + 1);
        const [phases, sizes] = [
          [random(), random(), random()],
          [random(), random(), random()],
        ];
        const values = Array.from({ length: 3 * 32 * 32 }, (_, at) => {
          const [channel, row, column] = [Math.floor(at / 1024), Math.floor(at / 32) % 32, at % 32];
          const wave = Math.sin(row / 7 + 6 * phases[channel]) * Math.cos(column / 9 + 6 * sizes[channel]);
          const pixel = Math.min(Math.max(127.5 + 140 * wave + 8 * random(), 0), 255);
          return ((isOnGrid ? Math.floor(pixel) : pixel) / 255 - [0.485, 0.456, 0.406][channel]) / 0.226;
        });
        return { x: Tensor.float32([1, 3, 32, 32], values) };
      }),
    );

  it('pixels takes pictures of bytes without rounding, and no others', async () => {
    const b = new Builder();
    const hidden = b.add('Relu', [b.conv(b.input('x', [1, 3, 32, 32]), 3, 16)]);
    const { model } = b.output(b.add('GlobalAveragePool', [b.conv(hidden, 16, 8)]));
    const options = (isOnGrid: boolean): QuantizeOptions => ({
      ...{ activations: 'uint8', calibration: pictures(48, isOnGrid), corrections: ['pixels', 'bias'] },
    });
    const { model: result, report } = await quantizeModel(model, options(true), runtime);
    expect(stageOf(report, 'pixels')).toMatchObject({ kept: true, changed: 1 });
    expect(report.plan.activations[0]).toMatchObject({ tensor: 'x/Add', scale: 1, zeroPoint: 128 });
    expect(result.graph.nodes.slice(0, 4).map(({ op }) => op)).toEqual(['Pad', 'Mul', 'Add', 'QuantizeLinear']);
    const others = await quantizeModel(model, options(false), runtime);
    expect(stageOf(others.report, 'pixels')).toMatchObject({ kept: false, changed: 0 });
    expect(others.report.plan.activations[0]).toMatchObject({ tensor: 'x' });
  });

  it('ranges bring outputs closer where the method chose badly', async () => {
    const options: QuantizeOptions = {
      ...{ activations: 'uint8', range: 'percentile', percentile: 80, calibration: samples([4, 64], 64) },
      corrections: ['bias', 'ranges'],
    };
    const { report } = await quantizeModel(perceptron(), options, runtime);
    expect(stageOf(report, 'ranges')).toMatchObject({ kept: true });
    expect(stageOf(report, 'ranges')?.gain).toBeGreaterThan(1);
    expect(report.comparison?.outputs[0].sqnr).toBeGreaterThan(stageOf(report, 'bias')?.sqnr ?? 0);
  });

  it('leave a report of the codes that were written, not of the first ones', async () => {
    const options: QuantizeOptions = {
      ...{ weights: 'int3:g16', uniform: true, activations: 'none', corrections: ['bias'], compare: false },
      calibration: correlated(48),
    };
    const [nearest, gptq] = [
      await quantizeModel(perceptron(), { ...options, solver: 'nearest' }, runtime),
      await quantizeModel(perceptron(), { ...options, solver: 'gptq' }, runtime),
    ];
    expect(stageOf(gptq.report, 'gptq')).toMatchObject({ kept: true });
    // The nearest codes are nearest: what makes up for other errors is an error of its own.
    for (const [index, { tensor, sqnr = 0 }] of gptq.report.weights.entries()) {
      expect(nearest.report.weights[index].tensor).toBe(tensor);
      expect(sqnr).toBeLessThan((nearest.report.weights[index].sqnr ?? 0) - 0.1);
      expect(sqnr).toBeGreaterThan(6);
    }
  });

  it('measures time by the clock that it is given, and only then', async () => {
    let now = 0;
    const clock = () => {
      now += 500;
      return now;
    };
    const calibration = samples([4, 64], 16);
    const timed = await quantizeModel(perceptron(), { calibration, clock }, runtime);
    expect(stageOf(timed.report, 'bias')?.seconds).toBeGreaterThanOrEqual(0.5);
    const plain = await quantizeModel(perceptron(), { calibration }, runtime);
    expect(stageOf(plain.report, 'bias')).not.toHaveProperty('seconds');
  });
});

describe('presets', () => {
  it.each(presetIds)('%s: runs the stages that it names, and gives the same bytes again', async (preset) => {
    const options: QuantizeOptions = {
      ...{ preset, weights: 'int3:g16', uniform: true, activations: 'none' },
      ...{ calibration: samples([4, 64], 48), compare: false },
    };
    const [one, two] = [
      await quantizeModel(perceptron(), options, runtime),
      await quantizeModel(perceptron(), options, runtime),
    ];
    expect(one.report.plan.recipe).toMatchObject({
      solver: presets[preset].solver,
      corrections: presets[preset].corrections,
    });
    expect(stageOf(one.report, 'bias')).toBeDefined();
    expect(stageOf(one.report, 'gptq') !== undefined).toBe(preset !== 'fast');
    expect(Buffer.compare(writeOnnx(one.model), writeOnnx(two.model))).toBe(0);
  });

  it('need samples beyond fast', async () => {
    const attempt = quantizeModel(perceptron(), { preset: 'balanced' }, runtime);
    await expect(attempt).rejects.toThrow('preset balanced: expected samples of real use, got none');
  });

  it('are overridden by what is said beside them', async () => {
    const calibration = samples([4, 64], 16);
    const { report } = await quantizeModel(
      perceptron(),
      { preset: 'best', solver: 'nearest', corrections: [], calibration },
      runtime,
    );
    expect(report.stages).toBeUndefined();
  });
});
