/** Node only: halftone with models on disk, ONNX Runtime found by itself, and data read from paths. */
import { performance } from 'node:perf_hooks';
import { openRange } from './executors/node.ts';
import { openResources, type ResourceOptions } from './executors/resources.ts';
import { readModel } from './files/onnx/node.ts';
import {
  externalDataPath,
  type WriteFileOptions,
  type WrittenFiles,
  writeModel as writeFiles,
} from './files/onnx/write-files.ts';
import { refuseInputs } from './files/paths.ts';
import type { Model } from './graph/model.ts';
import { type CompareOptions, type Comparison, compare as compareLoaded } from './pipeline/compare.ts';
import { inlineExecutor } from './pipeline/executor.ts';
import { inputsOf } from './pipeline/inputs.ts';
import { type Quantized, type QuantizeOptions, quantizeModel as quantizeWith } from './pipeline/quantize.ts';
import { lazyRuntime, type RuntimeId } from './runtime/node.ts';
import type { Runtime } from './runtime/runtime.ts';
import { type OpenOptions, openSamples } from './samples/node.ts';
import { randomSamples } from './samples/random.ts';
import type { Samples } from './samples/sample.ts';

export { readModel } from './files/onnx/node.ts';
export type { WrittenFiles } from './files/onnx/write-files.ts';
export * from './index.ts';
export { openRuntime, type RuntimeId, runtimeIds } from './runtime/node.ts';
export { openSamples, readLabels } from './samples/node.ts';

/** A model: a path, or one that was read. */
export type ModelSource = string | Model;

export interface NodeQuantizeOptions
  extends Omit<QuantizeOptions, 'calibration' | 'executor' | 'openStore' | 'memory'>,
    ResourceOptions {
  /** Where to write the result; nothing is written without it. */
  readonly output?: string;
  /** Samples, or a path to them: `.npz`, `.npy`, a folder, `.jsonl`, a module; `random` makes values up. */
  readonly calibration?: Samples | string;
  /** A Hugging Face preprocessor_config.json for a folder of images. */
  readonly preprocess?: string;
  readonly runtime?: RuntimeId;
}

/**
 * Quantizes a model and, with `output`, writes it. The same as the command `halftone quantize`.
 * @throws HalftoneError as `quantizeModel`, `readModel` and `openSamples`.
 */
export async function quantize(source: ModelSource, options: NodeQuantizeOptions = {}): Promise<Quantized> {
  const { output, calibration, preprocess, runtime: runtimeId, workers, maxMemory, resume, ...rest } = options;
  const external: string[] = [];
  const model = typeof source === 'string' ? readModel(source, (file) => external.push(file)) : source;
  if (output !== undefined) {
    const read = [source, calibration, ...external].filter((path) => typeof path === 'string');
    refuseInputs(`output ${output}`, output, read);
    refuseInputs(`output ${output}, tensors in ${externalDataPath(output)}`, externalDataPath(output), read);
  }
  const runtime = lazyRuntime(runtimeId);
  const samples = calibration === undefined ? undefined : await samplesOf(model, calibration, preprocess);
  const resources = openResources(model, output, {
    ...(workers === undefined ? {} : { workers }),
    ...(maxMemory === undefined ? {} : { maxMemory }),
    resume: resume === true,
    calibrates: samples !== undefined,
    hasExternalData: external.length > 0,
  });
  let finished = false;
  try {
    const { executor, memory, openStore } = resources;
    const own = { executor, memory, openStore, ...(samples ? { calibration: samples } : {}) };
    const result = await quantizeWith(model, { clock: () => performance.now(), ...rest, ...own }, runtime);
    if (output !== undefined) resources.write(result.model, output);
    finished = true;
    return output === undefined ? result : { ...result, model: readModel(output) };
  } finally {
    await resources.close({ keep: !finished && resume === true });
  }
}

/**
 * Quantizes a model in memory, or one whose large tensors lie in files, on the calling thread. `model` itself is not changed.
 * `quantize` does the same with threads, and in bounded memory.
 * @throws HalftoneError `usage`, `missing-data`, `unsupported` or `runtime`; the signal's reason when aborted.
 */
export function quantizeModel(model: Model, options: QuantizeOptions, runtime: Runtime): Promise<Quantized> {
  return quantizeWith(model, { ...options, executor: options.executor ?? inlineExecutor(openRange) }, runtime);
}

export type WriteModelOptions = Pick<WriteFileOptions, 'external' | 'chunkBytes'>;

/**
 * Writes a model. Tensors go to `NAME.onnx_data`, `NAME.onnx_data_1` … beside it when the file would reach 2 GiB, or
 * always with `external`. Every file appears whole, under its final name, or not at all; the model file comes last.
 * @throws HalftoneError `usage` when a device, pipe or socket has such a name, `runtime` when the disk refuses; what was
 * there before stays.
 */
export function writeModel(model: Model, path: string, options: WriteModelOptions = {}): WrittenFiles {
  return writeFiles(model, path, options);
}

export interface NodeCompareOptions extends CompareOptions {
  readonly data: Samples | string;
  readonly preprocess?: string;
  readonly limit?: number;
  readonly runtime?: RuntimeId;
}

/** Compares a quantized model with its float model. The same as the command `halftone compare`. */
export async function compare(
  float: ModelSource,
  quantized: ModelSource,
  options: NodeCompareOptions,
): Promise<Comparison> {
  const { data, preprocess, limit, runtime: runtimeId, ...rest } = options;
  const [a, b] = [float, quantized].map((source) => (typeof source === 'string' ? readModel(source) : source));
  const runtime = lazyRuntime(runtimeId);
  const samples = await samplesOf(a, data, preprocess, limit);
  return compareLoaded(a, b, samples, runtime, { clock: () => performance.now(), ...rest });
}

async function samplesOf(model: Model, data: Samples | string, preprocess?: string, limit?: number): Promise<Samples> {
  if (typeof data !== 'string') return data;
  const inputs = inputsOf(model);
  if (data === 'random') return randomSamples(inputs, limit === undefined ? {} : { count: limit });
  const options: OpenOptions = { ...(preprocess ? { preprocess } : {}), ...(limit === undefined ? {} : { limit }) };
  return openSamples(data, inputs, options);
}
