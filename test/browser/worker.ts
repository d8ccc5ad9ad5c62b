/** The page's worker: halftone and onnxruntime-web as an application bundles them. Answers one question at a time. */
import {
  createRuntime,
  inputsOf,
  isHalftoneError,
  type Model,
  openExecutor,
  type Quantized,
  type QuantizeOptions,
  quantizeModel,
  readModel,
  Tensor,
  writeModel,
} from 'halftone';
import * as ort from 'onnxruntime-web/wasm';
import { carryOut, type Outcome, type Task } from './flow.ts';

export interface Question {
  /** The model as the user chose it, and the files of its external data. */
  readonly files: readonly File[];
  readonly task: Task;
}

export type Answer = { readonly outcome: Outcome; readonly isolated: boolean } | { readonly error: string };

ort.env.wasm.wasmPaths = '/onnxruntime/';
// More than one, so that the build with threads runs, which only an isolated page can.
ort.env.wasm.numThreads = 2;
const runtime = createRuntime(ort, 'onnxruntime-web', ort.env.versions.web ?? ort.env.versions.common);

self.onmessage = async ({ data }: MessageEvent<Question>) => {
  self.postMessage(await answer(data));
};

async function answer({ files: [file, ...external], task }: Question): Promise<Answer> {
  try {
    const model = readModel(file, external);
    const quantize = (model: Model, options: QuantizeOptions) => quantizeOn(model, options, task);
    const outcome = await carryOut({ quantize, write: writeModel, Tensor, inputsOf }, runtime, model, task);
    return { outcome, isolated: self.crossOriginIsolated };
  } catch (error) {
    const code = isHalftoneError(error) ? `${error.code}: ` : '';
    return { error: `${code}${error instanceof Error ? (error.stack ?? error.message) : String(error)}` };
  }
}

async function quantizeOn(model: Model, options: QuantizeOptions, { workers }: Task): Promise<Quantized> {
  if (!workers) return quantizeModel(model, options, runtime);
  const executor = openExecutor({ workers: workers.count, script: workers.script });
  try {
    return await quantizeModel(model, { ...options, executor }, runtime);
  } finally {
    await executor.close();
  }
}
