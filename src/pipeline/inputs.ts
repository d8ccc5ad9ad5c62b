/** What a caller must feed a model. */
import type { Model } from '../graph/model.ts';
import type { ValueInfo } from '../runtime/runtime.ts';

/** The inputs that a caller must feed, as the model declares them: without those that have a default. */
export function inputsOf(model: Model): ValueInfo[] {
  return model.graph.inputs
    .filter((input) => !input.tensor)
    .map(({ name, type }) => ({
      name,
      dtype: type?.dtype ?? 'float32',
      shape: (type?.shape ?? []).map((dimension) => dimension ?? -1),
    }));
}
