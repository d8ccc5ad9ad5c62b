/** Quantizing models of gigabytes as whole processes: time beside a copy of the file, memory, and a second worker. */
import { createReadStream, existsSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { makeLanguageModel } from './make-llm.ts';
import { findPeer, peerQuantizer } from './peers.ts';
import { type Contender, type Measurement, takeTurns } from './processes.ts';
import { finishOnDisk, type Program, quantizer, removeModel, weightRanges } from './program.ts';
import { mark, table } from './report.ts';

export interface LargeModelOptions {
  readonly program: Program;
  /** A folder for models, on the disk that is measured. */
  readonly folder: string;
  readonly gigabytes: number;
  readonly rounds: number;
  readonly python: string;
}

/** Times of a copy, its wait for the disk included. */
const copyGoal = 1;
/** Largest resident set. */
const memoryGoal = 400;
/** The larger model of the memory table. */
const larger = 4;
/** How much faster two workers are than one. */
const workersGoal = 1.7;
const memoryDisk = '/dev/shm';

const megabytes = (value: number | undefined) => (value === undefined ? '–' : `${value.toFixed(0)} MiB`);
const times = (value: number) => `${value.toFixed(2)}×`;

/** A made-up model in `folder`, in the file cache. @returns its path */
export async function largeModel(folder: string, gigabytes: number): Promise<string> {
  const path = join(folder, `llm-${gigabytes}.onnx`);
  if (!existsSync(path)) makeLanguageModel(path, gigabytes);
  for await (const _ of createReadStream(`${path}_data`, { highWaterMark: 2 ** 22 }));
  return path;
}

function copying(model: string, copy: string): Contender {
  return {
    name: '`cp` and `sync` of the float32 data',
    reset: () => removeModel(copy),
    run: () => finishOnDisk('cp', [`${model}_data`, copy]),
  };
}

/** Each way of quantizing, and the peer where there is one, beside a copy of the same file in the same run. */
export async function timeTable({ program, folder, gigabytes, rounds, python }: LargeModelOptions): Promise<string> {
  const model = await largeModel(folder, gigabytes);
  const output = join(folder, 'quantized.onnx');
  const peer = findPeer(python);
  const contenders = [
    copying(model, join(folder, 'copy')),
    ...weightRanges.map((range) =>
      quantizer(`halftone, \`--weight-range ${range}\``, program, model, output, ['--weight-range', range]),
    ),
    ...(typeof peer === 'string' ? [] : [peerQuantizer(peer, model, output)]),
  ];
  const [copy, ...others] = await takeTurns(contenders, rounds);
  const peerRun = typeof peer === 'string' ? undefined : others.at(-1);
  const rows = [copy, ...others].map(({ name, best, median, peakMiB }) => {
    const judged = name.startsWith('halftone');
    const reached = median <= copyGoal * copy.median && (peakMiB ?? 0) <= memoryGoal;
    return [
      name,
      best.toFixed(2),
      median.toFixed(2),
      times(median / copy.median),
      peerRun ? times(median / peerRun.median) : '–',
      megabytes(peakMiB),
      judged ? `≤ ${copyGoal.toFixed(1)}× of the copy, ≤ ${memoryGoal} MiB` : '–',
      judged ? mark(reached) : '–',
    ];
  });
  const size = `${(statSync(`${model}_data`).size / 1e9).toFixed(2)} GB`;
  return [
    `A made-up decoder of ${size} of float32 to int4 in blocks of 32 without zero points, all weights, its file in the cache, whole processes followed by \`sync\`, ${rounds} rounds in turns.`,
    table(['run', 'best, s', 'median, s', 'of the copy', 'of the peer', 'peak memory', 'goal', 'reached'], rows),
    ...(typeof peer === 'string' ? [peer] : []),
  ].join('\n\n');
}

/** The most memory that a larger model takes: it must not grow with the model. */
export async function memoryTable({ program, folder, gigabytes }: LargeModelOptions): Promise<string> {
  const output = join(folder, 'quantized.onnx');
  const rows: string[][] = [];
  for (const size of [gigabytes, larger * gigabytes]) {
    const model = await largeModel(folder, size);
    for (const range of weightRanges) {
      const contender = quantizer(`${size} GB, ${range}`, program, model, output, ['--weight-range', range]);
      const [{ best, peakMiB }] = await takeTurns([contender], 1);
      const reached = peakMiB !== undefined && peakMiB <= memoryGoal;
      rows.push([`${size} GB`, range, best.toFixed(1), megabytes(peakMiB), `≤ ${memoryGoal} MiB`, mark(reached)]);
    }
    if (size !== gigabytes) for (const file of [model, `${model}_data`]) rmSync(file);
  }
  return table(['float32 model', 'weight range', 'seconds', 'peak memory', 'goal', 'reached'], rows);
}

/** One worker against two. What is written stays in memory, so that the disk does not decide. */
export async function workersTable(options: LargeModelOptions): Promise<string> {
  const { program, folder, gigabytes, rounds } = options;
  if (!program.options.has('--workers')) return 'Skipped: this `halftone quantize` has no `--workers`.';
  const model = await largeModel(folder, gigabytes);
  const output = join(existsSync(memoryDisk) ? memoryDisk : folder, `halftone-bench-${process.pid}.onnx`);
  const rows: string[][] = [];
  for (const range of weightRanges) {
    const contenders = [1, 2].map((workers) =>
      quantizer(`${range}, ${workers} workers`, program, model, output, [
        '--weight-range',
        range,
        '--workers',
        String(workers),
      ]),
    );
    const [one, two] = await takeTurns(contenders, rounds);
    const faster = one.median / two.median;
    rows.push([
      range,
      ...[one, two].flatMap(({ best, median }: Measurement) => [best.toFixed(2), median.toFixed(2)]),
      times(faster),
      `≥ ${workersGoal}×`,
      mark(faster >= workersGoal),
      megabytes(two.peakMiB),
    ]);
  }
  const head = ['weight range', 'one worker: best, s', 'median, s', 'two: best, s', 'median, s', 'faster'];
  return table([...head, 'goal', 'reached', 'peak memory of two'], rows);
}
