/** Where outside truth lies, and how raw arrays of it are read. Tests that need it skip, saying so, where it is absent. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../../shared/assets/oracles');

/** The folder of one set of oracles, or undefined, with a printed reason, where it is absent. */
export function oracleFolder(name: string): string | undefined {
  const folder = join(root, name);
  if (existsSync(folder)) return folder;
  console.log(`skipped: oracles "${name}", ${folder} is absent`);
  return undefined;
}

/** The bytes of a file in a buffer of their own. */
export function bytesIn(path: string): ArrayBuffer {
  return new Uint8Array(readFileSync(path)).buffer;
}
