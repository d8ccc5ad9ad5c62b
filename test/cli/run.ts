/** Runs the command line as a user would, in this process or in one of its own, and keeps everything it says. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../../src/cli/program.ts';
import { createTerminal } from '../../src/cli/terminal.ts';

export const repository = fileURLToPath(new URL('../..', import.meta.url));

/** A file of the digits example, which is always there. */
export const digit = (name: string): string => join(repository, 'examples/digits', name);

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** More arguments of node, before the program. */
  readonly node?: readonly string[];
  /** Called with everything written to stderr so far, each time there is more. */
  readonly onError?: (text: string, child: ChildProcess) => void;
}

/** Runs `halftone` with these arguments in this process. */
export async function halftone(args: readonly string[]): Promise<Finished> {
  let stdout = '';
  let stderr = '';
  const keepOut = { write: (text: string) => (stdout += text) };
  const keepErrors = { write: (text: string) => (stderr += text) };
  const code = await run(args, createTerminal(keepOut, keepErrors, {}, new AbortController().signal));
  return { code, signal: null, stdout, stderr };
}

let built: string | undefined;

/** The program as users get it, compiled from the present sources once per test file; the path of its main file. */
export function builtProgram(): string {
  if (built) return built;
  const folder = join(repository, 'node_modules/.cache/halftone-test', String(process.pid));
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const name of ['package.json', 'examples']) symlinkSync(join(repository, name), join(folder, name));
  const compiler = join(repository, 'node_modules/typescript/bin/tsc');
  spawnSync(process.execPath, [compiler, '-p', 'tsconfig.build.json', '--outDir', join(folder, 'dist')], {
    cwd: repository,
  });
  built = join(folder, 'dist/cli/main.js');
  return built;
}

/** Removes what `builtProgram` made. */
export function removeBuild(): void {
  if (built) rmSync(join(built, '../../..'), { recursive: true, force: true });
  built = undefined;
}

/** Runs `halftone` with these arguments in a process of its own. */
export function spawnHalftone(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return finish([...(options.node ?? []), builtProgram(), ...args], options);
}

/** Runs node with these arguments. */
export function finish(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const { FORCE_COLOR: _force, ...environment } = process.env;
  const child = spawn(process.execPath, args, {
    cwd: repository,
    env: { ...environment, NO_COLOR: '1', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    options.onError?.(stderr, child);
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

/** A new folder, and what removes it. */
export function scratch(): { readonly path: (name: string) => string; readonly files: () => string[]; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-cli-'));
  return {
    path: (name) => join(folder, name),
    files: () => readdirSync(folder).sort(),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
