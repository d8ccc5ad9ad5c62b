/**
 * Makes the quantized model better, stage after stage. A stage proposes a candidate, held-out samples judge it, and it is
 * kept only where its outputs are closer to the float model's.
 */
import { formatOf } from '../formats/index.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { correctBiases } from './bias-stage.ts';
import { type Candidate, momentsOf, planOf, type Trial, tryCandidate } from './candidate.ts';
import { createCompensator } from './compensation.ts';
import { correctLayers } from './correction.ts';
import {
  correctionTargets,
  embeddingTargets,
  type LayerTarget,
  normalizationTargets,
  recurrentTargets,
} from './correction-targets.ts';
import { equalizeLayers, readPixels, smoothActivations, weighChannels } from './equalizing-stages.ts';
import { createJudge, type Judge } from './judge.ts';
import type { CorrectionId } from './presets.ts';
import { hasStaticActivations, type Recipe } from './recipe.ts';
import { reconstruct } from './reconstruction.ts';
import { refineRanges } from './refine-ranges.ts';
import type { StageResult } from './report.ts';
import { orWhyNot } from './why-not.ts';

export interface Workshop {
  readonly recipe: Recipe;
  /** What everything is measured against. */
  readonly float: Model;
  /** Samples that corrections and solvers are fitted to. */
  readonly samples: Samples;
  /** The same one at a time. */
  readonly singles: Samples;
  /** Those that judge, and tell a block of the reconstruction when to stop. */
  readonly heldOut: Samples;
  readonly judge: Judge;
  readonly runtime: Runtime;
  /** Calibrates a model anew, and chooses its codes: for models that were changed before they are quantized. */
  readonly begin: (float: Model) => Promise<Candidate>;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** Milliseconds of a steady clock. */
  readonly clock?: () => number;
  readonly onProgress?: (stage: StageId, done: number, total: number) => void;
}

export type StageId = StageResult['stage'];

/** What a stage proposes; no trial where there is nothing to do. */
export interface Proposal {
  readonly trial?: Trial;
  /** Layers, groups, blocks or tensors that it changed. */
  readonly changed: number;
  readonly left?: StageResult['left'];
  /** Decibels that it must gain to be kept: what it costs when the model runs must pay. Default 0. */
  readonly leastGain?: number;
}

export type Stage = (
  best: Candidate,
  workshop: Workshop,
  progress: (done: number, total: number) => void,
) => Promise<Proposal>;

/** @returns the best candidate, and what each stage brought. */
export async function improve(
  start: Candidate,
  workshop: Workshop,
): Promise<{ readonly candidate: Candidate; readonly stages: readonly StageResult[] }> {
  const { recipe, judge, clock, signal } = workshop;
  let candidate = start;
  let { sqnr } = await judge(tryCandidate(start, recipe).simulation.model);
  const results: StageResult[] = [
    { stage: 'nearest', kept: true, sqnr, gain: 0, changed: start.matrices.size, left: [] },
  ];
  for (const [stage, run] of stagesOf(recipe)) {
    signal?.throwIfAborted();
    const began = clock?.();
    const proposal = await orWhyNot(() =>
      run(candidate, workshop, (done, total) => workshop.onProgress?.(stage, done, total)),
    );
    if (typeof proposal === 'string') {
      const left = [{ tensor: 'all of them', because: proposal }];
      results.push({ stage, kept: false, sqnr, gain: 0, changed: 0, left });
      continue;
    }
    const { trial, changed, left = [], leastGain = 0 } = proposal;
    const tried = changed > 0 ? trial : undefined;
    const after = tried ? (await judge(tried.simulation.model)).sqnr : sqnr;
    const kept = tried !== undefined && (leastGain > 0 ? after - sqnr >= leastGain : after >= sqnr);
    const seconds = clock && began !== undefined ? (clock() - began) / 1000 : undefined;
    results.push({
      ...{ stage, kept, sqnr: after, gain: after - sqnr, changed, left },
      ...(leastGain > 0 ? { leastGain } : {}),
      ...(seconds === undefined ? {} : { seconds }),
    });
    if (!kept) continue;
    candidate = tried.result();
    sqnr = after;
  }
  return { candidate, stages: results };
}

/** The stages that a recipe asks for, in order. */
function stagesOf(recipe: Recipe): [StageId, Stage][] {
  const { solver, corrections } = recipe;
  const has = (id: CorrectionId) => corrections.includes(id);
  const stages: [StageId, Stage][] = [];
  const isStatic = hasStaticActivations(recipe);
  const scheme = recipe.weights === 'float' ? undefined : parseScheme(recipe.weights);
  if (has('bias')) stages.push(['bias', correctBiases]);
  if (has('pixels') && isStatic) stages.push(['pixels', readPixels]);
  if (has('cross-layer') && (isStatic || scheme?.granularity.kind === 'tensor'))
    stages.push(['cross-layer', equalizeLayers]);
  if (has('smooth') && isStatic) stages.push(['smooth', smoothActivations]);
  if (has('awq') && scheme && formatOf(scheme.format).bits < 8) stages.push(['awq', weighChannels]);
  if (solver !== 'nearest') {
    stages.push(['gptq', compensateLayers('others')], ['coupled', compensateLayers('coupled')]);
    stages.push(['recurrent', compensateLayers('recurrent')]);
  }
  if (solver === 'reconstruction') stages.push(['reconstruction', reconstructBlocks]);
  if (has('normalization')) stages.push(['normalization', renormalize]);
  if (has('ranges') && isStatic) stages.push(['ranges', refine]);
  return stages;
}

function isRecurrentLayer({ weight }: LayerTarget): boolean {
  return weight.use.kind === 'recurrent';
}

/**
 * @param kind the weights of recurrent layers alone, whose errors come back to them, or all others; or these with rows that
 * make up for each other
 */
const compensateLayers =
  (kind: 'recurrent' | 'others' | 'coupled'): Stage =>
  async (best, workshop, onProgress) => {
    const [isRecurrent, isCoupled] = [kind === 'recurrent', kind === 'coupled'];
    const { recipe, samples, runtime } = workshop;
    const reference = planOf(best, recipe);
    const floatTargets = [
      ...embeddingTargets(reference),
      ...correctionTargets(reference),
      ...recurrentTargets(reference),
    ];
    if (isRecurrent && !floatTargets.some(isRecurrentLayer)) return { changed: 0 };
    const trial = tryCandidate(best, recipe);
    const { simulation, targets, recurrent, embeddings } = trial;
    const schemes = best.results.flatMap(({ tensor, scheme }) => (scheme ? [[tensor, scheme] as const] : []));
    const compensator = createCompensator({
      ...workshop,
      ...{ reference, floatTargets, isCoupled },
      schemes: new Map(schemes),
    });
    try {
      if (kind === 'others') await compensator.runEmbeddings(simulation, embeddings);
      await correctLayers(simulation, targets, momentsOf(best), samples, runtime, {
        ...workshop,
        onProgress,
        others: isRecurrent ? recurrent : [],
        before: (group, way) =>
          compensator.run(
            simulation,
            group.filter((target) => isRecurrentLayer(target) === isRecurrent),
            way,
          ),
      });
    } finally {
      await compensator.close();
    }
    const left = [...compensator.fallbacks].map(([tensor, because]) => ({ tensor, because }));
    if (isRecurrent) return { trial, changed: compensator.changed, left };
    const reached = new Set([...targets, ...recurrent, ...embeddings].map(({ weight }) => weight.value.name));
    for (const { tensor } of trial.planning.plan.weights) {
      if (!best.matrices.has(tensor) || reached.has(tensor)) continue;
      left.push({ tensor, because: 'it lies inside a branch or a loop' });
    }
    return { trial, changed: compensator.changed, left };
  };

const reconstructBlocks: Stage = async (best, workshop, onProgress) => {
  const trial = tryCandidate(best, workshop.recipe);
  const { simulation, targets, normalizations } = trial;
  const blocks = await reconstruct(simulation, [...targets, ...normalizations], {
    ...workshop,
    float: best.float,
    onProgress: (done, total) => onProgress(done, total),
  });
  const left = blocks.flatMap(({ outputs, left: because }) => (because ? [{ tensor: outputs[0] ?? '', because }] : []));
  return { trial, changed: blocks.filter(({ iterations }) => iterations > 0).length, left };
};

const renormalize: Stage = async (best, workshop, onProgress) => {
  const { recipe, samples, runtime } = workshop;
  if (normalizationTargets(best.float).length === 0) return { changed: 0 };
  const trial = tryCandidate(best, recipe);
  const { simulation, targets, normalizations } = trial;
  await correctLayers(
    simulation,
    recipe.corrections.includes('bias') ? targets : [],
    momentsOf(best),
    samples,
    runtime,
    {
      ...workshop,
      normalizations,
      onProgress,
    },
  );
  return { trial, changed: normalizations.length };
};

/** Runs of the samples that ranges are refined on, and of those that every range takes two rounds of. */
const refiningRuns = 32;
const screeningRuns = 8;

const refine: Stage = async (best, workshop, onProgress) => {
  const { recipe, samples, runtime } = workshop;
  const judgeOf = (most: number) => createJudge(workshop.float, samples, runtime, { ...workshop, most });
  const [judge, screen] = [judgeOf(refiningRuns), judgeOf(screeningRuns)];
  const intervals = await refineRanges(best, { ...workshop, judge, screen, onProgress });
  if (intervals.size === 0) return { changed: 0 };
  const trial = tryCandidate({ ...best, intervals: new Map([...best.intervals, ...intervals]) }, recipe);
  return { trial, changed: intervals.size };
};
