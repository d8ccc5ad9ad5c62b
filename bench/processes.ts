/** Whole processes, timed to their end, with the most memory they held; in turns with those they are compared with. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bestAndMedian } from './report.ts';

/** A new folder in `parent`, removed when this process ends. */
export function temporaryFolder(parent = tmpdir()): string {
  const folder = mkdtempSync(join(parent, 'halftone-bench-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
  return folder;
}

export interface Finished {
  readonly seconds: number;
  /** Largest resident set; undefined where /proc does not tell. */
  readonly peakMiB: number | undefined;
  readonly stdout: string;
}

/** Milliseconds between two looks at a process. Its peak only grows, so that just the last moments can be missed. */
const polling = 20;

/** Runs a command to its end. @throws Error with what it said, when it fails. */
export function finish(command: string, args: readonly string[]): Promise<Finished> {
  const start = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  let peakMiB: number | undefined;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const watch = setInterval(() => {
    if (child.pid !== undefined) peakMiB = peakOf(child.pid) ?? peakMiB;
  }, polling);
  return new Promise((resolve, reject) => {
    child.on('error', (error) => {
      clearInterval(watch);
      reject(error);
    });
    child.on('close', (code, signal) => {
      clearInterval(watch);
      const seconds = (performance.now() - start) / 1000;
      if (code === 0) resolve({ seconds, peakMiB, stdout });
      else
        reject(
          new Error(`${command} ${args.join(' ')}: expected to end well, got ${signal ?? `exit ${code}`}: ${stderr}`),
        );
    });
  });
}

/** VmHWM of proc(5), in MiB. */
function peakOf(pid: number): number | undefined {
  try {
    const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return line ? Number(line[1]) / 1024 : undefined;
  } catch {
    return undefined;
  }
}

/** Waits until everything written is on the disk. */
export function flush(): void {
  spawnSync('sync');
}

/** One of several that are measured in turns. */
export interface Contender {
  readonly name: string;
  /** Puts things back as they were before the first run; not timed. */
  readonly reset: () => void;
  readonly run: () => Promise<Finished>;
}

export interface Measurement {
  readonly name: string;
  readonly best: number;
  readonly median: number;
  readonly peakMiB: number | undefined;
}

/** Runs all contenders `rounds` times in turns, and tells each one's seconds and greatest peak. */
export async function takeTurns(contenders: readonly Contender[], rounds: number): Promise<Measurement[]> {
  const runs = contenders.map((): Finished[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const [index, { name, reset, run }] of contenders.entries()) {
      reset();
      const finished = await run();
      reset();
      process.stderr.write(`  ${name}: ${finished.seconds.toFixed(2)} s\n`);
      runs[index].push(finished);
    }
  }
  return contenders.map(({ name }, index) => {
    const peaks = runs[index].flatMap(({ peakMiB }) => peakMiB ?? []);
    return {
      name,
      ...bestAndMedian(runs[index].map(({ seconds }) => seconds)),
      peakMiB: peaks.length > 0 ? Math.max(...peaks) : undefined,
    };
  });
}
