/** halftone in a browser: give it a runtime made from onnxruntime-web, and models as bytes or, in a worker, as Files. */
export { readModel, writeModel } from './files/onnx/browser.ts';
export * from './index.ts';
export { createRuntime } from './runtime/onnxruntime.ts';
