/**
 * Calibrates mobilenet-v2 on the 100 calibration pictures with histograms, in a process of its own, and reports the peak
 * resident memory of that process. Run as a program it does the work and prints one line of JSON.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openRuntime, quantizeModel, readModel, writeOnnx } from '../src/node.ts';
import { calibrate } from '../src/pipeline/calibrate.ts';
import { makePlan } from '../src/pipeline/plan.ts';
import { prepare } from '../src/pipeline/prepare.ts';
import { makeRecipe } from '../src/pipeline/recipe.ts';
import { assets, imagenet } from './data.ts';

export interface MemoryUse {
  readonly pictures: number;
  /** Tensors watched by histograms. */
  readonly tensors: number;
  readonly peakMiB: number;
  readonly seconds: number;
}

export type Task = 'calibrate' | 'quantize';

/** MiB; the peer's tool needs 6.5 GB. */
export const memoryGoal = 600;

/** Does the task in a fresh process. */
export function memoryOf(task: Task): MemoryUse {
  const script = fileURLToPath(import.meta.url);
  const result = spawnSync(process.execPath, ['--import', 'tsx', script, task], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`${script} ${task}: expected to end well, got: ${result.stderr}`);
  return JSON.parse(result.stdout) as MemoryUse;
}

async function work(task: Task): Promise<MemoryUse> {
  const model = readModel(join(assets, 'models/mobilenet-v2.onnx'));
  const runtime = await openRuntime();
  const session = await runtime.open(writeOnnx(model));
  const { inputs } = session;
  await session.close();
  const { calibration } = imagenet('-1 to 1', inputs, 1, false);
  const settings = { activations: 'uint8', range: 'percentile' } as const;
  const start = performance.now();
  let tensors: number;
  if (task === 'calibrate') {
    const { model: prepared } = await prepare(model, runtime);
    const { plan } = makePlan(prepared, makeRecipe(settings, true));
    const needs = plan.activations.map(({ tensor }) => ({ tensor, statistic: 'histogram' as const }));
    tensors = (await calibrate(prepared, calibration, needs, runtime, { threads: 2 })).size;
  } else {
    const { report } = await quantizeModel(model, { ...settings, calibration, compare: false, threads: 2 }, runtime);
    tensors = report.plan.activations.length;
  }
  return {
    pictures: calibration.count ?? 0,
    tensors,
    // maxRSS is in KiB on every system (libuv, uv_getrusage).
    peakMiB: process.resourceUsage().maxRSS / 1024,
    seconds: (performance.now() - start) / 1000,
  };
}

const task = process.argv[2];
if (process.argv[1] === fileURLToPath(import.meta.url) && (task === 'calibrate' || task === 'quantize')) {
  process.stdout.write(`${JSON.stringify(await work(task))}\n`);
}
