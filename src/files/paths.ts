/** Node only: whether two paths lead to the same file, and what must never be written over. */
import { realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { HalftoneError } from '../base/errors.ts';

/** The true place of a path, also of one that does not exist yet. */
export function placeOf(path: string): string {
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
 * Makes sure that no device, pipe or socket is at `path`: files appear by renaming, which would take its place. Folders
 * need no such care, since renaming leaves them alone.
 * @param subject begins the message
 * @throws HalftoneError `usage`.
 */
export function refuseSpecial(subject: string, path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined || found.isFile() || found.isDirectory()) return;
  throw new HalftoneError(
    'usage',
    `${subject}: expected a regular file to write, got a device, pipe or socket; choose a new name`,
    { fields: { path } },
  );
}

/**
 * Makes sure that writing to `path` destroys none of the files that are read.
 * @throws HalftoneError `usage`.
 */
export function refuseInputs(subject: string, path: string, inputs: readonly string[]): void {
  const input = inputs.find((candidate) => samePlace(candidate, path));
  if (input === undefined) return;
  throw new HalftoneError(
    'usage',
    `${subject}: expected another file than "${input}", which is read; choose a new name`,
    { fields: { path } },
  );
}
