/** The family of graph passes: float in, float out, every output as it was. They know nothing of quantization. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import { constantsToInitializers } from './constants-to-initializers.ts';
import { eliminateDead } from './eliminate-dead.ts';
import { eliminateIdentities } from './eliminate-identities.ts';
import { foldBatchNorm } from './fold-batch-norm.ts';
import { foldConstants } from './fold-constants.ts';
import { liftInitializers } from './lift-initializers.ts';
import type { Pass, PassContext } from './pass.ts';
import { shareInitializers } from './share-initializers.ts';
import { upgradeOpsetPass } from './upgrade-opset.ts';

export type { Pass, PassContext, PassSkip } from './pass.ts';
export { irVersionFor, upgradeOpset } from './upgrade-opset.ts';

/** In the order in which they help each other. */
export const passes = [
  liftInitializers,
  constantsToInitializers,
  foldConstants,
  eliminateIdentities,
  eliminateDead,
  upgradeOpsetPass,
  foldBatchNorm,
  shareInitializers,
] as const satisfies readonly Pass[];
export type PassId = (typeof passes)[number]['id'];

/**
 * Runs passes on the model, in place: all of them, or those named, in the order of the list.
 * @returns the ids of the passes that changed something.
 * @throws HalftoneError `usage` for an unknown id; whatever a pass throws.
 */
export async function runPasses(
  model: Model,
  ids: readonly string[] | undefined,
  context: PassContext,
): Promise<PassId[]> {
  const unknown = ids?.find((id) => !passes.some((pass) => pass.id === id));
  if (unknown !== undefined) {
    throw new HalftoneError(
      'usage',
      `pass "${unknown}": expected one of ${passes.map((pass) => pass.id).join(', ')}, got something else`,
    );
  }
  const changed: PassId[] = [];
  for (const pass of passes) {
    if (ids && !ids.includes(pass.id)) continue;
    if (await pass.run(model, context)) changed.push(pass.id);
  }
  return changed;
}
