/** Files that commands write: checked before the long work, whole or absent afterwards. */
import { accessSync, constants, existsSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, resolve, sep } from 'node:path';
import { HalftoneError, messageOf } from '../base/errors.ts';
import { placeOf, refuseInputs, refuseSpecial } from '../files/paths.ts';
import { usage } from './failure.ts';

/** The path that a text for `--calibrate`, `--data` or `--labels` names: without `#array`, and of a pattern its folder. */
export function dataPath(text: string): string {
  const at = text.lastIndexOf('#');
  const path = at > 0 && !existsSync(text) ? text.slice(0, at) : text;
  return path.includes('*') && !existsSync(path) ? dirname(path) : path;
}

/** The files and folders that options name and the command reads; `random` is none. */
export function inputPaths(...texts: readonly (string | undefined)[]): string[] {
  return texts.filter((text): text is string => text !== undefined && text !== 'random').map(dataPath);
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

function isSampleInside(folder: string, path: string): boolean {
  return /\.(np[yz]|jpe?g|png)$/i.test(path) && placeOf(path).startsWith(`${placeOf(folder)}${sep}`);
}

/**
 * Makes sure that `path` can be written, and is none of the files that are read.
 * @param option names the option in messages, as `-o`
 * @param inputs files that are read, and folders of samples, of which no sample may be overwritten
 * @throws HalftoneError `usage`.
 */
export function checkOutput(option: string, path: string, inputs: readonly string[]): void {
  refuseInputs(`${option} ${path}`, path, inputs);
  const home = inputs.find((input) => isFolder(input) && existsSync(path) && isSampleInside(input, path));
  if (home !== undefined) {
    throw usage(`${option} ${path}: expected another file than one of the samples in "${home}"; choose a new name`);
  }
  if (isFolder(path)) {
    throw usage(`${option} ${path}: expected a file to write, got a folder; name a file inside it`);
  }
  refuseSpecial(`${option} ${path}`, path);
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
