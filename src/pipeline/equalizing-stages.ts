/** Stages that change the float model before it is quantized: it computes the same, and loses less by rounding. */
import type { ScaledGroup } from '../equalization/scale.ts';
import { productGroups, smooth } from '../equalization/smooth.ts';
import { formatOf } from '../formats/index.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { type Candidate, planOf, tryCandidate } from './candidate.ts';
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

/** A stage that edits a copy of the float model and starts again with it. `edit` says how many groups it scaled. */
function equalizing(edit: (model: Model, best: Candidate, workshop: Workshop) => Promise<number>): Stage {
  return async (best, workshop) => {
    const float = cloneModel(best.float);
    const changed = await edit(float, best, workshop);
    if (changed === 0) return { changed };
    return { trial: tryCandidate(await workshop.begin(float), workshop.recipe), changed };
  };
}

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
  return countScaled(scaled) + absorbed.length;
});

/** SmoothQuant, with the strength that suits each group. */
export const smoothActivations = equalizing(async (model, _, workshop) => {
  if (productGroups(model).length === 0) return 0;
  const statistics = await measureChannels(
    model,
    equalizationNeeds(model),
    workshop.samples,
    workshop.runtime,
    workshop,
  );
  const groups = smooth(model, { statistics, strength: 'search', noise: noiseOf(workshop.recipe) });
  return countScaled(groups);
});

/** AWQ. */
export const weighChannels = equalizing(async (model, best, workshop) => {
  const { weights } = planOf(best, workshop.recipe).plan;
  const schemes = new Map(weights.map(({ tensor, quantize }) => [tensor, quantize && parseScheme(quantize.scheme)]));
  const groups = await weighOnSamples(model, (name) => schemes.get(name), workshop.samples, workshop.runtime, workshop);
  return countScaled(groups);
});
