/** Static quantization of real models: nothing that ONNX Runtime can fuse is left in float, and the results hold up. */
import { describe, expect, test } from 'vitest';
import { asset, assetModels } from '../../test/onnx/assets.ts';
import { realSamples } from '../../test/support/real-samples.ts';
import { executedOps, quantizeStatic } from '../../test/support/static.ts';
import { readModel } from '../files/onnx/node.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import { createErrorMeter } from '../metrics/error.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';

interface Case {
  /** Decibels that both forms reach on samples that did not calibrate. */
  readonly floor: number;
}

const cases: Readonly<Record<string, Case>> = {
  'models/resnet20-cifar10.onnx': { floor: 20 },
  'models/mlperf-resnet8.onnx': { floor: 30 },
  'models/mlperf-kws.onnx': { floor: 30 },
  'models/mnist-cnn.onnx': { floor: 30 },
  'models/mnist-small.onnx': { floor: 30 },
  'models/mnist-lenet.onnx': { floor: 25 },
  'models/mnist-bn.onnx': { floor: 30 },
  'models/mnist-external/mnist.onnx': { floor: 30 },
  'models/squeezenet1.1.onnx': { floor: 22 },
  'models/mobilenet-v2.onnx': { floor: 10 },
  'models/nanodet.onnx': { floor: 14 },
  'models/fastestdet.onnx': { floor: 4 },
};

async function sqnr(float: Model, quantized: Model, samples: readonly Feeds[]): Promise<number> {
  const runtime = await openRuntime();
  const [a, b] = [await runtime.open(writeOnnx(float)), await runtime.open(writeOnnx(quantized))];
  const meter = createErrorMeter();
  for (const feeds of samples) {
    const [x, y] = [await a.run(feeds), await b.run(feeds)];
    expect(Object.keys(y)).toEqual(Object.keys(x));
    for (const name of Object.keys(x)) meter.add(x[name].floats(), y[name].floats());
  }
  await a.close();
  await b.close();
  return meter.summary().sqnr;
}

const files = new Set(assetModels());
const floatLayers = ['Conv', 'FusedConv', 'Gemm', 'FusedGemm', 'MatMul', 'FusedMatMul', 'Add', 'Mul'];

describe.each(Object.entries(cases))('%s', (file, { floor }) => {
  test.skipIf(!files.has(file))('runs in integers, with pairs and without', async () => {
    const model = readModel(asset(file));
    const samples = await realSamples[file](model, 6);
    const calibration = samples.filter((_, index) => index % 3 !== 2);
    const heldOut = samples.filter((_, index) => index % 3 === 2);

    const pairs = await quantizeStatic(model, {}, calibration);
    const ran = await executedOps(pairs.model);
    expect(ran.filter((op) => floatLayers.includes(op))).toEqual([]);
    expect(await sqnr(model, pairs.model, heldOut)).toBeGreaterThan(floor);

    const integers = await quantizeStatic(model, { lowering: 'qoperator' }, calibration);
    expect(integers.model.graph.nodes.map((node) => node.op).filter((op) => floatLayers.includes(op))).toEqual([]);
    // Both forms hold the same numbers; single operators may round otherwise.
    expect(await sqnr(pairs.model, integers.model, heldOut)).toBeGreaterThan(50);
  });
});
