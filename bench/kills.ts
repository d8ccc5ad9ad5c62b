/**
 * `npx tsx bench/kills.ts [--gigabytes 1] [--kills 20] [--seed 1]`: kills runs at random moments. Under the names of the
 * result there must never be a file that is not whole, and a run with `--resume` must end with the same bytes as one that
 * nothing stopped. Needs `npm run build`.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createRandom } from '../src/base/random.ts';
import { largeModel } from './large-models.ts';
import { finish, temporaryFolder } from './processes.ts';
import { type Program, programIn, quantizing } from './program.ts';
import { mark, table } from './report.ts';
import { repository } from './startup.ts';

export interface KillOptions {
  readonly program: Program;
  readonly folder: string;
  readonly gigabytes: number;
  readonly kills: number;
  readonly seed: number;
}

/** Tensors inside the model file, and beside it: then two files have to appear. */
const layouts = [
  { name: 'one file', more: [] },
  { name: 'with external data', more: ['--external-data'] },
] as const;

interface Tally {
  killed: number;
  /** Runs that had ended before their moment came. */
  finished: number;
  /** Files under the names of the result that differ from those of a whole run, by the moment of the kill. */
  broken: string[];
  resumed: number;
  /** Resumed runs that failed or gave other bytes. */
  different: string[];
  resumeSeconds: number;
}

/** Kills runs of both layouts in turns and tells what was found. */
export async function killsTable({ program, folder, gigabytes, kills, seed }: KillOptions): Promise<string> {
  const model = await largeModel(folder, gigabytes);
  const resumes = program.options.has('--resume');
  const random = createRandom(seed);
  const perLayout = Math.ceil(kills / layouts.length);
  const rows: string[][] = [];
  for (const { name, more } of layouts) {
    const wholeFolder = join(folder, 'whole');
    mkdirSync(wholeFolder);
    const { seconds } = await finish(process.execPath, quantizing(program, model, join(wholeFolder, output), more));
    const whole = await digestsIn(wholeFolder);
    rmSync(wholeFolder, { recursive: true });
    const tally: Tally = { killed: 0, finished: 0, broken: [], resumed: 0, different: [], resumeSeconds: 0 };
    for (let kill = 0; kill < perLayout; kill++) {
      const moment = random() * seconds;
      const place = join(folder, `kill-${kill}`);
      mkdirSync(place);
      // A run keeps what it has finished only where it was asked to.
      const args = quantizing(program, model, join(place, output), resumes ? [...more, '--resume'] : more);
      await killOnce(args, moment, place, whole, tally);
      if (resumes) await resumeOnce(args, moment, place, whole, tally);
      rmSync(place, { recursive: true });
    }
    const found = [...tally.broken, ...tally.different];
    rows.push([
      name,
      seconds.toFixed(1),
      `${tally.killed}${tally.finished > 0 ? ` (${tally.finished} ended before)` : ''}`,
      String(tally.broken.length),
      resumes ? `${tally.resumed - tally.different.length} of ${tally.resumed}` : 'no `--resume` yet',
      resumes ? (tally.resumeSeconds / tally.resumed).toFixed(1) : '–',
      found.length === 0 ? mark(true) : `${mark(false)}: ${found.join('; ')}`,
    ]);
  }
  const head = [
    'result',
    'whole run, s',
    'killed',
    'broken files',
    'same bytes resumed',
    'resumed run, s',
    'as it should be',
  ];
  return `A ${gigabytes} GB model, killed (SIGKILL) at random moments, seed ${seed}.\n\n${table(head, rows)}`;
}

const output = 'out.onnx';
/** The names under which a reader would look for the result. */
const resultNames = [output, `${output}_data`];

async function digestsIn(folder: string): Promise<ReadonlyMap<string, string>> {
  const digests = new Map<string, string>();
  for (const name of resultNames) {
    const path = join(folder, name);
    if (existsSync(path)) digests.set(name, await digestOf(path));
  }
  return digests;
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: 2 ** 22 })) hash.update(piece);
  return hash.digest('hex');
}

async function killOnce(
  args: readonly string[],
  moment: number,
  folder: string,
  whole: ReadonlyMap<string, string>,
  tally: Tally,
): Promise<void> {
  const child = spawn(process.execPath, args, { stdio: 'ignore' });
  const timer = setTimeout(() => child.kill('SIGKILL'), moment * 1000);
  const signal = await new Promise((resolve) => child.on('close', (_, by) => resolve(by)));
  clearTimeout(timer);
  if (signal === 'SIGKILL') tally.killed++;
  else tally.finished++;
  const found = await digestsIn(folder);
  for (const [name, digest] of found) {
    if (digest !== whole.get(name)) tally.broken.push(`${name} after ${moment.toFixed(2)} s`);
  }
  // The model names its data: it must not be there without it.
  if (found.has(output) && found.size < whole.size) tally.broken.push(`no data after ${moment.toFixed(2)} s`);
}

async function resumeOnce(
  args: readonly string[],
  moment: number,
  folder: string,
  whole: ReadonlyMap<string, string>,
  tally: Tally,
): Promise<void> {
  tally.resumed++;
  try {
    tally.resumeSeconds += (await finish(process.execPath, args)).seconds;
  } catch (error) {
    tally.different.push(`resumed after ${moment.toFixed(2)} s: ${(error as Error).message}`);
    return;
  }
  const found = await digestsIn(folder);
  const same = found.size === whole.size && [...found].every(([name, digest]) => whole.get(name) === digest);
  const left = readdirSync(folder).filter((name) => !resultNames.includes(name));
  if (!same) tally.different.push(`resumed after ${moment.toFixed(2)} s: other bytes`);
  else if (left.length > 0) tally.different.push(`resumed after ${moment.toFixed(2)} s: leaves ${left.join(', ')}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      gigabytes: { type: 'string', default: '1' },
      kills: { type: 'string', default: '20' },
      seed: { type: 'string', default: '1' },
    },
  });
  const folder = temporaryFolder();
  const [gigabytes, kills, seed] = [values.gigabytes, values.kills, values.seed].map(Number);
  const text = await killsTable({ program: programIn(repository), folder, gigabytes, kills, seed });
  process.stdout.write(`${text}\n`);
  if (text.includes(mark(false))) process.exitCode = 1;
}
