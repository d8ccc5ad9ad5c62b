/** Gradients of real models, by weights from their first layer to their last, against differences. */
import { describe, expect, test } from 'vitest';
import { asset, assetModels } from '../../test/onnx/assets.ts';
import { type FeedOptions, feedsFor } from '../../test/support/before-after.ts';
import { expectGradients, toInput } from '../../test/support/gradients.ts';
import { readModel } from '../files/onnx/node.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { prepare } from '../pipeline/prepare.ts';
import { openRuntime, type RuntimeId } from '../runtime/node.ts';
import type { Tensor } from '../tensor/tensor.ts';

interface Case extends FeedOptions {
  /** Which build of ONNX Runtime. Default the native one. */
  readonly runtimeId?: RuntimeId;
  /** How many weights are tried. Default 5. */
  readonly weights?: number;
}

const models: Readonly<Record<string, Case>> = {
  'models/mlperf-kws.onnx': { runtimeId: 'onnxruntime-web' },
  'models/mlperf-resnet8.onnx': {},
  'models/mnist-bn.onnx': {},
  'models/mobilenet-v2.onnx': { sizes: { N: 1 }, weights: 4 },
  'models/nanodet.onnx': { weights: 4 },
  'models/ncf-mlp.onnx': { vocabulary: 3000 },
  'models/resnet20-cifar10.onnx': {},
  'models/shakespeare-gpt.onnx': { sizes: { time: 12 }, vocabulary: 60 },
  'models/squeezenet1.1.onnx': { sizes: { N: 1 }, weights: 4 },
  'models/stories260K.onnx': { sizes: { T: 12 }, vocabulary: 500, runtimeId: 'onnxruntime-web' },
};

const files = new Set(assetModels());

/** Float constants of matrices and kernels, spread over the model. */
function weightsOf(model: Model, count: number): Value[] {
  const values = new Set(
    model.graph.nodes
      .filter((node) => node.is('Conv', 'Gemm', 'MatMul', 'Gather', 'LayerNormalization'))
      .flatMap((node) => node.inputs)
      .filter((value) => value?.isConstant && value.tensor!.isFloat && value.tensor!.size > 1),
  );
  const all = [...values].filter((value) => value !== undefined);
  return Array.from({ length: Math.min(count, all.length) }, (_, i) => all[Math.floor((i * all.length) / count)]);
}

describe.each(Object.entries(models))('%s', (file, { weights = 5, runtimeId, ...options }) => {
  test.skipIf(!files.has(file))('has the gradients of its differences', async () => {
    const { model } = await prepare(readModel(asset(file)), await openRuntime(), 16);
    const chosen = weightsOf(model, weights);
    expect(chosen.length).toBeGreaterThan(3);
    const feeds: Record<string, Tensor> = { ...feedsFor(model, options) };
    for (const value of chosen) feeds[value.name] = toInput(value);
    await expectGradients(model, chosen, feeds, { elements: 0, runtimeId, steps: [0.01, 0.003, 0.001, 0.0003] });
  });
});
