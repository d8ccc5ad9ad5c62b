/** How a command ends: exit codes, and the one line that says why. */
import { type ErrorCode, HalftoneError, isHalftoneError, messageOf } from '../base/errors.ts';

/** Exit codes of the command line. Signals add 128 and their number, as shells do. */
export const exitCodes = {
  ok: 0,
  failure: 1,
  usage: 2,
  accuracy: 3,
  hungUp: 129,
  interrupted: 130,
  terminated: 143,
} as const;

/** The reason given to an AbortSignal when the user or the system asks the program to stop. */
export class Interruption extends Error {
  readonly exitCode: number;

  constructor(signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP') {
    super({ SIGINT: 'interrupted', SIGTERM: 'terminated', SIGHUP: 'hung up' }[signal]);
    this.name = 'Interruption';
    this.exitCode = { SIGINT: exitCodes.interrupted, SIGTERM: exitCodes.terminated, SIGHUP: exitCodes.hungUp }[signal];
  }
}

const codes: Partial<Record<ErrorCode, number>> = { usage: exitCodes.usage, accuracy: exitCodes.accuracy };

/** The exit code for something that was thrown. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof Interruption) return error.exitCode;
  return (isHalftoneError(error) && codes[error.code]) || exitCodes.failure;
}

/** The message for the user: of a broken invariant it also says how to learn more. */
export function describeFailure(error: unknown): string {
  const message = messageOf(error);
  const known = error instanceof Interruption || (isHalftoneError(error) && error.code !== 'internal');
  return known ? message : `internal error: ${message}; please report it with the output of --debug`;
}

/** A usage error. */
export function usage(message: string): HalftoneError {
  return new HalftoneError('usage', message);
}
