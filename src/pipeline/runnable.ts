/** Models as the runtime takes them, to be run on samples: whole, in one message. */
import { HalftoneError } from '../base/errors.ts';
import { fitsOneFile, tensorBytes, writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import type { Runtime, Session } from '../runtime/runtime.ts';
import { subModel } from './sub-model.ts';

/** @throws HalftoneError `unsupported` when the model is too large to be run on samples. */
export function refuseTooLargeToRun(model: Model): void {
  if (fitsOneFile(model)) return;
  throw new HalftoneError(
    'unsupported',
    `model: expected less than 2 GiB of tensors to run it on samples, got ${tensorBytes(model)} bytes, which halftone cannot ` +
      'run yet; quantize its weights without samples, and compare both models in the program that runs them',
  );
}

/**
 * Serializes a model for `Runtime.open`.
 * @throws HalftoneError as `refuseTooLargeToRun`.
 */
export function runnableBytes(model: Model): Uint8Array {
  refuseTooLargeToRun(model);
  return writeOnnx(model);
}

/** The values that a run makes, each once. */
export function madeValues(values: readonly (Value | undefined)[]): Value[] {
  return [...new Set(values)].filter((value): value is Value => value?.producer !== undefined);
}

/** Loads what makes some values. */
export type OpenValues = (values: readonly (Value | undefined)[]) => Promise<Pick<Session, 'run' | 'close'>>;

/**
 * Loads the part of a model that makes some values; those that no node makes are left out.
 * @throws HalftoneError as `runnableBytes`, and `runtime` when it does not load
 */
export async function openValues(
  model: Model,
  values: readonly (Value | undefined)[],
  runtime: Runtime,
  threads: number | undefined,
): Promise<Pick<Session, 'run' | 'close'>> {
  const made = madeValues(values);
  if (made.length === 0) return { run: async () => ({}), close: async () => {} };
  return runtime.open(runnableBytes(subModel(model, made)), threads ? { threads } : {});
}
