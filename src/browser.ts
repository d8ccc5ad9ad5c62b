/** halftone in a browser: give it a runtime made from onnxruntime-web, and models as bytes. */
export * from './index.ts';
export { createRuntime } from './runtime/onnxruntime.ts';
