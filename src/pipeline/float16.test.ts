/** Whole conversions to float16, with and without samples, alone and with packed weights, on small and on real models. */
import { describe, expect, test } from 'vitest';
import { asset, assetModels } from '../../test/onnx/assets.ts';
import {
  addInput,
  addNode,
  copyOf,
  emptyModel,
  type FeedOptions,
  feedsFor,
  noise,
} from '../../test/support/before-after.ts';
import { readModel } from '../files/onnx/node.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import { checkModel } from '../graph/check.ts';
import { inferDtypes } from '../graph/dtypes.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type QuantizeOptions, quantizeModel } from './quantize.ts';
import { subModel } from './sub-model.ts';

function samplesOf(...feeds: Feeds[]): Samples {
  return {
    description: 'test',
    count: feeds.length,
    async *[Symbol.asyncIterator]() {
      yield* feeds;
    },
  };
}

async function half(model: Model, options: QuantizeOptions = {}) {
  const result = await quantizeModel(model, { activations: 'float16', ...options }, await openRuntime());
  checkModel(result.model);
  return result;
}

/** x [4,64] → MatMul → Add → Relu → MatMul → y */
function network(scale = 1): Model {
  const model = emptyModel(17);
  const weight = (name: string, rows: number, columns: number, factor = 1) =>
    model.graph.addInitializer(
      name,
      Tensor.float32(
        [rows, columns],
        noise([rows, columns], rows)
          .floats()
          .map((x) => x * factor),
      ),
    );
  const first = addNode(model, 'MatMul', [addInput(model, 'x', [4, 64]), weight('w1', 64, 96, scale)], {}, 'first');
  const biased = addNode(model, 'Add', [first, model.graph.addInitializer('b1', noise([96], 3))], {}, 'biased');
  const y = addNode(model, 'MatMul', [addNode(model, 'Relu', [biased], {}, 'relu'), weight('w2', 96, 80)], {}, 'y');
  y.type = { dtype: 'float32', shape: [4, 80] };
  model.graph.outputs.push(y);
  return model;
}

const feeds = { x: noise([4, 64], 9) };
const initializers = (model: Model) => [...model.graph.initializers].map((value) => value.tensor?.dtype);

describe('notes', () => {
  test('without samples: overflow was not checked', async () => {
    const { report, model } = await half(network());
    expect(initializers(model)).toEqual(['float16', 'float16', 'float16']);
    expect(report.notes).toEqual([
      'Without samples it was not checked whether values overflow float16, which ends at 65504; give some with --calibrate DATA.',
    ]);
  });

  test('with samples: what overflows stays float32 and is named', async () => {
    const { report, model } = await half(network(60000), { calibration: samplesOf(feeds), compare: false });
    const stays = report.notes.filter((note) => note.includes('stays float32'));
    expect(stays.map((note) => note.split(' stays')[0])).toEqual([
      'MatMul "first"',
      'Add "biased"',
      'Relu "relu"',
      'MatMul "y"',
    ]);
    expect(stays[0]).toMatch(/its values reach \d{6}, float16 ends at 65504\.$/);
    // Weights are still stored as float16 and become float32 when the file is loaded.
    expect(initializers(model).filter((dtype) => dtype === 'float16')).toHaveLength(2);
    const fits = await half(network(), { calibration: samplesOf(feeds), compare: false });
    expect(fits.report.notes).toEqual([]);
  });

  test('weights that become 0', async () => {
    const { report } = await half(network(2e-8), { calibration: samplesOf(feeds), compare: false });
    expect(report.notes.some((note) => /% of the weights are too small .* most in "w1"/.test(note))).toBe(true);
  });

  test('what the recipe excludes stays float32', async () => {
    const { report, model } = await half(network(), { exclude: ['first'] });
    expect(report.notes[0]).toBe('MatMul "first" stays float32: it is excluded.');
    expect(initializers(model).filter((dtype) => dtype === 'float32')).toHaveLength(1);
  });
});

describe('weights', () => {
  test('packed weights and float16: MatMulNBits reads and scales in float16', async () => {
    const { report, model } = await half(network(), {
      weights: 'int4:g32',
      uniform: true,
      accuracyLevel: 0,
      calibration: samplesOf(feeds),
    });
    const types = inferDtypes(model);
    const nodes = model.graph.nodes.filter((node) => node.op === 'MatMulNBits');
    expect(nodes.map((node) => [0, 2].map((index) => types.get(node.input(index))?.dtype))).toEqual([
      ['float16', 'float16'],
      ['float16', 'float16'],
    ]);
    expect(report.comparison!.outputs[0].sqnr).toBeGreaterThan(15);
  });

  test('float16 weights alone: stored as float16, the same operators in float32', async () => {
    const { report, model } = await half(network(), {
      weights: 'float16',
      activations: 'none',
      calibration: samplesOf(feeds),
    });
    const casts = model.graph.nodes.filter((node) => node.is('Cast'));
    expect(casts.map((node) => [node.input(0).tensor?.dtype, node.int('to')])).toEqual([
      ['float16', 1],
      ['float16', 1],
    ]);
    expect(report.weights.map(({ scheme }) => scheme)).toEqual(['float16', 'float16']);
    expect(report.comparison!.outputs[0].sqnr).toBeGreaterThan(65);
    expect(report.quantizedBytes / report.floatBytes).toBeLessThan(0.55);
  });

  test('float16 weights that overflow are left, with the reason', async () => {
    const { report, model } = await half(network(1e5), { weights: 'float16', activations: 'none' });
    expect(report.weights.find(({ tensor }) => tensor === 'w1')?.left).toMatch(
      /which float16 cannot: it ends at 65504/,
    );
    expect(initializers(model).filter((dtype) => dtype === 'float16')).toHaveLength(1);
  });
});

interface Real extends FeedOptions {
  /** Decibels of the worst output. */
  readonly floor: number;
  /** The file's share of the float one. */
  readonly size: number;
}

/** stories260K keeps its mask of −1e9 in float32; silero holds weights once per branch. */
const models: Readonly<Record<string, Real>> = {
  'models/digits-ds2.onnx': { sizes: { batch: 1, time: 60 }, floor: 70, size: 0.51 },
  'models/mlperf-kws.onnx': { floor: 50, size: 0.54 },
  'models/mobilenet-v2.onnx': { sizes: { N: 1 }, floor: 40, size: 0.51 },
  'models/nanodet.onnx': { floor: 40, size: 0.51 },
  'models/nsnet2-gru.onnx': { sizes: { N: 1, T: 40 }, floor: 65, size: 0.51 },
  'models/resnet20-cifar10.onnx': { sizes: { N: 1 }, floor: 60, size: 0.51 },
  'models/shakespeare-gpt.onnx': { sizes: { batch: 1, time: 64 }, vocabulary: 65, floor: 60, size: 0.51 },
  'models/silero-vad.onnx': {
    sizes: { batch: 1, sequence: 512 },
    feeds: { sr: Tensor.int64([], [16000]) },
    floor: 18,
    size: 0.72,
  },
  'models/squeezenet1.1.onnx': { sizes: { N: 1 }, floor: 50, size: 0.51 },
  'models/stories260K.onnx': { sizes: { N: 1, T: 64 }, vocabulary: 512, floor: 60, size: 0.75 },
};
const files = new Set(assetModels());

describe.each(Object.entries(models))('%s', (file, one) => {
  test.skipIf(!files.has(file))(
    'runs in float16, close to float32, in about half the bytes',
    async () => {
      const model = readModel(asset(file));
      const calibration = samplesOf(feedsFor(model, one));
      const { report } = await half(model, { calibration });
      const { outputs, layers } = report.comparison!;
      expect(Math.min(...outputs.map(({ sqnr }) => sqnr))).toBeGreaterThan(one.floor);
      expect(report.quantizedBytes / report.floatBytes).toBeLessThan(one.size);
      expect(layers.length).toBeGreaterThan(10);
    },
    60_000,
  );

  test.skipIf(!files.has(file))('the types of all its values are those that ONNX Runtime infers', async () => {
    const model = copyOf(readModel(asset(file)));
    for (const node of model.nodes()) for (const value of node.outputs) if (value) value.type = undefined;
    const types = inferDtypes(model);
    const values = model.graph.nodes.flatMap((node) => node.outputs).filter((value) => value !== undefined);
    const session = await (await openRuntime()).open(writeOnnx(subModel(model, values)), { optimization: 'disabled' });
    expect(values.map((value) => types.get(value)?.dtype)).toEqual(session.outputs.map(({ dtype }) => dtype));
    await session.close();
  });
});
