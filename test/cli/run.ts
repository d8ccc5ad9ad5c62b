/** Runs the command line as a user would, in this process or in one of its own, and keeps everything it says. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
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

/** Runs `halftone` with these arguments in a process of its own, from the sources. */
export function spawnHalftone(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const program = join(repository, 'src/cli/main.ts');
  return finish(['--import', 'tsx', ...(options.node ?? []), program, ...args], options);
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
