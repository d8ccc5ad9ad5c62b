/** Quantizes a model as one row of the table asks and measures the result against the float model. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Comparison,
  compareModels,
  type Model,
  type Quantized,
  quantizeModel,
  type Runtime,
  readOnnx,
  writeOnnx,
} from '../src/index.ts';
import type { Data, Score } from './data.ts';
import { speedupOf, type Timing, timingsOf } from './latency.ts';
import type { BenchModel, Goals, Row } from './rows.ts';

export interface Check {
  /** Which figure, its value and its limit, as in `drop 0.13 ≤ 0.20 points`. */
  readonly text: string;
  readonly reached: boolean;
}

export interface Measured {
  readonly model: string;
  readonly row: Row;
  readonly data: string;
  readonly comparison: Comparison;
  /** The lowest of the outputs' SQNR. */
  readonly sqnr: number;
  readonly score?: { readonly name: Score['name']; readonly float?: number; readonly quantized: number };
  /** Nodes that convolve floats in the graph that the runtime executes; only of static models. */
  readonly floatConvolutions?: number;
  /** Of rows with a goal for speed. */
  readonly timings?: readonly Timing[];
  readonly seconds: number;
  readonly checks: readonly Check[];
}

const threads = 2;

export interface MeasureOptions {
  readonly quick: boolean;
  /** Leave out what is measured of each layer. */
  readonly outputsOnly?: boolean;
  /** Settings that replace those of the row. */
  readonly settings?: Readonly<Record<string, unknown>>;
}

export async function measure(
  model: BenchModel,
  row: Row,
  float: Model,
  data: Data,
  runtime: Runtime,
  options: MeasureOptions,
): Promise<Measured & { quantized: Quantized }> {
  const start = performance.now();
  const quantized = await quantizeModel(
    float,
    {
      ...row.options,
      ...options.settings,
      calibration: data.calibration,
      ...(data.calibration.count === undefined ? {} : { samples: data.calibration.count }),
      compare: false,
      clock: () => performance.now(),
      threads,
    },
    runtime,
  );
  const seconds = (performance.now() - start) / 1000;
  const comparison = await compareModels(float, quantized.model, data.evaluation, runtime, {
    ...(data.labels ? { labels: data.labels } : {}),
    clock: () => performance.now(),
    runs: options.quick ? 20 : 60,
    ...(options.outputsOnly ? { layerSamples: 0 } : {}),
    threads,
  });
  const sqnr = Math.min(...comparison.outputs.map((output) => output.sqnr));
  const score = data.score ? await scoreOf(data.score, float, quantized.model, runtime) : undefined;
  const isStatic = quantized.report.plan.activations.length > 0;
  const floatConvolutions = isStatic ? await countFloatConvolutions(quantized.model, runtime) : undefined;
  const timings = row.goals.speedup === undefined ? undefined : timingsOf(writeOnnx(float), writeOnnx(quantized.model));
  const measured = {
    model: model.name,
    row,
    data: data.says,
    comparison,
    sqnr,
    ...(score ? { score } : {}),
    ...(floatConvolutions === undefined ? {} : { floatConvolutions }),
    ...(timings ? { timings } : {}),
    seconds,
  };
  return { ...measured, checks: check(measured, row.goals), quantized };
}

async function scoreOf(score: Score, float: Model, quantized: Model, runtime: Runtime) {
  const a = await runtime.open(writeOnnx(float), { threads });
  const b = await runtime.open(writeOnnx(quantized), { threads });
  try {
    return { name: score.name, ...(await score.measure(a, b)) };
  } finally {
    await a.close();
    await b.close();
  }
}

/** Counts in the graph that ONNX Runtime has optimized for this machine and wrote to disk. */
async function countFloatConvolutions(model: Model, runtime: Runtime): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-bench-'));
  try {
    const path = join(folder, 'optimized.onnx');
    const session = await runtime.open(writeOnnx(model), { optimizedModelPath: path });
    await session.close();
    return [...readOnnx(readFileSync(path)).nodes()].filter((node) => /^(Fused)?Conv$/.test(node.op)).length;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Points of accuracy lost; negative where the quantized model is right more often. */
export function dropOf({ comparison }: Pick<Measured, 'comparison'>): number | undefined {
  const { floatAccuracy, quantizedAccuracy } = comparison.agreement ?? {};
  if (floatAccuracy === undefined || quantizedAccuracy === undefined) return undefined;
  return 100 * (floatAccuracy - quantizedAccuracy);
}

/** Relative change of nats per character, in per cent. */
export function natsOf({ score }: Pick<Measured, 'score'>): number | undefined {
  return score?.name === 'nats/char' && score.float !== undefined
    ? 100 * (score.quantized / score.float - 1)
    : undefined;
}

/** Every goal of the row against what was measured. A figure that was not measured is a goal not reached. */
function check(measured: Omit<Measured, 'checks'>, goals: Goals): Check[] {
  const { comparison, sqnr, floatConvolutions, timings } = measured;
  const checks: Check[] = [];
  const add = (
    name: string,
    value: number | undefined,
    sign: '≤' | '≥',
    limit: number,
    unit: string,
    digits: number,
  ) => {
    // The arithmetic of the figures, not their meaning, may differ in the last places.
    const slack = 1e-9;
    const reached = value !== undefined && (sign === '≤' ? value <= limit + slack : value >= limit - slack);
    const shown = value === undefined ? 'not measured' : value.toFixed(digits);
    checks.push({ text: `${name} ${shown} (${sign} ${limit.toFixed(digits)}${unit})`, reached });
  };
  if (goals.drop !== undefined) add('drop', dropOf(measured), '≤', goals.drop, ' points', 2);
  if (goals.nats !== undefined) add('nats', natsOf(measured), '≤', goals.nats, ' %', 3);
  if (goals.sqnr !== undefined) add('SQNR', sqnr, '≥', goals.sqnr, ' dB', 1);
  if (goals.bytes !== undefined) add('size', comparison.quantizedBytes / 1e6, '≤', goals.bytes / 1e6, ' MB', 3);
  const timing = timings?.find((item) => item.threads === threads);
  if (goals.speedup !== undefined) add('speed', timing && speedupOf(timing), '≥', goals.speedup, '×', 2);
  if (floatConvolutions !== undefined) add('float convolutions', floatConvolutions, '≤', 0, '', 0);
  if (goals.collapsed) {
    checks.push({
      text: comparison.collapsed ? 'recognised as collapsed' : 'collapse not recognised',
      reached: comparison.collapsed !== undefined,
    });
  }
  return checks;
}
