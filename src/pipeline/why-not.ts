/** Work that may be impossible for a model, which is no reason to give up the rest. */
import { isHalftoneError } from '../base/errors.ts';

/** What `work` gives, or why it cannot be done: the message of an error that says `unsupported` or `runtime`. */
export async function orWhyNot<T>(work: () => Promise<T>): Promise<T | string> {
  try {
    return await work();
  } catch (error) {
    if (isHalftoneError(error) && (error.code === 'unsupported' || error.code === 'runtime')) return error.message;
    throw error;
  }
}
