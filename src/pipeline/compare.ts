/** Runs the float and the quantized model on the same samples and says what was lost and gained. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { createErrorMeter, type ErrorMeter, type ErrorSummary } from '../metrics/error.ts';
import { type Agreement, createAgreementMeter } from '../metrics/top-k.ts';
import type { Feeds, Runtime, Session } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { expectedBytes, slicesOf, valuesByName } from './calibrate.ts';
import { checkInterfaces, checkLabels, classesOf, takesTokens } from './comparable.ts';
import { runnableBytes } from './runnable.ts';
import { subModel } from './sub-model.ts';

export interface LayerError extends ErrorSummary {
  readonly tensor: string;
  /** The operator that makes it in the float model. */
  readonly op: string;
  /** Position in order of execution, from 0. */
  readonly position: number;
}

export interface Latency {
  /** Median milliseconds of one run. */
  readonly float: number;
  readonly quantized: number;
  /** float / quantized: above 1 the quantized model is faster. */
  readonly speedup: number;
  readonly runs: number;
  readonly batch: number;
}

export interface Comparison {
  readonly samples: number;
  readonly data: string;
  /** True when the samples are made up, so that nothing here says how accurate the model is. */
  readonly synthetic: boolean;
  readonly floatBytes: number;
  readonly quantizedBytes: number;
  readonly runtime: string;
  readonly outputs: readonly ({ readonly tensor: string } & ErrorSummary)[];
  readonly agreement?: Agreement;
  readonly latency?: Latency;
  /** Worst first. */
  readonly layers: readonly LayerError[];
  /** What the numbers do not say, such as outputs where the float model itself gave NaN. */
  readonly notes: readonly string[];
  /** Set when the result is of no use. */
  readonly collapsed?: { readonly message: string; readonly layer?: string };
}

export interface CompareOptions {
  readonly labels?: readonly number[];
  /** Samples on which layers are compared; outputs are compared on all. Default 8, 0 turns it off. */
  readonly layerSamples?: number;
  /** Milliseconds of some steady clock; without it nothing is timed. */
  readonly clock?: () => number;
  /** Timed runs of each model. Default 20. */
  readonly runs?: number;
  readonly threads?: number;
  readonly config?: Readonly<Record<string, string>>;
  readonly onProgress?: (done: number, total: number | undefined) => void;
  readonly signal?: AbortSignal;
}

/** Below this an output carries more noise than signal in all but name. */
const collapsedSqnr = 3;
/** And below this share of equal best classes two classifiers are different ones. */
const collapsedAgreement = 0.5;
/** A layer this noisy is where the trouble begins. */
const brokenLayerSqnr = 6;

/** Bytes of a run's exposed layers; more are compared in several passes. */
const layerBudget = 128 * 2 ** 20;

/**
 * Compares two models with the same inputs. Layers are matched by the names of their results.
 * @throws HalftoneError `usage` when inputs or outputs differ or labels are no classes, `unsupported` when a model has
 * 2 GiB of tensors, `runtime` when one does not load or run.
 */
export async function compare(
  float: Model,
  quantized: Model,
  samples: Samples,
  runtime: Runtime,
  options: CompareOptions = {},
): Promise<Comparison> {
  const floatBytes = runnableBytes(float);
  const quantizedBytes = runnableBytes(quantized);
  const session = {
    ...(options.threads ? { threads: options.threads } : {}),
    ...(options.config ? { config: options.config } : {}),
  };
  const a = await runtime.open(floatBytes, session);
  try {
    const b = await runtime.open(quantizedBytes, session);
    try {
      checkInterfaces(a, b);
      const outputs = await compareOutputs(a, b, samples, float, options);
      const latency =
        options.clock && outputs.first
          ? await timeBoth(a, b, outputs.first, options.clock, options.runs ?? 20)
          : undefined;
      const layers = options.layerSamples === 0 ? [] : await compareLayers(float, quantized, samples, runtime, options);
      const collapsed = judge(outputs.errors, outputs.agreement, layers);
      return {
        samples: outputs.count,
        data: samples.description,
        synthetic: samples.synthetic ?? false,
        floatBytes: floatBytes.byteLength,
        quantizedBytes: quantizedBytes.byteLength,
        runtime: `${runtime.id} ${runtime.version}`,
        outputs: outputs.errors,
        ...(outputs.agreement ? { agreement: outputs.agreement } : {}),
        ...(latency ? { latency } : {}),
        layers: [...layers].sort((x, y) => x.sqnr - y.sqnr),
        notes: outputs.errors.flatMap(referenceNote),
        ...(collapsed ? { collapsed } : {}),
      };
    } finally {
      await b.close();
    }
  } finally {
    await a.close();
  }
}

async function compareOutputs(a: Session, b: Session, samples: Samples, float: Model, options: CompareOptions) {
  const meters = new Map<string, ErrorMeter>();
  const agreement = createAgreementMeter();
  const tokens = takesTokens(float);
  let count = 0;
  let rows = 0;
  let first: Feeds | undefined;
  for await (const feeds of samples) {
    options.signal?.throwIfAborted();
    first ??= feeds;
    const x = await a.run(feeds);
    const y = await b.run(feeds);
    for (const { name, dtype } of a.outputs) {
      if (!['float32', 'float16', 'float64'].includes(dtype) || !x[name]?.isFloat || !y[name]?.isFloat) continue;
      if (x[name].size !== y[name].size) {
        throw new HalftoneError(
          'usage',
          `compare: output "${name}": expected results of one shape, got [${x[name].shape.join(',')}] and ` +
            `[${y[name].shape.join(',')}]; compare a model with one that was made from it`,
        );
      }
      const meter = meters.get(name) ?? createErrorMeter();
      meters.set(name, meter);
      meter.add(x[name].floats(), y[name].floats());
    }
    const best = a.outputs[0]?.name ?? '';
    const scores = x[best];
    const classes = classesOf(scores, tokens);
    if (classes !== undefined && y[best].isFloat) {
      const rowCount = scores.size / classes;
      const labels = options.labels?.slice(rows, rows + rowCount);
      if (labels) checkLabels(labels, classes, best);
      agreement.add(scores.floats(), y[best].floats(), classes, labels);
      rows += rowCount;
    }
    count++;
    options.onProgress?.(count, samples.count);
  }
  const errors = [...meters].map(([tensor, meter]) => ({ tensor, ...meter.summary() }));
  return { errors, agreement: agreement.summary(), count, first };
}

/** Runs of one model in a row, behind one that is not timed. */
const streak = 4;

/**
 * Medians of interleaved runs, so that whatever else the machine does falls on both alike. The models take turns of a few
 * runs: ONNX Runtime's threads keep spinning for a while after a run, and would take the other model's first run its time.
 */
async function timeBoth(a: Session, b: Session, feeds: Feeds, clock: () => number, runs: number): Promise<Latency> {
  const times: [number[], number[]] = [[], []];
  while (times[1].length < runs) {
    for (const [index, session] of [a, b].entries()) {
      await session.run(feeds);
      const due = Math.min(streak, runs - times[index].length);
      for (let run = 0; run < due; run++) {
        const start = clock();
        await session.run(feeds);
        times[index].push(clock() - start);
      }
    }
  }
  const median = (list: number[]) => list.sort((x, y) => x - y)[Math.floor(list.length / 2)];
  const [float, quantized] = times.map(median);
  const batch = Object.values(feeds)[0]?.shape[0] ?? 1;
  return { float, quantized, speedup: float / quantized, runs, batch };
}

async function compareLayers(
  float: Model,
  quantized: Model,
  samples: Samples,
  runtime: Runtime,
  options: CompareOptions,
): Promise<LayerError[]> {
  const left = valuesByName(float.graph);
  const right = valuesByName(quantized.graph);
  const inputs = new Set(float.graph.inputs.map((value) => value.name));
  const names = [...left.keys()].filter((name) => right.has(name) && !inputs.has(name));
  const settings = options.threads ? { threads: options.threads } : {};
  const result: LayerError[] = [];
  for (const slice of await slices(float, names, left, runtime, settings)) {
    const values = (from: ReadonlyMap<string, Value>) =>
      slice.map((name) => from.get(name)).filter((value): value is Value => !!value);
    const a = await runtime.open(runnableBytes(subModel(float, values(left))), settings);
    const b = await runtime.open(runnableBytes(subModel(quantized, values(right))), settings);
    const meters = new Map<string, ErrorMeter>();
    try {
      let count = 0;
      for await (const feeds of samples) {
        if (count++ >= (options.layerSamples ?? 8)) break;
        options.signal?.throwIfAborted();
        const x = await a.run(feeds);
        const y = await b.run(feeds);
        for (const name of slice) {
          if (!x[name]?.isFloat || !y[name]?.isFloat || x[name].size !== y[name].size) continue;
          const meter = meters.get(name) ?? createErrorMeter();
          meters.set(name, meter);
          meter.add(x[name].floats(), y[name].floats());
        }
      }
    } finally {
      await a.close();
      await b.close();
    }
    for (const [tensor, meter] of meters) {
      const summary = meter.summary();
      // Nothing differs, or nothing is known.
      if (summary.sqnr === Number.POSITIVE_INFINITY || Number.isNaN(summary.sqnr)) continue;
      result.push({ tensor, op: left.get(tensor)?.producer?.op ?? '', position: names.indexOf(tensor), ...summary });
    }
  }
  return result;
}

async function slices(
  model: Model,
  names: readonly string[],
  values: ReadonlyMap<string, Value>,
  runtime: Runtime,
  settings: { readonly threads?: number },
): Promise<string[][]> {
  if (names.length === 0) return [];
  const outputs = names.map((name) => values.get(name)).filter((value): value is Value => !!value);
  const session = await runtime.open(runnableBytes(subModel(model, outputs)), {
    ...settings,
    optimization: 'disabled',
  });
  const sizes = new Map(session.outputs.map((output) => [output.name, expectedBytes(output, new Map())]));
  await session.close();
  return slicesOf(names, sizes, layerBudget);
}

/** What to say of an output for which the float model is no reference. */
function referenceNote({ tensor, referenceNonFinite, sqnr }: { tensor: string } & ErrorSummary): string[] {
  if (referenceNonFinite === 0) return [];
  const what = Number.isNaN(sqnr)
    ? 'only NaN or infinite values, so nothing is known about its accuracy'
    : `${referenceNonFinite} NaN or infinite values, which were left out of the comparison`;
  return [`The float model itself gave ${what}, in output "${tensor}" on this data.`];
}

/** Says so when the result is useless, and where the trouble begins. */
function judge(
  outputs: readonly ({ tensor: string } & ErrorSummary)[],
  agreement: Agreement | undefined,
  layers: readonly LayerError[],
): Comparison['collapsed'] {
  const worst = outputs.filter(({ sqnr }) => !Number.isNaN(sqnr)).sort((x, y) => x.sqnr - y.sqnr)[0];
  const bySqnr = worst !== undefined && worst.sqnr < collapsedSqnr;
  const byAgreement = agreement !== undefined && agreement.top1 < collapsedAgreement;
  if (!bySqnr && !byAgreement) return undefined;
  const inOrder = [...layers].sort((x, y) => x.position - y.position);
  const culprit =
    inOrder.find((layer) => layer.sqnr < brokenLayerSqnr) ?? [...layers].sort((x, y) => x.sqnr - y.sqnr)[0];
  const facts = [
    worst ? `output "${worst.tensor}" has ${worst.sqnr.toFixed(1)} dB` : '',
    agreement ? `${(agreement.top1 * 100).toFixed(1)} % of the best classes agree` : '',
  ].filter(Boolean);
  const where = culprit ? `; it begins at ${culprit.op} "${culprit.tensor}" (${culprit.sqnr.toFixed(1)} dB)` : '';
  return {
    message: `The quantized model has collapsed: ${facts.join(', ')}${where}.`,
    ...(culprit ? { layer: culprit.tensor } : {}),
  };
}
