/** Bias correction without samples: the means of inputs come from the BatchNormalization that the model was trained with. */
import { analyticBiasCorrection, type ChannelMeans } from '../equalization/bias-correction.ts';
import { type Candidate, planOf } from './candidate.ts';
import { correctionTargets, presentBias } from './correction-targets.ts';
import type { Recipe } from './recipe.ts';
import { dequantized } from './simulate.ts';

/**
 * The candidate with biases that make up for the mean of what rounding does, where the inputs' means are known (Nagel et al.
 * 2019, arXiv 1906.04721, section 4.2; ALGORITHMS.md §3.1).
 * @param means of the float model's values, by their names, from before BatchNormalization was folded
 */
export function correctFromStatistics(candidate: Candidate, means: ChannelMeans, recipe: Recipe): Candidate {
  if (means.size === 0) return candidate;
  const targets = correctionTargets(planOf(candidate, recipe)).filter(
    ({ bias, node }) => bias && means.has(node.inputs[0]?.name ?? ''),
  );
  const layers = targets.flatMap(({ node, weight }) => {
    const matrix = candidate.matrices.get(weight.value.name);
    return matrix ? [{ node, quantized: dequantized(weight, matrix).floats() }] : [];
  });
  const shifts = analyticBiasCorrection(layers, means);
  const biases = new Map(candidate.biases);
  for (const target of targets) {
    const shift = shifts.get(target.node.output().name);
    if (!shift) continue;
    const own = presentBias(target);
    biases.set(
      target.tensor,
      Float32Array.from({ length: target.channels }, (_, channel) => own(channel) + shift[channel]),
    );
  }
  return { ...candidate, biases };
}
