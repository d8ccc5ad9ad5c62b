/** The one error type of halftone. Callers narrow by `code`; messages say what was expected, what was found and what to do. */

/**
 * - `usage`: the request itself makes no sense (unknown option, contradictory choices).
 * - `invalid-file`: bytes that are not what they claim to be.
 * - `unsupported`: valid, but halftone or the runtime cannot do it.
 * - `missing-data`: something needed was not given (samples, external data, a file).
 * - `runtime`: ONNX Runtime refused or failed.
 * - `accuracy`: a gate on accuracy was not met.
 * - `internal`: a broken invariant of halftone itself.
 */
export const errorCodes = [
  'usage',
  'invalid-file',
  'unsupported',
  'missing-data',
  'runtime',
  'accuracy',
  'internal',
] as const;
export type ErrorCode = (typeof errorCodes)[number];

/** Details for machines: the tensor, node, file, offset … the message talks about. */
export type ErrorFields = Readonly<Record<string, string | number | boolean | readonly string[]>>;

export class HalftoneError extends Error {
  readonly code: ErrorCode;
  readonly fields: ErrorFields;

  constructor(code: ErrorCode, message: string, options: { fields?: ErrorFields; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'HalftoneError';
    this.code = code;
    this.fields = options.fields ?? {};
  }
}

/** True for errors thrown by halftone, optionally of one code. Works across copies of the package. */
export function isHalftoneError(error: unknown, code?: ErrorCode): error is HalftoneError {
  return (
    error instanceof Error &&
    error.name === 'HalftoneError' &&
    (code === undefined || (error as HalftoneError).code === code)
  );
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
