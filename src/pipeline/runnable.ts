/** Models as the runtime takes them, to be run on samples: whole, in one message. */
import { HalftoneError } from '../base/errors.ts';
import { fitsOneFile, tensorBytes, writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';

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
