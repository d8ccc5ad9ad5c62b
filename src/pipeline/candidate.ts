/** What has been found so far of a model that is being quantized: everything that its result is made from. */
import { formatScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { signalToNoise } from '../kernel/index.ts';
import type { Interval } from '../ranges/index.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import type { Statistics } from './calibrate.ts';
import {
  type CorrectionTarget,
  correctionTargets,
  embeddingTargets,
  type LayerTarget,
  type NormalizationTarget,
  normalizationTargets,
  recurrentTargets,
  setBias,
  setNormalization,
} from './correction-targets.ts';
import { makePlan, type Planning } from './plan.ts';
import { cloneModel } from './prepare.ts';
import type { Recipe } from './recipe.ts';
import type { WeightResult } from './report.ts';
import { type Matrices, type Normalization, type Simulation, simulate } from './simulate.ts';

export interface Candidate {
  /** Ready to be planned, and perhaps equalized. Shared by candidates: nobody edits it. */
  readonly float: Model;
  readonly statistics: Statistics | undefined;
  /** Ranges of activations that replace those of the recipe's method, by group. */
  readonly intervals: ReadonlyMap<string, Interval>;
  readonly matrices: Matrices;
  /** What was said of each weight when its first codes were chosen. */
  readonly results: readonly WeightResult[];
  /** By the name of the layer's float result. */
  readonly biases: ReadonlyMap<string, Float32Array>;
  /** By the name of their result. */
  readonly normalizations: ReadonlyMap<string, Normalization>;
}

/** A plan on a model of its own: a planning refers to the objects of its model, and lowering edits them. */
export function planOf({ float, statistics, intervals }: Candidate, recipe: Recipe): Planning {
  return makePlan(cloneModel(float), recipe, statistics, intervals);
}

/** `moments` of all targets, over the samples that corrections are fitted to: every candidate that is corrected has them. */
export function momentsOf({ statistics }: Candidate): Statistics {
  return statistics ?? new Map();
}

/** Puts biases and normalizations into the model of a plan. */
export function applyCorrections({ biases, normalizations }: Candidate, planning: Planning): void {
  for (const target of correctionTargets(planning)) {
    const bias = biases.get(target.tensor);
    if (bias) setBias(target, bias);
  }
  for (const target of normalizationTargets(planning.model)) {
    const found = normalizations.get(target.tensor);
    if (found) setNormalization(target, found.scale, found.bias);
  }
}

/** A candidate that runs, and where it can be corrected. */
export interface Trial {
  readonly simulation: Simulation;
  readonly planning: Planning;
  readonly targets: readonly CorrectionTarget[];
  readonly recurrent: readonly LayerTarget[];
  readonly embeddings: readonly LayerTarget[];
  readonly normalizations: readonly NormalizationTarget[];
  /** The candidate as the simulation stands now. */
  result(): Candidate;
}

export function tryCandidate(candidate: Candidate, recipe: Recipe): Trial {
  const planning = planOf(candidate, recipe);
  const targets = correctionTargets(planning);
  const recurrent = recurrentTargets(planning);
  const embeddings = embeddingTargets(planning);
  const normalizations = normalizationTargets(planning.model);
  const simulation = simulate(planning, candidate.matrices);
  for (const target of targets) {
    const bias = candidate.biases.get(target.tensor);
    if (bias) simulation.correct(target, { gain: undefined, bias });
  }
  for (const target of normalizations) {
    const found = candidate.normalizations.get(target.tensor);
    if (found) simulation.normalize(target, found.scale, found.bias);
  }
  return {
    simulation,
    planning,
    targets,
    recurrent,
    embeddings,
    normalizations,
    result: () => ({
      ...candidate,
      matrices: new Map(simulation.matrices),
      biases: new Map(simulation.biases),
      normalizations: new Map(simulation.normalizations),
    }),
  };
}

/** What is said of each weight, with the scheme and the error of its codes as they are by now. */
export function currentResults({ results, matrices }: Candidate, planning: Planning): WeightResult[] {
  const weights = new Map(planning.weights.map((weight) => [weight.value.name, weight]));
  return results.map((result) => {
    const [weight, matrix] = [weights.get(result.tensor), matrices.get(result.tensor)];
    if (!weight || !matrix) return result;
    const values = toMatrix(weight.tensor.floats(), weight.use.view);
    return { ...result, scheme: formatScheme(matrix.scheme), sqnr: signalToNoise(values, matrix) };
  });
}
