/** Stages that change the float model before it is quantized: it computes the same, and loses less by rounding. */
import { griddedInputs, gridInterval, gridOf, readOnGrid } from '../equalization/input-grid.ts';
import type { ScaledGroup } from '../equalization/scale.ts';
import { productGroups, smooth } from '../equalization/smooth.ts';
import { formatOf } from '../formats/index.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Interval } from '../ranges/index.ts';
import { tryCorrected } from './bias-stage.ts';
import { type Candidate, planOf, tryCandidate } from './candidate.ts';
import { distinctValues } from './distinct-values.ts';
import { equalizationNeeds, equalizeOnSamples, measureChannels, weighOnSamples } from './equalization.ts';
import type { Stage, Workshop } from './improve.ts';
import { cloneModel } from './prepare.ts';
import { hasStaticActivations, type Recipe } from './recipe.ts';

/** What is going to be quantized, as the model of its noise takes it. */
function noiseOf({ weights, activations }: Recipe) {
  const scheme = parseScheme(weights);
  return {
    weightBits: formatOf(scheme.format).bits,
    perChannel: scheme.granularity.kind !== 'tensor',
    activationBits: hasStaticActivations({ activations }) ? formatOf(activations).bits : undefined,
  };
}

interface Edited {
  /** Groups or inputs that were changed. */
  readonly changed: number;
  /** Ranges of activations that are known by now, by name. */
  readonly intervals?: ReadonlyMap<string, Interval>;
}

/**
 * A stage that edits a copy of the float model and starts again with it; with biases corrected, where those of the best are:
 * else outputs would be off by means, which say nothing of what is left in the end.
 */
function equalizing(
  edit: (model: Model, best: Candidate, workshop: Workshop) => Promise<Edited>,
  leastGain = 0,
): Stage {
  return async (best, workshop, onProgress) => {
    const float = cloneModel(best.float);
    const { changed, intervals = [] } = await edit(float, best, workshop);
    if (changed === 0) return { changed };
    const begun = await workshop.begin(float);
    const candidate = { ...begun, intervals: new Map([...best.intervals, ...intervals]) };
    const trial =
      best.biases.size > 0
        ? (await tryCorrected(candidate, workshop, onProgress)).trial
        : tryCandidate(candidate, workshop.recipe);
    return { trial, changed, leastGain };
  };
}

/** The operator set from which on Pad takes its padding as an input. */
const padOpset = 11;

/** Decibels that are worth three operators in float on the model's inputs. */
const worthOfPixels = 0.1;

/** Inputs that are pixels of 8 bits are rounded to the steps that they have. */
export const readPixels = equalizing(async (model, _, { recipe, samples, signal }) => {
  const isByte = recipe.activations === 'uint8' || recipe.activations === 'int8';
  if (!isByte || recipe.symmetricActivations || model.opset < padOpset) return { changed: 0 };
  const found = griddedInputs(model.graph);
  const values = await distinctValues(found, samples, signal);
  const intervals = new Map<string, Interval>();
  let changed = 0;
  for (const { input } of found) {
    const grids = values.get(input.name)?.map((channel) => gridOf([...channel]));
    if (!grids?.every((grid) => grid !== undefined)) continue;
    for (const name of readOnGrid(input, grids)) intervals.set(name, gridInterval);
    changed++;
  }
  return { changed, intervals };
}, worthOfPixels);

const countScaled = (groups: readonly ScaledGroup[]) =>
  groups.filter(({ factors: [least, most] }) => least !== 1 || most !== 1).length;

/** Ranges of channels are balanced between neighbouring layers, and with the activations between them. */
export const equalizeLayers = equalizing(async (model, best, workshop) => {
  const { activations } = planOf(best, workshop.recipe).plan;
  const noise = { ...noiseOf(workshop.recipe), rounded: new Set(activations.map(({ tensor }) => tensor)) };
  const { scaled, absorbed } = await equalizeOnSamples(model, workshop.samples, workshop.runtime, {
    ...workshop,
    noise,
  });
  return { changed: countScaled(scaled) + absorbed.length };
});

/** SmoothQuant, with the strength that suits each group. */
export const smoothActivations = equalizing(async (model, _, workshop) => {
  if (productGroups(model).length === 0) return { changed: 0 };
  const statistics = await measureChannels(
    model,
    equalizationNeeds(model),
    workshop.samples,
    workshop.runtime,
    workshop,
  );
  const groups = smooth(model, { statistics, strength: 'search', noise: noiseOf(workshop.recipe) });
  return { changed: countScaled(groups) };
});

/** AWQ. */
export const weighChannels = equalizing(async (model, best, workshop) => {
  const { weights } = planOf(best, workshop.recipe).plan;
  const schemes = new Map(weights.map(({ tensor, quantize }) => [tensor, quantize && parseScheme(quantize.scheme)]));
  const groups = await weighOnSamples(model, (name) => schemes.get(name), workshop.samples, workshop.runtime, workshop);
  return { changed: countScaled(groups) };
});
