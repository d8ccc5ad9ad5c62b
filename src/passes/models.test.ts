/**
 * Every pass, and the upgrade to later operator sets, on real models: ONNX Runtime must compute the same before and
 * after. It runs the graphs as written, so that passes which only move things must leave every bit as it was.
 */
import { describe, expect, test } from 'vitest';
import { asset, assetModels } from '../../test/onnx/assets.ts';
import { context, difference, type FeedOptions, feedsFor, noise, run } from '../../test/support/before-after.ts';
import { readModel } from '../files/onnx/node.ts';
import { checkModel } from '../graph/check.ts';
import type { Model } from '../graph/model.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { sizeOf, Tensor } from '../tensor/tensor.ts';
import { type PassId, passes, runPasses, upgradeOpset } from './index.ts';
import { liftInitializers } from './lift-initializers.ts';

interface Case extends FeedOptions {
  /** Passes that find something to do; all others must find nothing. */
  readonly changes: readonly PassId[];
}

const constants = ['constants-to-initializers', 'share-initializers'] as const;

const models: Readonly<Record<string, Case>> = {
  'models/digits-ds2.onnx': { sizes: { time: 40 }, changes: constants },
  'models/dtln-1.onnx': { changes: ['share-initializers'] },
  'models/dtln-2.onnx': { changes: ['eliminate-identities', 'share-initializers'] },
  'models/fastestdet.onnx': { changes: ['share-initializers'] },
  'models/magika.onnx': { vocabulary: 257, changes: [] },
  'models/mlperf-kws.onnx': { changes: ['eliminate-identities'] },
  'models/mlperf-resnet8.onnx': { changes: ['eliminate-identities'] },
  'models/mnist-bn.onnx': { changes: ['eliminate-identities'] },
  'models/mnist-cnn.onnx': { changes: [] },
  'models/mnist-external/mnist.onnx': { changes: [] },
  'models/mnist-lenet.onnx': { changes: ['eliminate-identities'] },
  'models/mnist-small.onnx': { changes: ['constants-to-initializers'] },
  'models/mobilenet-v2.onnx': { sizes: { N: 1 }, changes: ['eliminate-identities'] },
  'models/nanodet.onnx': { changes: constants },
  'models/ncf-mlp.onnx': { vocabulary: 3000, changes: ['eliminate-identities'] },
  'models/nnsplit-en.onnx': { sizes: { length: 40 }, vocabulary: 256, changes: constants },
  'models/nsnet2-gru.onnx': { sizes: { T: 20 }, changes: ['eliminate-identities'] },
  'models/resnet20-cifar10.onnx': { changes: ['eliminate-identities', 'fold-batch-norm'] },
  'models/shakespeare-gpt.onnx': { sizes: { time: 24 }, vocabulary: 60, changes: constants },
  'models/silero-vad.onnx': {
    sizes: { sequence: 512 },
    feeds: { sr: Tensor.int64([], [16000]) },
    changes: ['constants-to-initializers', 'fold-constants', 'eliminate-identities', 'share-initializers'],
  },
  'models/squeezenet1.1.onnx': { sizes: { N: 1 }, changes: ['eliminate-identities'] },
  'models/stories260K.onnx': { sizes: { T: 24 }, vocabulary: 500, changes: ['eliminate-identities'] },
  'models/yolov8n-int8.onnx': { changes: ['fold-constants', 'share-initializers'] },
};

const light = (name: string) => `oracles/onnx-light/light_${name}.onnx`;
const lifted = ['lift-initializers', 'fold-constants'] as const;

/** ConstantOfShape makes their weights on loading; all are equal, so that every output is too. */
const generated: Readonly<Record<string, Case>> = {
  [light('bvlc_alexnet')]: { changes: [...lifted, 'eliminate-identities', 'share-initializers'] },
  [light('densenet121')]: { changes: [...lifted, 'fold-batch-norm', 'share-initializers'] },
  [light('inception_v1')]: { changes: [...lifted, 'eliminate-identities', 'share-initializers'] },
  [light('inception_v2')]: { changes: [...lifted, 'fold-batch-norm', 'share-initializers'] },
  [light('resnet50')]: { changes: [...lifted, 'eliminate-dead', 'fold-batch-norm', 'share-initializers'] },
  [light('shufflenet')]: { changes: [...lifted, 'fold-batch-norm', 'share-initializers'] },
  [light('squeezenet')]: { changes: [...lifted, 'eliminate-identities', 'share-initializers'] },
  [light('vgg19')]: { changes: [...lifted, 'eliminate-identities', 'share-initializers'] },
  [light('zfnet512')]: { changes: [...lifted, 'eliminate-dead', 'share-initializers'] },
};

/** Relative. Folding rounds weights once more to float32, and the sums run in another order. */
const foldTolerance = 1e-5;

const asWritten = { optimization: 'disabled' } as const;
const runAsWritten = (model: Model, feeds: Feeds) => run(model, feeds, asWritten);

const files = new Set(assetModels());

/** Nothing but folded layers may differ: a constant LSTM weight is packed in advance, which moves a last bit. */
function allowed(changed: readonly PassId[]): number {
  if (changed.includes('fold-batch-norm')) return foldTolerance;
  return changed.includes('fold-constants') ? 1e-7 : 0;
}

/** Compares after every pass that changed something, or, where running takes long, after the last one. */
async function checkPasses(model: Model, feeds: Feeds, compare: 'each' | 'last' = 'each'): Promise<PassId[]> {
  const before = await runAsWritten(model, feeds);
  const changed: PassId[] = [];
  for (const pass of passes) {
    if (!(await pass.run(model, context))) continue;
    changed.push(pass.id);
    checkModel(model);
    if (compare === 'each') {
      expect(difference(before, await runAsWritten(model, feeds)), pass.id).toBeLessThanOrEqual(allowed(changed));
    }
    expect(await pass.run(model, context), `${pass.id}, again`).toBe(false);
  }
  expect(await runPasses(model, undefined, context)).toEqual([]);
  expect(difference(before, await runAsWritten(model, feeds))).toBeLessThanOrEqual(allowed(changed));
  return changed;
}

describe('all passes, one after the other', () => {
  for (const [file, one] of Object.entries({ ...models, ...generated })) {
    test.skipIf(!files.has(file))(file, async () => {
      const model = readModel(asset(file));
      const compare = file in generated ? 'last' : 'each';
      expect(await checkPasses(model, feedsFor(model, one), compare)).toEqual(one.changes);
    });
  }
});

/** Gives the generated weights, BatchNormalizations and scales values that differ, and ends the model before Softmax. */
function fillWithNoise(model: Model): void {
  let seed = 0;
  for (const node of [...model.graph.nodes]) {
    const fill = (index: number, make: (value: number) => number) => {
      const value = node.inputs[index];
      const source = value?.producer?.is('Unsqueeze') ? value.producer.input(0) : value;
      const producer = source?.producer;
      if (!source || !producer?.is('ConstantOfShape')) return;
      const shape = producer.input(0).tensor!.integers();
      producer.setOutput(0, undefined);
      model.graph.remove(producer);
      source.tensor = Tensor.float32(shape, noise(shape, ++seed).floats().map(make));
      model.graph.initializers.add(source);
    };
    if (node.is('Conv', 'Gemm')) {
      const [rows, ...inner] = node.input(1).producer?.input(0).tensor?.integers() ?? [1];
      const fanIn = node.is('Conv') ? sizeOf(inner) : Math.max(rows, ...inner);
      fill(1, (value) => value * Math.sqrt(3 / fanIn));
      fill(2, (value) => value / 10);
    }
    if (node.is('Mul')) fill(1, (value) => 1 + value / 2);
    if (node.is('Add')) fill(1, (value) => value / 10);
    if (node.is('BatchNormalization')) {
      fill(1, (value) => 1 + value / 2);
      fill(2, (value) => value / 10);
      fill(3, (value) => value / 10);
      fill(4, (value) => 1 + value / 2);
    }
  }
  const last = model.graph.outputs[0].producer;
  if (last?.is('Softmax')) model.graph.outputs[0] = last.input(0);
}

describe('BatchNormalization of real architectures, with weights that differ', () => {
  for (const [name, left] of [
    ['densenet121', 62],
    ['shufflenet', 0],
  ] as const) {
    test.skipIf(!files.has(light(name)))(name, async () => {
      const model = readModel(asset(light(name)));
      liftInitializers.run(model);
      fillWithNoise(model);
      const feeds = feedsFor(model, {});
      const outputs = Object.values(await runAsWritten(model, feeds))[0].floats();
      expect(new Set(outputs).size).toBeGreaterThan(900);
      expect(await checkPasses(model, feeds, 'last')).toContain('fold-batch-norm');
      expect([...model.nodes()].filter((node) => node.op === 'BatchNormalization').length).toBe(left);
    });
  }
});

describe('upgrades', () => {
  const small = ['inception_v1', 'shufflenet', 'squeezenet'].map((name): [string, FeedOptions] => [light(name), {}]);
  for (const [file, one] of [...Object.entries<FeedOptions>(models), ...small]) {
    test.skipIf(!files.has(file))(file, async () => {
      const original = readModel(asset(file));
      const feeds = feedsFor(original, one);
      const before = await runAsWritten(original, feeds);
      for (const target of [13, 17, 21, 25].filter((version) => version > original.opset)) {
        const model = readModel(asset(file));
        expect(upgradeOpset(model, target)).toBe(true);
        checkModel(model);
        expect(difference(before, await runAsWritten(model, feeds)), `opset ${target}`).toBeLessThanOrEqual(1e-6);
      }
    });
  }
});
