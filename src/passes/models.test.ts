/** Every pass on real models: ONNX Runtime must compute the same before and after, and a second run must find nothing. */
import { existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { createRandom } from '../base/random.ts';
import { readModel } from '../files/onnx/node.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type PassContext, passes, runPasses } from './index.ts';

const assets = fileURLToPath(new URL('../../../shared/assets/', import.meta.url));
const runtime = await openRuntime();

async function run(model: Model, feeds: Feeds): Promise<Feeds> {
  const session = await runtime.open(writeOnnx(model));
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

const context: PassContext = { evaluate: (model) => run(model, {}) };

/** Sizes for symbolic axes and values that mean something to the model; everything else is seeded noise. */
interface Case {
  readonly file: string;
  readonly sizes?: Readonly<Record<string, number>>;
  readonly feeds?: Feeds;
  /** Integer inputs stay below this. */
  readonly vocabulary?: number;
}

const cases: readonly Case[] = [
  { file: 'models/digits-ds2.onnx', sizes: { time: 40 } },
  { file: 'models/dtln-1.onnx' },
  { file: 'models/dtln-2.onnx' },
  { file: 'models/fastestdet.onnx' },
  { file: 'models/magika.onnx', vocabulary: 257 },
  { file: 'models/mlperf-kws.onnx' },
  { file: 'models/mlperf-resnet8.onnx' },
  { file: 'models/mnist-bn.onnx' },
  { file: 'models/mnist-cnn.onnx' },
  { file: 'models/mnist-external/mnist.onnx' },
  { file: 'models/mnist-lenet.onnx' },
  { file: 'models/mnist-small.onnx' },
  { file: 'models/mobilenet-v2.onnx', sizes: { N: 1 } },
  { file: 'models/nanodet.onnx' },
  { file: 'models/ncf-mlp.onnx', vocabulary: 3000 },
  { file: 'models/nnsplit-en.onnx', sizes: { length: 40 }, vocabulary: 256 },
  { file: 'models/nsnet2-gru.onnx', sizes: { T: 20 } },
  { file: 'models/resnet20-cifar10.onnx' },
  { file: 'models/shakespeare-gpt.onnx', sizes: { time: 24 }, vocabulary: 60 },
  { file: 'models/silero-vad.onnx', sizes: { sequence: 512 }, feeds: { sr: Tensor.int64([], [16000]) } },
  { file: 'models/squeezenet1.1.onnx', sizes: { N: 1 } },
  { file: 'models/stories260K.onnx', sizes: { T: 24 }, vocabulary: 500 },
  { file: 'models/yolov8n-int8.onnx' },
  { file: 'oracles/onnx-light/light_densenet121.onnx' },
  { file: 'oracles/onnx-light/light_inception_v2.onnx' },
  { file: 'oracles/onnx-light/light_resnet50.onnx' },
  { file: 'oracles/onnx-light/light_shufflenet.onnx' },
  { file: 'oracles/onnx-light/light_squeezenet.onnx' },
];

function feedsFor(model: Model, { sizes = {}, feeds = {}, vocabulary = 10 }: Case): Feeds {
  const random = createRandom(1);
  const made: Record<string, Tensor> = {};
  for (const { name, type, tensor } of model.graph.inputs) {
    if (tensor) continue;
    const shape = type!.shape!.map((size) => (typeof size === 'number' ? size : (sizes[size ?? ''] ?? 2)));
    const count = shape.reduce((product, size) => product * size, 1);
    const integers = Array.from({ length: count }, () => Math.floor(random() * vocabulary));
    made[name] =
      type!.dtype === 'int64'
        ? Tensor.int64(shape, integers)
        : type!.dtype === 'int32'
          ? Tensor.int32(shape, integers)
          : type!.dtype === 'uint8'
            ? Tensor.uint8(shape, integers)
            : Tensor.float32(
                shape,
                integers.map(() => random() * 2 - 1),
              );
  }
  return { ...made, ...feeds };
}

/** The largest difference of any output, relative to that output's largest magnitude. */
function difference(before: Feeds, after: Feeds): number {
  expect(Object.keys(after)).toEqual(Object.keys(before));
  let worst = 0;
  for (const [name, expected] of Object.entries(before)) {
    expect(after[name].shape).toEqual(expected.shape);
    const [a, b] = [expected.floats(), after[name].floats()];
    let [error, scale] = [0, 1e-30];
    for (let i = 0; i < a.length; i++) {
      const gap = Math.abs(a[i] - b[i]);
      if (Number.isNaN(gap) !== Number.isNaN(a[i])) return Number.POSITIVE_INFINITY;
      error = Math.max(error, gap || 0);
      scale = Math.max(scale, Math.abs(a[i]) || 0);
    }
    worst = Math.max(worst, error / scale);
  }
  return worst;
}

for (const one of cases) {
  const path = `${assets}${one.file}`;
  test.skipIf(!existsSync(path))(`${one.file}: all passes`, async () => {
    const model = readModel(path);
    const feeds = feedsFor(model, one);
    const before = await run(model, feeds);
    const t = performance.now();
    const changed = await runPasses(model, undefined, context);
    const ms = performance.now() - t;
    const after = await run(model, feeds);
    const d = difference(before, after);
    const again = await runPasses(model, undefined, context);
    console.log(
      one.file,
      changed.join(),
      'diff',
      d.toExponential(2),
      'ms',
      ms.toFixed(0),
      'nodes',
      [...model.nodes()].length,
      'again',
      again.join(),
    );
    expect(d).toBeLessThan(1e-4);
    expect(again).toEqual([]);
  });
}
void passes;
void readdirSync;
