/** The stage that corrects biases, and what stages do that change the float model and so begin without them. */
import { type Candidate, momentsOf, type Trial, tryCandidate } from './candidate.ts';
import { correctLayers } from './correction.ts';
import type { Stage, Workshop } from './improve.ts';
import type { StageResult } from './report.ts';

export const correctBiases: Stage = async (best, workshop, onProgress) => {
  const { trial, layers, left } = await tryCorrected(best, workshop, onProgress);
  return { trial, changed: layers + left.length, left: withoutBias(left) };
};

/** The candidate with its biases corrected. */
export async function tryCorrected(
  candidate: Candidate,
  workshop: Workshop,
  onProgress: (done: number, total: number) => void,
): Promise<{ readonly trial: Trial; readonly layers: number; readonly left: readonly string[] }> {
  const { recipe, samples, runtime } = workshop;
  const trial = tryCandidate(candidate, recipe);
  const { simulation, targets } = trial;
  const done = await correctLayers(simulation, targets, momentsOf(candidate), samples, runtime, {
    ...workshop,
    onProgress,
  });
  return { trial, ...done };
}

function withoutBias(tensors: readonly string[]): StageResult['left'] {
  return tensors.map((tensor) => ({ tensor, because: 'no place for a bias' }));
}
