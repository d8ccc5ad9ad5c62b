/** Opens what commands work on: the runtime, data and labels, with the messages that belong to it. */
import type { Model } from '../graph/model.ts';
import { inputsOf } from '../pipeline/inputs.ts';
import { openRuntime, type RuntimeId } from '../runtime/node.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { labelsOf } from '../samples/labels.ts';
import { openSamples, readLabels } from '../samples/node.ts';
import type { Samples } from '../samples/sample.ts';
import type { Terminal } from './terminal.ts';

/** ONNX Runtime; says so when only the WebAssembly build is there and it was not asked for. */
export async function runtimeFor(id: string | undefined, terminal: Terminal): Promise<Runtime> {
  const runtime = await openRuntime(id as RuntimeId | undefined);
  if (id === undefined && runtime.id === 'onnxruntime-web') {
    terminal.warn(
      'the native ONNX Runtime is missing, so the slower WebAssembly build is used; ' +
        'npm install onnxruntime-node --ignore-scripts gives it',
    );
  }
  return runtime;
}

export interface DataOptions {
  readonly samples?: number | undefined;
  readonly preprocess?: string | undefined;
  readonly labels?: string | undefined;
}

export interface Data {
  readonly samples: Samples;
  readonly labels: readonly number[] | undefined;
}

/**
 * Opens samples and their labels.
 * @throws HalftoneError as `openSamples`, `readLabels` and `labelsOf`.
 */
export async function openData(model: Model, path: string, options: DataOptions, terminal: Terminal): Promise<Data> {
  const made = path === 'random';
  const samples = await openSamples(path, inputsOf(model), {
    ...(options.preprocess === undefined ? {} : { preprocess: options.preprocess }),
    ...(made && options.samples !== undefined ? { limit: options.samples } : {}),
  });
  for (const ignored of samples.ignored ?? []) terminal.warn(`${samples.description}: left unused: ${ignored}`);
  const labels = options.labels === undefined ? undefined : labelsOf(samples, await readLabels(options.labels));
  return { samples, labels };
}
