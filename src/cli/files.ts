/** Files that commands write: checked before the long work, whole or absent afterwards. */
import { accessSync, constants, existsSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { HalftoneError, messageOf } from '../base/errors.ts';
import { usage } from './failure.ts';

/** The true place of a path, also of one that does not exist yet. */
function placeOf(path: string): string {
  const full = resolve(path);
  try {
    return realpathSync(full);
  } catch {
    try {
      return join(realpathSync(dirname(full)), basename(full));
    } catch {
      return full;
    }
  }
}

/** True when both paths lead to the same file. */
export function samePlace(a: string, b: string): boolean {
  return placeOf(a) === placeOf(b);
}

/**
 * Makes sure that `path` can be written, and is none of the files that are read.
 * @param option names the option in messages, as `-o`
 * @throws HalftoneError `usage`.
 */
export function checkOutput(option: string, path: string, inputs: readonly string[]): void {
  const input = inputs.find((candidate) => samePlace(candidate, path));
  if (input !== undefined) {
    throw usage(`${option} ${path}: expected another file than "${input}", which is read; choose a new name`);
  }
  if (existsSync(path) && statSync(path).isDirectory()) {
    throw usage(`${option} ${path}: expected a file to write, got a folder; name a file inside it`);
  }
  const folder = dirname(resolve(path));
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    throw usage(
      `${option} ${path}: expected an existing folder, got "${dirname(path)}", which is none; create it first`,
    );
  }
  try {
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw usage(`${option} ${path}: expected a folder that can be written to, got ${messageOf(error)}`);
  }
}

/** Writes text so that the file is whole or absent. @throws HalftoneError `runtime` when the disk refuses. */
export function writeText(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.partial`;
  try {
    writeFileSync(temporary, text);
    renameSync(temporary, path);
  } catch (error) {
    throw new HalftoneError('runtime', `${path}: expected to write the file, got ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    rmSync(temporary, { force: true });
  }
}
