/** The whole way from a float model to a quantized one with its report: seven steps, each a plain value. */
import { HalftoneError } from '../base/errors.ts';
import { serializedBytes } from '../files/onnx/write.ts';
import { parseScheme } from '../formats/scheme.ts';
import { inferDtypes } from '../graph/dtypes.ts';
import type { Model } from '../graph/model.ts';
import { quantizeBiases } from '../lowerings/qdq.ts';
import { isFinalProduct, lowerQoperator } from '../lowerings/qoperator.ts';
import { SharedConstants } from '../lowerings/weight.ts';
import { createErrorMeter } from '../metrics/error.ts';
import { rangeOf } from '../ranges/index.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { watchFinite } from '../samples/finite.ts';
import type { Samples } from '../samples/sample.ts';
import { isHeldOut, remember, split, take } from '../samples/select.ts';
import { lowerModel, tidy } from './apply.ts';
import { batchesFor } from './batching.ts';
import { calibrate, type Need, type Statistics } from './calibrate.ts';
import { checkLabels } from './comparable.ts';
import { type CompareOptions, compare } from './compare.ts';
import { createCompensator } from './compensation.ts';
import {
  type CorrectionOptions,
  type Corrections,
  correctionNeeds,
  correctionTargets,
  findCorrections,
  setBias,
  withGain,
} from './correction.ts';
import { type Executor, inlineExecutor } from './executor.ts';
import { convertToFloat16 } from './float16.ts';
import { makePlan, type Plan, type Planning } from './plan.ts';
import { cloneModel, prepare } from './prepare.ts';
import { refuseQuantized } from './quantized-operators.ts';
import { hasStaticActivations, makeRecipe, type Recipe, type RecipeInput, recipeKeys } from './recipe.ts';
import type { Report, WeightResult } from './report.ts';
import { refuseTooLargeToRun, runnableBytes } from './runnable.ts';
import { type Matrices, simulate } from './simulate.ts';
import { type SolveWeightsOptions, solveWeights } from './solve.ts';
import { storageOf } from './storage.ts';
import { memoryStore, type Store } from './store.ts';

/** The steps that progress events name. */
export type Step = 'prepare' | 'calibrate' | 'quantize' | 'correct' | 'compare';

export interface ProgressEvent {
  readonly step: Step;
  readonly done: number;
  readonly total: number | undefined;
  readonly detail?: string;
  /** Bytes of float weights that have been read, where that is what takes the time. */
  readonly bytes?: number;
  readonly totalBytes?: number;
}

export interface QuantizeOptions extends RecipeInput {
  /** Samples of real use. Needed for static activations; with any weights they correct biases and measure the result. */
  readonly calibration?: Samples;
  /** At most this many samples are read. Default 128. */
  readonly samples?: number;
  /** Quantize what is still float in a model that already holds quantized operators. Default false. */
  readonly allowQuantized?: boolean;
  /** Compare the result with the float model on held-out samples. Default true when there are samples. */
  readonly compare?: boolean;
  /** Right classes of the samples, in their order. */
  readonly labels?: readonly number[];
  /** Milliseconds of a steady clock, to time both models. */
  readonly clock?: () => number;
  readonly threads?: number;
  /** Where weights are quantized. Default: here, one after the other. The result does not depend on it. */
  readonly executor?: Executor;
  /** Makes the place where finished weights wait until the model is written. Default: in memory. */
  readonly openStore?: (plan: Plan) => Store;
  /** Bounds of memory for weights, see `SolveWeightsOptions`. */
  readonly memory?: Pick<SolveWeightsOptions, 'partBytes' | 'wholeBytes'>;
  readonly onProgress?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

export interface Quantized {
  readonly model: Model;
  readonly report: Report;
}

/** Every n-th sample is held out for the comparison: enough to judge by, and no more than calibration can spare. */
const holdOutEvery = (count: number) => (count < 64 ? 4 : 8);
/** With fewer samples than this all of them calibrate and compare, which the report says. */
const minSamplesToSplit = 8;
const defaultSamples = 128;
/** Batches that corrections are measured on: more change them little, and every layer takes a run over all of them. */
const correctionBatches = 64;
/** Decoded samples are kept up to this size; more are read again in each of the passes over them. */
const rememberedBytes = 64 * 2 ** 20;
/** Samples run together where the model's batch axis is free. */
const batchSize = 4;

/**
 * The plan for `model` without carrying it out: what each tensor would become and how large the result would be.
 * @throws HalftoneError `usage` for contradictory settings, `unsupported` for a quantized model.
 */
export async function planQuantization(model: Model, options: QuantizeOptions, runtime: Runtime): Promise<Plan> {
  if (!options.allowQuantized) refuseQuantized(model);
  const recipe = recipeOf(options);
  const { model: prepared } = await prepare(model, runtime);
  return makePlan(prepared, recipe).plan;
}

function recipeOf(options: QuantizeOptions): Recipe {
  const input: Record<string, unknown> = {};
  for (const key of recipeKeys) if (options[key] !== undefined) input[key] = options[key];
  const recipe = makeRecipe(input, options.calibration !== undefined);
  if (hasStaticActivations(recipe) && !options.calibration) {
    throw new HalftoneError(
      'missing-data',
      `activations ${recipe.activations}: expected samples to find their ranges, got none; give some with --calibrate DATA, ` +
        'or use --activations dynamic, or --calibrate random to check shapes only',
    );
  }
  if (recipe.solver === 'gptq') refuseUncompensated(recipe, options.calibration);
  return recipe;
}

/** @throws HalftoneError `usage` or `missing-data` where codes cannot make up for each other. */
function refuseUncompensated(recipe: Recipe, calibration: Samples | undefined): void {
  if (!calibration || calibration.synthetic) {
    throw new HalftoneError(
      'missing-data',
      'solver gptq: expected samples of real use, got none; give some with --calibrate DATA, or use --solver nearest',
    );
  }
  const refuse = (expected: string, got: string) => {
    throw new HalftoneError('usage', `solver gptq: expected ${expected}, got ${got}; or use --solver nearest`);
  };
  if (recipe.activations !== 'none') refuse('--activations none', recipe.activations);
  if (!recipe.biasCorrection) refuse('bias correction, which it leaves the means to', 'none');
}

/**
 * Quantizes a model. `model` itself is not changed.
 * @throws HalftoneError `usage`, `missing-data`, `unsupported` or `runtime`; the signal's reason when aborted.
 */
export async function quantizeModel(model: Model, options: QuantizeOptions, runtime: Runtime): Promise<Quantized> {
  if (!options.allowQuantized) refuseQuantized(model);
  const recipe = recipeOf(options);
  if (options.calibration) refuseTooLargeToRun(model);
  const progress = (step: Step) => (done: number, total: number | undefined, detail?: string) =>
    options.onProgress?.({ step, done, total, ...(detail ? { detail } : {}) });
  const shared = {
    ...(options.signal ? { signal: options.signal } : {}),
    ...(options.threads ? { threads: options.threads } : {}),
  };

  progress('prepare')(0, undefined);
  const first = await prepare(model, runtime);
  const { opset } = makePlan(first.model, recipe).plan;
  const prepared = opset > first.model.opset ? await prepare(first.model, runtime, opset) : first;

  checkLabelsEarly(model, options.labels);
  const watched = options.calibration && watchFinite(options.calibration);
  const parts = watched ? await partsOf(watched.samples, options.samples ?? defaultSamples, model, runtime) : undefined;
  const draft = makePlan(prepared.model, recipe);
  const targets = parts && recipe.biasCorrection && !parts.samples.synthetic ? correctionTargets(draft) : [];
  let statistics: Statistics | undefined;
  if (parts && (draft.plan.activations.length > 0 || targets.length > 0 || recipe.activations === 'float16')) {
    const needs = [...activationNeeds(draft, recipe), ...correctionNeeds(targets, correctionBatches)];
    statistics = await calibrate(prepared.model, parts.calibration, needs, runtime, {
      ...shared,
      onProgress: progress('calibrate'),
    });
  }

  // A planning refers to the objects of its model, and lowering edits them: every use gets its own copy.
  const planned = () => makePlan(cloneModel(prepared.model), recipe, statistics);
  const planning = planned();
  const store = options.openStore?.(planning.plan) ?? memoryStore();
  const executor = options.executor ?? inlineExecutor();
  const { matrices, results } = await solveWeights(planning, {
    executor,
    store,
    ...options.memory,
    ...(options.signal ? { signal: options.signal } : {}),
    onProgress: (done, total, detail, bytes, totalBytes) =>
      options.onProgress?.({ step: 'quantize', done, total, detail, bytes, totalBytes }),
  });
  await executor.rest?.();
  const notes = [...planning.plan.notes, ...interfaceNotes(model)];

  let corrections: Corrections = new Map();
  let solved: Matrices = matrices;
  let compensation: Report['compensation'];
  let biasCorrection: Report['biasCorrection'];
  if (parts && statistics && targets.length > 0) {
    const plain = simulate(planned(), matrices);
    const noiseOf = (quantized: Model) =>
      outputNoise(prepared.model, quantized, parts.heldOut, runtime, options.threads);
    const before = await noiseOf(plain.model);
    const samples = take(parts.calibration, correctionBatches);
    const correctAll = async (start: Matrices, step: CorrectionOptions = {}) => {
      const copy = planned();
      const own = correctionTargets(copy);
      const simulation = simulate(copy, start);
      const found = await findCorrections(simulation, own, statistics, samples, runtime, {
        ...shared,
        onProgress: progress('correct'),
        ...step,
      });
      return { found, own, noise: await noiseOf(simulation.model) };
    };
    let { found, own, noise: after } = await correctAll(matrices);
    if (recipe.solver === 'gptq' && planning.parameters.size === 0) {
      const reference = planned();
      const compensator = createCompensator({
        float: reference.model,
        floatTargets: correctionTargets(reference),
        schemes: new Map(results.flatMap(({ tensor, scheme }) => (scheme ? [[tensor, scheme] as const] : []))),
        samples,
        runtime,
        ...shared,
      });
      try {
        const compensated = await correctAll(matrices, {
          before: (simulation, group) => compensator.run(simulation, group),
        });
        const kept = compensated.noise < Math.min(after, before);
        compensation = {
          layers: compensator.matrices.size,
          kept,
          left: [...compensator.fallbacks].map(([tensor, because]) => ({ tensor, because })),
          gain: Math.min(after, before) - compensated.noise,
        };
        if (kept) {
          ({ found, own, noise: after } = compensated);
          solved = new Map([...matrices, ...compensator.matrices]);
        }
      } finally {
        await compensator.close();
      }
    }
    const kept = after <= before;
    if (kept) corrections = found;
    else if (Number.isNaN(before) || Number.isNaN(after))
      notes.push('Bias correction was taken back: the float model gave nothing finite to measure it by.');
    else notes.push('Bias correction was taken back: on held-out samples the outputs were closer without it.');
    const left = own.filter((target) => !target.bias).map((target) => target.tensor);
    biasCorrection = { layers: found.size - left.length, kept, left };
  }

  for (const target of correctionTargets(planning)) {
    const bias = corrections.get(target.tensor)?.bias;
    if (bias) setBias(target, bias);
  }
  const result = planning.model;
  const lowered = lowerModel(planning, corrected(solved, planning, corrections), store);
  for (const { tensor, instead } of lowered) {
    if (instead) notes.push(`Weight "${tensor}" is written as ${instead.lowering}, ${instead.because}.`);
  }
  if (planning.parameters.size > 0) {
    const cut = quantizeBiases(result);
    for (const name of cut) notes.push(`Bias "${name}" is cut to what int32 holds in steps of its weights' scales.`);
    const eightBits = recipe.activations === 'uint8' || recipe.activations === 'int8';
    const chosen = recipe.lowering === 'qoperator' ? undefined : isFinalProduct;
    const float = eightBits ? lowerQoperator(result, new SharedConstants(result), chosen) : [];
    for (const label of float) notes.push(`${label} has no integer operator and runs in float.`);
  }
  if (recipe.activations === 'float16') {
    const weights = planning.weights.filter(({ value }) => !matrices.has(value.name));
    notes.push(...convertToFloat16(result, { statistics, recipe, weights }));
  }
  tidy(result);
  for (const graph of result.graphs()) graph.sort();

  const wantsComparison = options.compare ?? true;
  const comparison =
    parts && wantsComparison
      ? await compare(model, result, parts.heldOut, runtime, {
          ...shared,
          ...(options.clock ? { clock: options.clock } : {}),
          ...(options.labels ? { labels: parts.labels(options.labels) } : {}),
          onProgress: progress('compare'),
        } satisfies CompareOptions)
      : undefined;
  if (parts && !parts.separate && wantsComparison) {
    notes.push('There were too few samples to hold some out: the comparison uses the calibration samples themselves.');
  }
  for (const [input, count] of watched?.nonFinite() ?? []) {
    notes.push(
      `Input "${input}" holds NaN or infinite values in ${count} of the samples: ranges, corrections and the comparison leave them out, and are only as good as the rest.`,
    );
  }
  const floatBytes = comparison?.floatBytes ?? serializedBytes(model);
  const quantizedBytes = comparison?.quantizedBytes ?? serializedBytes(result);
  const report: Report = {
    version: 1,
    plan: planning.plan,
    weights: merged(results, lowered).map((result) => withStorage(result, planning)),
    passes: [...new Set([...first.changed, ...prepared.changed])],
    floatBytes,
    quantizedBytes,
    ...(parts
      ? {
          calibration: {
            data: parts.samples.description,
            samples: parts.count,
            synthetic: parts.samples.synthetic ?? false,
          },
        }
      : {}),
    ...(compensation ? { compensation } : {}),
    ...(biasCorrection ? { biasCorrection } : {}),
    ...(comparison ? { comparison } : {}),
    notes,
  };
  return { model: result, report };
}

/** Before IR version 4 every initializer is listed as an input; from then on a listed one may be fed by the caller. */
function interfaceNotes(model: Model): string[] {
  const defaults = model.irVersion < 4 ? [] : model.graph.inputs.filter((input) => input.tensor);
  return defaults.map(({ name }) => `Input "${name}" had a default and is a constant now.`);
}

/** The matrices with the factors that corrections put on their scales. */
function corrected(matrices: Matrices, planning: Planning, corrections: Corrections): Matrices {
  const result = new Map(matrices);
  for (const target of correctionTargets(planning)) {
    const { name } = target.weight.value;
    const matrix = matrices.get(name);
    const gain = corrections.get(target.tensor)?.gain;
    if (matrix && gain) result.set(name, withGain(matrix, gain));
  }
  return result;
}

/** One result for each weight: what lowering has to say joins what solving found. */
function merged(solved: readonly WeightResult[], lowered: readonly WeightResult[]): WeightResult[] {
  const results = new Map(solved.map((result) => [result.tensor, result]));
  for (const result of lowered) results.set(result.tensor, { ...results.get(result.tensor), ...result });
  return [...results.values()];
}

/** The result with what the weight takes in the file and in memory. */
function withStorage(result: WeightResult, planning: Planning): WeightResult {
  const weight = planning.weights.find(({ value }) => value.name === result.tensor);
  const quantize = planning.plan.weights.find(({ tensor }) => tensor === result.tensor)?.quantize;
  if (!weight || !quantize || !result.scheme || result.left) return result;
  const storage = storageOf(weight, parseScheme(result.scheme), result.instead?.lowering ?? quantize.lowering);
  return { ...result, ...storage, bitsPerWeight: (storage.bytes * 8) / weight.tensor.size };
}

/** Labels are checked before the long work where the model itself says how many classes there are. */
function checkLabelsEarly(model: Model, labels: readonly number[] | undefined): void {
  const output = model.graph.outputs[0];
  const shape = output?.type?.shape;
  const classes = shape?.at(-1);
  if (labels && shape?.length === 2 && typeof classes === 'number' && classes > 1) {
    checkLabels(labels, classes, output.name);
  }
}

function activationNeeds(draft: Planning, recipe: Recipe): Need[] {
  if (recipe.activations === 'float16') {
    return floatTensors(draft).map((tensor) => ({ tensor, statistic: 'min-max' as const }));
  }
  const statistic = rangeOf(recipe.range).needs;
  return draft.plan.activations.map(({ tensor }) => ({ tensor, statistic }));
}

/** Every float value of the main graph, its inputs included: a float16 model must not overflow in any of them. */
function floatTensors({ model }: Planning): string[] {
  const types = inferDtypes(model);
  const made = model.graph.nodes.flatMap((node) => node.outputs);
  return [...model.graph.inputs, ...made].flatMap((value) => {
    const type = value && types.get(value);
    return value && type?.dtype === 'float32' && !type.sequence ? [value.name] : [];
  });
}

interface SampleParts {
  readonly samples: Samples;
  readonly calibration: Samples;
  readonly heldOut: Samples;
  readonly separate: boolean;
  readonly count: number;
  /** Labels of the held-out samples. */
  labels(all: readonly number[]): readonly number[];
}

/** Splits the samples, and joins those that calibrate to batches where the model takes them. */
async function partsOf(samples: Samples, limit: number, model: Model, runtime: Runtime): Promise<SampleParts> {
  const limited = remember(take(samples, limit), rememberedBytes);
  let count = limited.count;
  if (count === undefined) {
    count = 0;
    for await (const _ of limited) count++;
  }
  if (count === 0) {
    throw new HalftoneError('missing-data', `${samples.description}: expected samples, got none`);
  }
  const batched = (part: Samples) => batchesFor(model, part, batchSize, runtime);
  if (count < minSamplesToSplit) {
    return {
      samples,
      calibration: await batched(limited),
      heldOut: limited,
      separate: false,
      count,
      labels: (all) => all.slice(0, count),
    };
  }
  const every = holdOutEvery(count);
  const { calibration, heldOut } = split(limited, { every });
  return {
    samples,
    calibration: await batched(calibration),
    heldOut,
    separate: true,
    count,
    labels: (all) => all.slice(0, count).filter((_, index) => isHeldOut(index, every)),
  };
}

/** Noise of all outputs relative to their signal, on a few samples. */
async function outputNoise(
  float: Model,
  quantized: Model,
  samples: Samples,
  runtime: Runtime,
  threads: number | undefined,
): Promise<number> {
  const settings = threads ? { threads } : {};
  const a = await runtime.open(runnableBytes(float), settings);
  const b = await runtime.open(runnableBytes(quantized), settings);
  const meter = createErrorMeter();
  try {
    let count = 0;
    for await (const feeds of samples) {
      if (count++ >= 32) break;
      const x = await a.run(feeds);
      const y = await b.run(feeds);
      for (const name of Object.keys(x)) if (x[name].isFloat && y[name]) meter.add(x[name].floats(), y[name].floats());
    }
  } finally {
    await a.close();
    await b.close();
  }
  return -meter.summary().sqnr;
}
