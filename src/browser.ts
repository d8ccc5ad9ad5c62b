/** halftone in a browser: give it a runtime made from onnxruntime-web, and models as bytes or, in a worker, as Files. */
import { type BlobLike, blobSource } from './files/blob-source.ts';
import type { Model } from './graph/model.ts';
import { inlineExecutor } from './pipeline/executor.ts';
import { quantizeModel as quantizeWith, type Quantized, type QuantizeOptions } from './pipeline/quantize.ts';
import type { Runtime } from './runtime/runtime.ts';

export { readModel, writeModel } from './files/onnx/browser.ts';
export * from './index.ts';
export { createRuntime } from './runtime/onnxruntime.ts';

/**
 * Quantizes a model. `model` itself is not changed. Weights that lie in a File are read from it one by one, in a worker.
 * @throws HalftoneError `usage`, `missing-data`, `unsupported` or `runtime`; the signal's reason when aborted.
 */
export function quantizeModel(model: Model, options: QuantizeOptions, runtime: Runtime): Promise<Quantized> {
  const executor = inlineExecutor(({ file, offset, byteLength }) => blobSource(file as BlobLike, offset, byteLength));
  return quantizeWith(model, { executor, ...options }, runtime);
}
