/** halftone in a browser: give it a runtime made from onnxruntime-web, and models as bytes or, in a worker, as Files. */
import { openBlobRange } from './files/blob-source.ts';
import type { Model } from './graph/model.ts';
import { blobStore } from './pipeline/blob-store.ts';
import { inlineExecutor } from './pipeline/executor.ts';
import { type Quantized, type QuantizeOptions, quantizeModel as quantizeWith } from './pipeline/quantize.ts';
import { memoryStore } from './pipeline/store.ts';
import type { Runtime } from './runtime/runtime.ts';

export { openExecutor, type WorkersOptions } from './executors/browser.ts';
export { readModel, writeModel } from './files/onnx/browser.ts';
export * from './index.ts';
export { createRuntime } from './runtime/onnxruntime.ts';

/**
 * Quantizes a model. `model` itself is not changed. Weights that lie in a File are read from it one by one, in a worker,
 * and finished ones wait in Blobs.
 * @throws HalftoneError `usage`, `missing-data`, `unsupported` or `runtime`; the signal's reason when aborted.
 */
export function quantizeModel(model: Model, options: QuantizeOptions, runtime: Runtime): Promise<Quantized> {
  const executor = options.executor ?? inlineExecutor(openBlobRange);
  const openStore = options.openStore ?? (liesInFiles(model) ? blobStore : memoryStore);
  return quantizeWith(model, { ...options, executor, openStore }, runtime);
}

function liesInFiles(model: Model): boolean {
  return [...model.graphs()].some(({ initializers }) => [...initializers].some(({ tensor }) => tensor?.source));
}
