/** The whole flow in headless Chromium on onnxruntime-web, against the same flow in Node on onnxruntime-node. */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createErrorMeter } from '../../src/metrics/error.ts';
import {
  type Feeds,
  inputsOf,
  type Model,
  openRuntime,
  openSamples,
  type QuantizeOptions,
  quantize,
  readModel,
  Tensor,
  writeModel,
  writeOnnx,
} from '../../src/node.ts';
import { sizeOf } from '../../src/tensor/tensor.ts';
import { digit } from '../cli/run.ts';
import { asset, haveAssets } from '../onnx/assets.ts';
import { realSamples } from '../support/real-samples.ts';
import { Builder } from '../support/static.ts';
import { haveChromium, type OpenPage, openPage } from './chromium.ts';
import { carryOut, type Task } from './flow.ts';
import { openSite, type Site } from './site.ts';

const weightRecipes: readonly Task['options'][] = [{ weights: 'int8' }, { weights: 'int4:g32' }];

/**
 * The float sums of the two builds of ONNX Runtime differ in their last bits, which moves a few values over an edge when
 * ranges are chosen and biases corrected: the results are two equally good ones, nearer to each other than to the float
 * model. Measured: 122 dB for digits-cnn, 38 to 39 dB for resnet20-cifar10, which is 29 dB from its float model.
 */
const minSqnr = 25;
/** Two scores nearer than this share of a sample's range of scores are a tie, which either may win. */
const tie = 0.05;

/** Two more workers, which the page's worker starts. */
const twoWorkers: Task['workers'] = { count: 2, script: 'weights.js' };

const calibrationSamples = 32;
const evaluationSamples = 16;

interface Case {
  readonly name: string;
  readonly path: string;
  readonly activations: readonly ('uint8' | 'int8')[];
  readonly samples: () => Promise<Required<Omit<Task, 'options' | 'workers'>>>;
}

const digits: Case = {
  name: 'digits-cnn.onnx',
  path: digit('digits-cnn.onnx'),
  activations: ['uint8', 'int8'],
  async samples() {
    const inputs = inputsOf(readModel(digits.path));
    const values = async (file: string, limit: number) => valuesOf(await openSamples(digit(file), inputs, { limit }));
    return {
      shape: [1, 1, 28, 28],
      calibration: await values('calibration.mjs', calibrationSamples),
      evaluation: await values('test.mjs', evaluationSamples),
    };
  },
};

const resnet: Case = {
  name: 'resnet20-cifar10.onnx',
  path: asset('models/resnet20-cifar10.onnx'),
  activations: ['uint8'],
  async samples() {
    const make = realSamples['models/resnet20-cifar10.onnx'];
    const values = await valuesOf(await make(readModel(resnet.path), calibrationSamples + evaluationSamples));
    return {
      shape: [1, 3, 32, 32],
      calibration: values.slice(0, calibrationSamples),
      evaluation: values.slice(calibrationSamples),
    };
  },
};

const cases = haveAssets ? [digits, resnet] : [digits];

describe.skipIf(!haveChromium)('in Chromium', () => {
  let site: Site;
  let browser: OpenPage;
  beforeAll(async () => {
    site = await openSite();
    browser = await openPage(site.url);
  });
  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  /** The same task in both places. The files are the model's and those of its external data. */
  async function inBoth(paths: readonly string[], task: Task, { page } = browser) {
    await page.setInputFiles('input', paths);
    const answer = await page.evaluate((given) => window.ask(given), task);
    if ('error' in answer) throw new Error(`in the browser: ${answer.error}`);
    expect(answer.isolated).toBe(true);
    expect(answer.outcome.runtime).toMatch(/^onnxruntime-web \d/);
    const runtime = await openRuntime(native);
    const library = { quantize: quantizeNatively, write: blobOf, Tensor, inputsOf };
    const here = await carryOut(library, runtime, readModel(paths[0]), task);
    return { here, there: answer.outcome };
  }

  it('the page is cross-origin isolated', async () => {
    expect(await browser.page.evaluate(() => crossOriginIsolated)).toBe(true);
  });

  describe.each(cases)('$name', ({ path, activations, samples }) => {
    it.each(weightRecipes)('%j gives the bytes that Node gives', async (options) => {
      const { here, there } = await inBoth([path], { options });
      expect(there.byteLength).toBeLessThan(statSync(path).size / 3);
      expect(there.digest).toBe(here.digest);
      const { there: onTwo } = await inBoth([path], { options, workers: twoWorkers });
      expect(onTwo.digest).toBe(here.digest);
    });

    it.each(activations)('%s activations calibrated there answer as those calibrated in Node', async (format) => {
      const task: Task = { ...(await samples()), options: { activations: format } };
      const { here, there } = await inBoth([path], format === 'uint8' ? { ...task, workers: twoWorkers } : task);
      const meter = createErrorMeter();
      for (const [index, output] of here.outputs.entries()) meter.add(output, there.outputs[index]);
      expect(meter.summary().sqnr).toBeGreaterThan(minSqnr);
      const decided = here.outputs.map((output, index) => [output, there.outputs[index]]).filter(([a]) => !isTie(a));
      expect(decided.length).toBeGreaterThan(evaluationSamples / 2);
      for (const [a, b] of decided) expect(best(b)).toBe(best(a));
      expect(there.sqnr).toBeGreaterThan(minSqnr);
      expect(there.collapsed).toBeUndefined();
    });
  });

  describe('a model that stays in its files', () => {
    let folder: string;
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), 'halftone-browser-'));
    });
    afterAll(() => rmSync(folder, { recursive: true, force: true }));

    it('external data is found among the chosen files', async () => {
      const { paths } = writeModel(readModel(digits.path), join(folder, 'apart.onnx'), { external: true });
      expect(paths).toHaveLength(2);
      const task: Task = { options: { weights: 'int8' } };
      const { here, there } = await inBoth(paths, task);
      expect(there.digest).toBe(here.digest);
      await expect(inBoth(paths.slice(0, 1), task)).rejects.toThrow(
        /missing-data: .*expected external data in a file "apart.onnx_data", got no such file; choose that file, too/,
      );
    });

    it.each([undefined, twoWorkers])('its weights are read when their turn comes, workers: %j', async (workers) => {
      const path = join(folder, 'large.onnx');
      writeModel(largeModel(32), path);
      // A browser of its own: the peak of one that has done other work would hide what this takes.
      const fresh = await openPage(site.url);
      try {
        const before = await fresh.peakMemory();
        const task: Task = { options: { weights: 'int4', weightRange: 'min-max' }, ...(workers ? { workers } : {}) };
        const { here, there } = await inBoth([path], task, fresh);
        const after = await fresh.peakMemory();
        expect(there.digest).toBe(here.digest);
        if (before && after) expect((after - before) * 2 ** 20).toBeLessThan(statSync(path).size);
        expect(fresh.complaints).toEqual([]);
      } finally {
        await fresh.close();
      }
    });
  });

  describe('a worker that dies', () => {
    let fresh: OpenPage;
    beforeAll(async () => {
      fresh = await openPage(site.url);
    });
    afterAll(() => fresh?.close());
    const options = { weights: 'int4:g32' } as const;
    const dying = (script: string): Task => ({ options, workers: { count: 1, script } });

    it('is replaced, and its job done again', async () => {
      const { here, there } = await inBoth([digits.path], dying('mortal.js?deaths=1'), fresh);
      expect(there.digest).toBe(here.digest);
      expect(fresh.complaints).toEqual([]);
    });

    it('is reported when the next one dies over the same job', async () => {
      await expect(inBoth([digits.path], dying('mortal.js?deaths=2'), fresh)).rejects.toThrow(
        /runtime: .*weight ".*": expected a worker to finish it, got 2 that ended \(.*a worker died, as it was told to\)/,
      );
      expect(fresh.complaints).toEqual([]);
    });

    it('is reported when its script is not there', async () => {
      await expect(inBoth([digits.path], dying('absent.js'), fresh)).rejects.toThrow(
        /runtime: .*got 2 that ended \(a script that cannot be loaded\)/,
      );
    });
  });

  it('nothing complained', () => {
    expect(browser.complaints).toEqual([]);
  });
});

/** The values of the one input, sample by sample. */
async function valuesOf(samples: Iterable<Feeds> | AsyncIterable<Feeds>): Promise<Float32Array[]> {
  const values: Float32Array[] = [];
  for await (const feeds of samples) values.push(Object.values(feeds)[0].floats());
  return values;
}

/** Products with matrices of 16 MiB, one behind the other. */
function largeModel(layers: number): Model {
  const shape = [2048, 2048];
  const size = sizeOf(shape);
  const numbers = Float32Array.from({ length: size + layers }, (_, index) => ((index * 40503) % 65537) / 65537 - 0.5);
  const build = new Builder();
  let state = build.input('x', [1, shape[0]]);
  for (let layer = 0; layer < layers; layer++) {
    const weight = Tensor.float32(shape, numbers.subarray(layer, layer + size));
    state = build.add('MatMul', [state, build.graph.addInitializer('w', weight)]);
  }
  return build.output(state).model;
}

const native = 'onnxruntime-node';
const quantizeNatively = (model: Model, options: QuantizeOptions) =>
  quantize(model, { ...options, runtime: native, workers: 1 });

function blobOf(model: Model): Blob {
  return new Blob([writeOnnx(model) as Uint8Array<ArrayBuffer>]);
}

/** The index of the largest value. */
function best(output: Float32Array): number {
  return output.indexOf(Math.max(...output));
}

function isTie(output: Float32Array): boolean {
  const [first, second, ...rest] = [...output].sort((a, b) => b - a);
  return first - second < tie * (first - rest[rest.length - 1]);
}
