/** The shared data sets as samples: pictures and text, each cut into a calibration and an evaluation part. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { type Samples, type Session, Tensor, type ValueInfo } from '../src/index.ts';
import { imageSamples } from '../src/samples/images.ts';
import { nodeImageDecoder } from '../src/samples/node.ts';
import { parsePreprocessing } from '../src/samples/preprocess.ts';

/** Lies beside the checkout; it is not part of the repository. */
export const assets = fileURLToPath(new URL('../../shared/assets', import.meta.url));

/** Why the benchmark cannot run here, or undefined. */
export function missingAssets(): string | undefined {
  return existsSync(join(assets, 'models')) ? undefined : `the models and data are not there: ${assets}`;
}

/** What a model is calibrated and judged on. */
export interface Data {
  readonly calibration: Samples;
  readonly evaluation: Samples;
  /** Right classes of the evaluation samples. */
  readonly labels?: readonly number[];
  /** Says in a few words what the two parts are. */
  readonly says: string;
  readonly score?: Score;
}

/** A measure of the task itself, beside what `compare` measures of any model. */
export interface Score {
  readonly name: 'nats/char' | 'CER' | 'SQNR, state carried';
  /** Both models' values; a single number where one model is measured against the other. */
  measure(float: Session, quantized: Session): Promise<{ float?: number; quantized: number }>;
}

/** Samples made on demand by index. */
export function indexed(description: string, count: number, at: (index: number) => Record<string, Tensor>): Samples {
  return {
    description,
    count,
    async *[Symbol.asyncIterator]() {
      for (let index = 0; index < count; index++) yield at(index);
    },
  };
}

const imagenetMean = [0.485, 0.456, 0.406];
const imagenetStd = [0.229, 0.224, 0.225];

/** CIFAR-10's binary rows: a label, then 3×32×32 bytes. At most 1,000 pictures calibrate. */
export function cifar10(quick: boolean, calibrating = 256): Data {
  const read = (name: string, limit: number) => {
    const bytes = readFileSync(join(assets, 'data/cifar10', name));
    const rowBytes = 3073;
    const count = Math.min(bytes.length / rowBytes, limit);
    const samples = indexed(name, count, (index) => {
      const values = new Float32Array(3072);
      for (let i = 0; i < values.length; i++) {
        const channel = Math.floor(i / 1024);
        values[i] = (bytes[index * rowBytes + 1 + i] / 255 - imagenetMean[channel]) / imagenetStd[channel];
      }
      return { input: Tensor.float32([1, 3, 32, 32], values) };
    });
    return { samples, labels: Array.from({ length: count }, (_, index) => bytes[index * rowBytes]) };
  };
  const calibration = read('calib-1000.bin', calibrating).samples;
  const { samples, labels } = read('test-3000.bin', quick ? 500 : 3000);
  return {
    calibration,
    evaluation: samples,
    labels,
    says: `${calibration.count} calibration, ${labels.length} test pictures`,
  };
}

/** MNIST's idx files, pixels to −1…1. */
export function mnist(quick: boolean): Data {
  const unpack = (name: string) => gunzipSync(readFileSync(join(assets, 'data/mnist', name)));
  const read = (stem: string, limit: number) => {
    const images = unpack(`${stem}-images-idx3-ubyte.gz`).subarray(16);
    const labels = unpack(`${stem}-labels-idx1-ubyte.gz`).subarray(8);
    const count = Math.min(labels.length, limit);
    const samples = indexed(stem, count, (index) => {
      const pixels = images.subarray(index * 784, (index + 1) * 784);
      const values = Float32Array.from(pixels, (pixel) => (pixel / 255 - 0.5) / 0.5);
      return { image: Tensor.float32([1, 1, 28, 28], values) };
    });
    return { samples, labels: [...labels.subarray(0, count)] };
  };
  const { samples, labels } = read('t10k', quick ? 2000 : 10_000);
  return {
    calibration: read('train', 256).samples,
    evaluation: samples,
    labels,
    says: `256 calibration, ${labels.length} test digits`,
  };
}

/** The two ways in which the ImageNet models here take a picture of 256 × 256 pixels. */
export const imagenetConfigs = {
  'mean and deviation': {
    size: { shortest_edge: 256 },
    crop_size: 224,
    image_mean: imagenetMean,
    image_std: imagenetStd,
  },
  '-1 to 1': {
    size: { shortest_edge: 256 },
    crop_size: 224,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
  },
} as const;

/** Pictures named by their class: those ending in 0 calibrate, those ending in 4 and 8 evaluate. */
export function imagenet(
  config: keyof typeof imagenetConfigs,
  inputs: readonly ValueInfo[],
  firstClass: number,
  quick: boolean,
): Data {
  const folder = join(assets, 'data/imagenet-sample');
  const names = readdirSync(folder).sort();
  const settings = parsePreprocessing(imagenetConfigs[config]);
  const decode = nodeImageDecoder();
  const open = (pattern: RegExp, description: string, every = 1) => {
    const files = names
      .filter((name) => pattern.test(name))
      .filter((_, index) => index % every === 0)
      .map((name) => ({ name, read: async () => new Uint8Array(await readFile(join(folder, name))) }));
    return imageSamples(files, inputs, settings, decode, description);
  };
  const calibration = open(/0\.jpg$/, 'imagenet-sample/*0.jpg');
  const evaluation = open(/[48]\.jpg$/, 'imagenet-sample/*[48].jpg', quick ? 5 : 1);
  const labels = (evaluation.names ?? []).map((name) => Number.parseInt(name, 10) + firstClass);
  return { calibration, evaluation, labels, says: `${calibration.count} calibration, ${labels.length} test pictures` };
}

const windowLength = 128;

/** Tiny Shakespeare: windows of 128 characters, of the first 90 % to calibrate, of the last 10 % to evaluate. */
export function shakespeare(quick: boolean, calibrating = 64): Data {
  const text = readFileSync(join(assets, 'data/text/tinyshakespeare.txt'), 'utf8');
  const vocabulary = readFileSync(join(assets, 'models/shakespeare-gpt.vocab.json'), 'utf8');
  const { chars } = JSON.parse(vocabulary) as { chars: string[] };
  const codes = new Map(chars.map((char, code) => [char, code]));
  const ids = Array.from(text, (char) => codes.get(char) ?? 0);
  const border = Math.floor(ids.length * 0.9);
  const part = (description: string, from: number, to: number, count: number) => {
    const start = (index: number) =>
      from + Math.floor((index * (to - from - windowLength - 1)) / Math.max(count - 1, 1));
    const samples = indexed(description, count, (index) => ({
      input_ids: Tensor.int64([1, windowLength], ids.slice(start(index), start(index) + windowLength)),
    }));
    const next = (index: number) => ids.slice(start(index) + 1, start(index) + 1 + windowLength);
    return { samples, next };
  };
  const calibration = part('first 90 % of tinyshakespeare', 0, border, calibrating);
  const count = quick ? 60 : 400;
  const evaluation = part('last 10 % of tinyshakespeare', border, ids.length, count);
  return {
    calibration: calibration.samples,
    evaluation: evaluation.samples,
    labels: Array.from({ length: count }, (_, index) => evaluation.next(index)).flat(),
    says: `${calibrating} calibration, ${count} test windows of ${windowLength} characters`,
    score: {
      name: 'nats/char',
      async measure(float, quantized) {
        const nats = { float: 0, quantized: 0 };
        let index = 0;
        for await (const feeds of evaluation.samples) {
          const next = evaluation.next(index++);
          nats.float += surprise((await float.run(feeds)).logits, next);
          nats.quantized += surprise((await quantized.run(feeds)).logits, next);
        }
        const characters = count * windowLength;
        return { float: nats.float / characters, quantized: nats.quantized / characters };
      },
    },
  };
}

/** Sum of −ln p(next character) over the positions of a window. */
function surprise(logits: Tensor, next: readonly number[]): number {
  const values = logits.floats();
  const classes = logits.shape[logits.shape.length - 1];
  let total = 0;
  next.forEach((wanted, position) => {
    const row = values.subarray(position * classes, (position + 1) * classes);
    const top = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    const sum = row.reduce((a, b) => a + Math.exp(b - top), 0);
    total += Math.log(sum) + top - row[wanted];
  });
  return total;
}
