/** A built `halftone` of some revision, and how the benchmarks call it. */
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Contender, finish, flush } from './processes.ts';

export interface Program {
  /** dist/cli/main.js. */
  readonly main: string;
  /** The options of `halftone quantize`, as `--workers`. */
  readonly options: ReadonlySet<string>;
}

/** The built program of a checkout. @throws Error when it was not built. */
export function programIn(checkout: string): Program {
  const main = join(checkout, 'dist/cli/main.js');
  if (!existsSync(main)) throw new Error(`${main}: expected a built program, got none; run npm run build`);
  const { stdout } = spawnSync(process.execPath, [main, 'quantize', '--help'], { encoding: 'utf8' });
  return { main, options: new Set(stdout.match(/--[a-z][a-z-]*/g)) };
}

/** int4 in blocks of 32 without a zero point, for every weight, as the peer's tool writes it. */
export const int4 = ['--weights', 'int4:g32:sym', '--uniform'];

/** How the grid of a block is chosen: rounding to its extremes, which is all that the peer's tool does, or searching. */
export const weightRanges = ['min-max', 'search'] as const;

/** Arguments of node for `halftone quantize`. */
export function quantizing({ main }: Program, model: string, output: string, more: readonly string[]): string[] {
  return [main, 'quantize', model, '-o', output, ...int4, ...more];
}

/** Runs a command and waits for the disk, which is where the yardstick ends, too. */
export async function finishOnDisk(command: string, args: readonly string[]) {
  const start = performance.now();
  const finished = await finish(command, args);
  flush();
  return { ...finished, seconds: (performance.now() - start) / 1000 };
}

/** Quantizing `model` as one of several that are measured in turns. */
export function quantizer(
  name: string,
  program: Program,
  model: string,
  output: string,
  more: readonly string[],
): Contender {
  return {
    name,
    reset: () => removeModel(output),
    run: () => finishOnDisk(process.execPath, quantizing(program, model, output, more)),
  };
}

/** Removes a model with its external data, and lets the disk come to rest. */
export function removeModel(path: string): void {
  for (const file of [path, `${path}_data`, `${path}.data`]) rmSync(file, { force: true });
  flush();
}
