/** Opens what commands work on: the runtime, data and labels, with the messages that belong to it. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import { inputsOf } from '../pipeline/inputs.ts';
import { lazyRuntime, type RuntimeId } from '../runtime/node.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { labelsOf } from '../samples/labels.ts';
import { openSamples, readLabels } from '../samples/node.ts';
import type { Samples } from '../samples/sample.ts';
import { usage } from './failure.ts';
import type { Terminal } from './terminal.ts';

/** ONNX Runtime, loaded when it is needed; then says so when only the WebAssembly build is there and it was not asked for. */
export function runtimeFor(id: string | undefined, terminal: Terminal): Runtime {
  return lazyRuntime(id as RuntimeId | undefined, (runtime) => {
    if (id !== undefined || runtime.id !== 'onnxruntime-web') return;
    terminal.warn(
      'the native ONNX Runtime is missing, so the slower WebAssembly build is used; ' +
        'npm install onnxruntime-node --ignore-scripts gives it',
    );
  });
}

/** Lengths of dimensions by name. */
export type Dimensions = Readonly<Record<string, number>>;

export interface DataOptions {
  readonly samples?: number | undefined;
  readonly preprocess?: string | undefined;
  readonly labels?: string | undefined;
  /** For made-up samples. */
  readonly dimensions?: Dimensions | undefined;
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
  if (options.dimensions) checkDimensions(model, options.dimensions, made);
  const samples = await openSamples(path, inputsOf(model), {
    ...(options.preprocess === undefined ? {} : { preprocess: options.preprocess }),
    ...(made && options.samples !== undefined ? { limit: options.samples } : {}),
    ...(options.dimensions === undefined ? {} : { dimensions: options.dimensions }),
  });
  for (const ignored of samples.ignored ?? []) terminal.warn(`${samples.description}: left unused: ${ignored}`);
  const labels = options.labels === undefined ? undefined : labelsOf(samples, await readLabels(options.labels));
  return { samples, labels };
}

/** The names of lengths that the model's inputs leave open; of sums such as `past + new` also their parts. */
function openDimensions(model: Model): string[] {
  const names = inputsOf(model).flatMap(({ shape }) => shape.filter((length) => typeof length === 'string'));
  const parts = names.flatMap((name) => name.split('+').map((part) => part.trim()));
  return [...new Set([...names, ...parts])].filter((name) => name !== '' && !/^\d+$/.test(name));
}

function checkDimensions(model: Model, dimensions: Dimensions, made: boolean): void {
  if (!made) throw usage('--dimensions: expected made-up samples, got others, which have their own; leave it out');
  const known = openDimensions(model);
  for (const name of Object.keys(dimensions)) {
    if (known.includes(name)) continue;
    throw usage(
      `--dimensions ${name}: expected a dimension of the inputs, got none of ${known.join(', ') || 'no names'}`,
    );
  }
}

/** Runs `work`; where it fails because the model does not run on made-up samples, the message says what helps. */
export async function explainingMadeUp<T>(
  model: Model,
  samples: Samples | undefined,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const failed = error instanceof HalftoneError && error.code === 'runtime' && /expected to run/.test(error.message);
    if (!failed || !samples?.synthetic) throw error;
    const names = openDimensions(model);
    const lengths = names.length > 0 ? `set lengths with --dimensions NAME=SIZE (open: ${names.join(', ')}), or ` : '';
    throw new HalftoneError('runtime', `${error.message}; the samples were made up: ${lengths}give real data`, {
      cause: error,
      fields: error.fields,
    });
  }
}
