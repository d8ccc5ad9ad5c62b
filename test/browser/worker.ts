/** The page's worker: halftone and onnxruntime-web as an application bundles them. Answers one task at a time. */
import { createRuntime, inputsOf, isHalftoneError, quantizeModel, readOnnx, Tensor, writeOnnx } from 'halftone';
import * as ort from 'onnxruntime-web/wasm';
import { carryOut, type Outcome, type Task } from './flow.ts';

/** What comes back for a task. */
export type Answer = { readonly outcome: Outcome; readonly isolated: boolean } | { readonly error: string };

ort.env.wasm.wasmPaths = '/onnxruntime/';
// More than one, so that the build with threads runs, which only an isolated page can.
ort.env.wasm.numThreads = 2;
const runtime = createRuntime(ort, 'onnxruntime-web', ort.env.versions.web ?? ort.env.versions.common);

self.onmessage = async ({ data }: MessageEvent<Task>) => {
  self.postMessage(await answer(data));
};

async function answer(task: Task): Promise<Answer> {
  try {
    const outcome = await carryOut({ quantizeModel, readOnnx, writeOnnx, Tensor, inputsOf }, runtime, task);
    return { outcome, isolated: self.crossOriginIsolated };
  } catch (error) {
    const code = isHalftoneError(error) ? `${error.code}: ` : '';
    return { error: `${code}${error instanceof Error ? (error.stack ?? error.message) : String(error)}` };
  }
}
