/** Real samples for the shared models, a few of each: pictures, digits, spoken words. */
import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import type { Model } from '../../src/graph/model.ts';
import type { Feeds } from '../../src/runtime/runtime.ts';
import { nodeImageDecoder } from '../../src/samples/node.ts';
import { parsePreprocessing, preprocess } from '../../src/samples/preprocess.ts';
import { Tensor } from '../../src/tensor/tensor.ts';
import { asset } from '../onnx/assets.ts';

type Make = (model: Model, count: number) => Promise<Feeds[]>;

const input = (model: Model) => model.graph.inputs.find((value) => !value.tensor)!;
const list = (count: number, make: (index: number) => Float32Array, model: Model, shape: readonly number[]): Feeds[] =>
  Array.from({ length: count }, (_, index) => ({ [input(model).name]: Tensor.float32(shape, make(index)) }));

const imagenet = { do_normalize: true, image_mean: [0.485, 0.456, 0.406], image_std: [0.229, 0.224, 0.225] };

/** Photographs from all over ImageNet. */
function photographs(config: Record<string, unknown>): Make {
  return async (model, count) => {
    const decode = nodeImageDecoder();
    const settings = parsePreprocessing({ image_processor_type: 'ViTImageProcessor', do_rescale: true, ...config });
    const names = readdirSync(asset('data/imagenet-sample')).sort();
    const { name, type } = input(model);
    const shape = (type?.shape ?? []).map((size) => (typeof size === 'number' ? size : 1));
    return Promise.all(
      Array.from({ length: count }, async (_, index) => {
        const file = names[Math.floor((index * names.length) / count)];
        const picture = await decode(readFileSync(asset(`data/imagenet-sample/${file}`)), file);
        return { [name]: preprocess(picture, settings, { name, dtype: 'float32', shape }, file) };
      }),
    );
  };
}

/** CIFAR-10: rows of a label and 3×32×32 bytes. */
function cifar(change: (x: number, channel: number) => number): Make {
  return async (model, count) => {
    const bytes = readFileSync(asset('data/cifar10/calib-1000.bin'));
    const pixel = (index: number) =>
      Float32Array.from({ length: 3072 }, (_, i) => change(bytes[index * 3073 + 1 + i], Math.floor(i / 1024)));
    const channelsLast = input(model).type?.shape?.at(-1) === 3;
    const ordered = (x: Float32Array) =>
      channelsLast ? Float32Array.from(x, (_, i) => x[(i % 3) * 1024 + Math.floor(i / 3)]) : x;
    return list(count, (index) => ordered(pixel(index)), model, channelsLast ? [1, 32, 32, 3] : [1, 3, 32, 32]);
  };
}

function mnist(change: (x: number) => number): Make {
  return async (model, count) => {
    const bytes = gunzipSync(readFileSync(asset('data/mnist/t10k-images-idx3-ubyte.gz')));
    const shape = (input(model).type?.shape ?? []).map((size, axis) =>
      axis > 0 && typeof size === 'number' ? size : 1,
    );
    return list(
      count,
      (index) => Float32Array.from(bytes.subarray(16 + 784 * index, 16 + 784 * (index + 1)), change),
      model,
      shape,
    );
  };
}

const words: Make = async (model, count) => {
  const bytes = new Int8Array(readFileSync(asset('data/kws01/kws01_1000x490_int8.bin')));
  const at = (index: number) =>
    Float32Array.from(bytes.subarray(490 * index, 490 * (index + 1)), (x) => (x - 83) * 0.5847029089927673);
  return list(count, at, model, [1, 1, 49, 10]);
};

const { image_mean: mean, image_std: deviation } = imagenet;

/** Model file → its samples. */
export const realSamples: Readonly<Record<string, Make>> = {
  'models/resnet20-cifar10.onnx': cifar((x, channel) => (x / 255 - mean[channel]) / deviation[channel]),
  'models/mlperf-resnet8.onnx': cifar((x) => x),
  'models/mlperf-kws.onnx': words,
  'models/mnist-cnn.onnx': mnist((x) => (x / 255 - 0.5) / 0.5),
  'models/mnist-small.onnx': mnist((x) => (x / 255 - 0.1307) / 0.3081),
  'models/mnist-lenet.onnx': mnist((x) => x / 255),
  'models/mnist-bn.onnx': mnist((x) => x),
  'models/mnist-external/mnist.onnx': mnist((x) => x / 127.5 - 1),
  'models/squeezenet1.1.onnx': photographs({ ...imagenet, size: { height: 224, width: 224 } }),
  'models/mobilenet-v2.onnx': photographs({
    do_normalize: true,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
    size: { height: 224, width: 224 },
  }),
  'models/nanodet.onnx': photographs({ ...imagenet, size: { height: 320, width: 320 } }),
  'models/fastestdet.onnx': photographs({ do_normalize: false, size: { height: 352, width: 352 } }),
};
