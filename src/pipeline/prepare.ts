/** From a model as exported to one that is ready to be quantized: float in, float out. */
import { readOnnx } from '../files/onnx/read.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import { type PassSkip, runPasses } from '../passes/index.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** A copy that shares nothing with the original but tensor data, which nobody changes. */
export function cloneModel(model: Model): Model {
  const shared: Tensor[] = [];
  const bytes = writeOnnx(model, {
    external: { put: (tensor) => ({ location: 'shared', offset: shared.push(tensor) - 1 }) },
  });
  return readOnnx(bytes, {
    external: { read: (_, index) => shared[index].source ?? shared[index].bytes },
  });
}

export interface Prepared {
  readonly model: Model;
  readonly changed: readonly string[];
  readonly skips: readonly PassSkip[];
}

/** Runs all passes on a copy; `opset` raises the operator set if the plan needs it. */
export async function prepare(model: Model, runtime: Runtime, opset?: number): Promise<Prepared> {
  const copy = cloneModel(model);
  const skips: PassSkip[] = [];
  const changed = await runPasses(copy, undefined, {
    async evaluate(part) {
      const session = await runtime.open(writeOnnx(part), { optimization: 'disabled' });
      try {
        return await session.run({});
      } finally {
        await session.close();
      }
    },
    ...(opset ? { opset } : {}),
    onSkip: (skip) => skips.push(skip),
  });
  for (const graph of copy.graphs()) graph.sort();
  return { model: copy, changed, skips };
}
