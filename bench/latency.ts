/**
 * Times a float and a quantized file in turns, in a process of its own whose threads are bound to separate cores, and
 * reports each one's fastest and median run. Run as a program it does the work and prints one line of JSON.
 *
 * On a machine shared with others, or whose scheduler packs idle processors, two threads that work together wait for one
 * another at the scheduler's mercy: the median of such runs tells of the machine. The fastest run tells of the file.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Timing {
  readonly threads: number;
  /** Milliseconds of a run: the fastest and the median, float then quantized. */
  readonly fastest: readonly [number, number];
  readonly median: readonly [number, number];
}

/** How much faster the quantized file is by its fastest run. */
export const speedupOf = ({ fastest: [float, quantized] }: Timing) => float / quantized;

/** One thread, and two threads on two cores. */
export function timingsOf(float: Uint8Array, quantized: Uint8Array): Timing[] {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-bench-'));
  try {
    const files = [float, quantized].map((bytes, index) => {
      const path = join(folder, `${index}.onnx`);
      writeFileSync(path, bytes);
      return path;
    });
    return [1, 2].map((threads) => {
      const script = fileURLToPath(import.meta.url);
      const command = [process.execPath, '--import', 'tsx', script, ...files, String(threads)];
      // The first thread stays on core 0; ONNX Runtime binds the second one, see `work`.
      const pinned = spawnSync('taskset', ['--version']).status === 0 ? ['taskset', '-c', '0', ...command] : command;
      const [program = '', ...args] = pinned;
      const attempts = Array.from({ length: processes }, () => {
        const result = spawnSync(program, args, { encoding: 'utf8' });
        if (result.status !== 0) throw new Error(`${script}: expected to end well, got: ${result.stderr}`);
        return JSON.parse(result.stdout) as Timing;
      });
      const of = (pick: (timing: Timing) => number) => attempts.map(pick).sort((a, b) => a - b);
      const least = (pick: (timing: Timing) => number) => of(pick)[0] ?? Number.NaN;
      const middle = (pick: (timing: Timing) => number) => of(pick)[processes >> 1] ?? Number.NaN;
      return {
        threads,
        fastest: [least(({ fastest }) => fastest[0]), least(({ fastest }) => fastest[1])],
        median: [middle(({ median }) => median[0]), middle(({ median }) => median[1])],
      };
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Where memory lies is decided when a process starts, and counts. */
const processes = 5;
const rounds = 40;
const runsInTurn = 6;

async function work(files: readonly string[], threads: number): Promise<Timing> {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const models = [];
  for (const file of files) {
    const session = await InferenceSession.create(file, {
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      extra: threads > 1 ? { session: { intra_op_thread_affinities: '2' } } : {},
    });
    const feeds: Record<string, InstanceType<typeof Tensor>> = {};
    for (const input of session.inputMetadata) {
      if (!input.isTensor) throw new Error(`${file}: expected tensors as inputs, got ${input.name}`);
      const shape = input.shape.map((size) => (typeof size === 'number' && size > 0 ? size : 1));
      const count = shape.reduce((product, size) => product * size, 1);
      feeds[input.name] = new Tensor(
        'float32',
        Float32Array.from({ length: count }, (_, i) => Math.sin(i)),
        shape,
      );
    }
    models.push({ session, feeds, times: [] as number[] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const { session, feeds, times } of models) {
      for (let run = 0; run < runsInTurn; run++) {
        const start = performance.now();
        await session.run(feeds);
        // The first run of a turn warms the caches.
        if (run > 0) times.push(performance.now() - start);
      }
    }
  }
  const [float, quantized] = models.map(({ times }) => times.sort((a, b) => a - b));
  const middle = (times: readonly number[] = []) => times[times.length >> 1] ?? Number.NaN;
  const first = (times: readonly number[] = []) => times[0] ?? Number.NaN;
  return {
    threads,
    fastest: [first(float), first(quantized)],
    median: [middle(float), middle(quantized)],
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , float = '', quantized = '', threads = '1'] = process.argv;
  process.stdout.write(`${JSON.stringify(await work([float, quantized], Number(threads)))}\n`);
}
