/** Initializers that are also graph inputs (the IR 3 way) become constants: an overridable one is never folded. */
import type { Model } from '../graph/model.ts';
import type { Pass } from './pass.ts';

/** Initializers need no entry among the inputs from this IR version on (onnx/docs/IR.md, "Static optimization"). */
const firstIrWithConstants = 4;

/** Raises the IR version to the first one in which an initializer outside the inputs is a constant. */
export function allowConstants(model: Model): void {
  model.irVersion = Math.max(model.irVersion, firstIrWithConstants);
}

export const liftInitializers = {
  id: 'lift-initializers',
  summary: 'make initializers that are also graph inputs constant',
  run(model) {
    const { inputs } = model.graph;
    const kept = inputs.filter((value) => value.tensor === undefined);
    if (kept.length === inputs.length) return false;
    inputs.splice(0, inputs.length, ...kept);
    allowConstants(model);
    return true;
  },
} as const satisfies Pass;
