/** The whole way from a float model to a quantized one with its report: seven steps, each a plain value. */
import { HalftoneError } from '../base/errors.ts';
import { batchNormStatistics } from '../equalization/batch-norm-statistics.ts';
import { serializedBytes } from '../files/onnx/write.ts';
import { parseScheme } from '../formats/scheme.ts';
import { inferDtypes } from '../graph/dtypes.ts';
import type { Model } from '../graph/model.ts';
import { quantizeBiases } from '../lowerings/qdq.ts';
import { isFinalProduct, lowerQoperator } from '../lowerings/qoperator.ts';
import { SharedConstants } from '../lowerings/weight.ts';
import { rangeOf } from '../ranges/index.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { watchFinite } from '../samples/finite.ts';
import type { Samples } from '../samples/sample.ts';
import { take } from '../samples/select.ts';
import { correctFromStatistics } from './analytic.ts';
import { lowerModel, tidy } from './apply.ts';
import { calibrate, type Need, type Statistics } from './calibrate.ts';
import { applyCorrections, type Candidate, currentResults, planOf } from './candidate.ts';
import { checkLabels } from './comparable.ts';
import { type CompareOptions, compare } from './compare.ts';
import { correctionNeeds, correctionTargets, normalizationTargets } from './correction-targets.ts';
import { type Executor, inlineExecutor } from './executor.ts';
import { convertToFloat16 } from './float16.ts';
import { improve } from './improve.ts';
import { createJudge } from './judge.ts';
import { makePlan, type Plan, type Planning } from './plan.ts';
import { prepare } from './prepare.ts';
import { presets, type SolverSetting } from './presets.ts';
import { refuseQuantized } from './quantized-operators.ts';
import { hasStaticActivations, makeRecipe, type Recipe, type RecipeInput, recipeKeys } from './recipe.ts';
import { gradientOpset } from './reconstruction-graph.ts';
import type { Report, StageResult, WeightResult } from './report.ts';
import { refuseTooLargeToRun } from './runnable.ts';
import { partsOf } from './sample-parts.ts';
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
  /** At most this many samples are read. Default: as the preset says. */
  readonly samples?: number;
  /** Calibrate on mirror images, too: for pictures that look as likely with left and right exchanged. Default false. */
  readonly mirror?: boolean;
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

/** Batches that corrections and solvers are fitted to: every layer takes a run over all of them, or two. */
const fittedBatches: Readonly<Record<SolverSetting, number>> = { nearest: 64, gptq: 64, reconstruction: 192 };

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
  refuseUnsupported(recipe, options.calibration);
  return recipe;
}

/** @throws HalftoneError `usage` or `missing-data` where codes cannot make up for each other. */
function refuseUnsupported({ solver, preset, corrections }: Recipe, calibration: Samples | undefined): void {
  if (solver === 'nearest') return;
  const subject = presets[preset].solver === solver ? `preset ${preset}` : `solver ${solver}`;
  const instead = subject.startsWith('preset') ? '--preset fast' : '--solver nearest';
  if (!calibration || calibration.synthetic) {
    throw new HalftoneError(
      'missing-data',
      `${subject}: expected samples of real use, got none; give some with --calibrate DATA, or use ${instead}`,
    );
  }
  if (corrections.includes('bias')) return;
  const got = corrections.length === 0 ? 'none' : corrections.join(', ');
  throw new HalftoneError(
    'usage',
    `solver ${solver}: expected the correction bias, which it leaves the means to, got ${got}; add it, or use --solver nearest`,
  );
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
  const exported = await prepare(model, runtime);
  const planned = makePlan(exported.model, recipe).plan.opset;
  const opset = recipe.solver === 'reconstruction' ? Math.max(planned, gradientOpset) : planned;
  const prepared = opset > exported.model.opset ? await prepare(exported.model, runtime, opset) : exported;

  checkLabelsEarly(model, options.labels);
  const watched = options.calibration && watchFinite(options.calibration);
  const parts = watched
    ? await partsOf(
        watched.samples,
        { limit: options.samples ?? presets[recipe.preset].samples, mirror: options.mirror === true },
        model,
        runtime,
      )
    : undefined;
  const executor = options.executor ?? inlineExecutor();
  const measured = parts && !parts.samples.synthetic ? fittedBatches[recipe.solver] : 0;
  /** What calibration collects of a float model. */
  const statisticsOf = async (float: Model): Promise<Statistics | undefined> => {
    if (!parts) return undefined;
    const draft = makePlan(float, recipe);
    const targets = measured > 0 ? [...correctionTargets(draft), ...normalizationTargets(float)] : [];
    const needs = [...activationNeeds(draft, recipe), ...correctionNeeds(targets, measured)];
    if (needs.length === 0) return undefined;
    return calibrate(float, parts.calibration, needs, runtime, { ...shared, onProgress: progress('calibrate') });
  };
  /** A model with its first codes, which wait in `store`. */
  const begin = async (float: Model, openStore: (plan: Plan) => Store) => {
    const empty: Candidate = {
      ...{ float, matrices: new Map(), results: [], biases: new Map(), normalizations: new Map() },
      ...{ statistics: await statisticsOf(float), intervals: new Map() },
    };
    const planning = planOf(empty, recipe);
    const store = openStore(planning.plan);
    const solved = await solveWeights(planning, {
      ...{ executor, store },
      ...options.memory,
      ...(options.signal ? { signal: options.signal } : {}),
      onProgress: (done, total, detail, bytes, totalBytes) =>
        options.onProgress?.({ step: 'quantize', done, total, detail, bytes, totalBytes }),
    });
    return { candidate: { ...empty, ...solved } satisfies Candidate, planning, store };
  };
  const first = await begin(prepared.model, options.openStore ?? (() => memoryStore()));
  let { candidate, planning } = first;
  await executor.rest?.();

  let stages: readonly StageResult[] | undefined;
  if (
    parts &&
    measured > 0 &&
    candidate.matrices.size > 0 &&
    (recipe.corrections.length > 0 || recipe.solver !== 'nearest')
  ) {
    ({ candidate, stages } = await improve(candidate, {
      ...{ recipe, runtime },
      ...shared,
      ...(options.clock ? { clock: options.clock } : {}),
      samples: take(parts.calibration, measured),
      singles: parts.singles,
      float: prepared.model,
      heldOut: parts.heldOut,
      judge: createJudge(prepared.model, parts.heldOut, runtime, shared),
      begin: async (float) => (await begin(float, () => memoryStore())).candidate,
      onProgress: (stage, done, total) => options.onProgress?.({ step: 'correct', done, total, detail: stage }),
    }));
    if (candidate !== first.candidate) planning = planOf(candidate, recipe);
  } else if (recipe.corrections.includes('bias')) {
    candidate = correctFromStatistics(candidate, batchNormStatistics(model), recipe);
  }
  const notes = [...planning.plan.notes, ...interfaceNotes(model), ...stageNotes(stages ?? [])];
  if (!stages && candidate.biases.size > 0) {
    notes.push(
      `Biases of ${candidate.biases.size} layers were corrected by the statistics of BatchNormalization; samples would tell more.`,
    );
  }
  const { matrices, statistics } = candidate;
  const results = stages ? currentResults(candidate, planning) : candidate.results;
  applyCorrections(candidate, planning);
  const result = planning.model;
  const lowered = lowerModel(planning, matrices, first.store);
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
    passes: [...new Set([...exported.changed, ...prepared.changed])],
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
    ...(stages ? { stages } : {}),
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

/** What was tried in vain. */
function stageNotes(stages: readonly StageResult[]): string[] {
  return stages.flatMap(({ stage, kept, sqnr, gain, leastGain, changed }) => {
    if (kept || changed === 0) return [];
    if (Number.isNaN(sqnr)) return [`${stage} was taken back: the float model gave nothing finite to measure it by.`];
    if (gain > 0 && leastGain !== undefined)
      return [`${stage} was taken back: less than ${leastGain} dB does not pay for the operators that it adds.`];
    return [`${stage} was taken back: on held-out samples the outputs were closer without it.`];
  });
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
