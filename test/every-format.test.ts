/**
 * Every format from end to end: a small network in it is a file that both builds of ONNX Runtime load, and that gives what
 * the float network with the dequantized weights gives.
 */
import { describe, expect, it } from 'vitest';
import { writeOnnx } from '../src/files/onnx/write.ts';
import { formats } from '../src/formats/index.ts';
import { namedSchemes } from '../src/formats/named.ts';
import type { Model } from '../src/graph/model.ts';
import { lowerModel, tidy } from '../src/pipeline/apply.ts';
import { inlineExecutor } from '../src/pipeline/executor.ts';
import { makePlan } from '../src/pipeline/plan.ts';
import { cloneModel, prepare } from '../src/pipeline/prepare.ts';
import { quantizeModel } from '../src/pipeline/quantize.ts';
import { makeRecipe } from '../src/pipeline/recipe.ts';
import { simulate } from '../src/pipeline/simulate.ts';
import { solveWeights } from '../src/pipeline/solve.ts';
import { memoryStore } from '../src/pipeline/store.ts';
import { openRuntime } from '../src/runtime/node.ts';
import type { Runtime } from '../src/runtime/runtime.ts';
import { Tensor } from '../src/tensor/tensor.ts';
import { addInput, addOutput, emptyModel, noiseTensor } from './support/lowered.ts';

/** Convolutions, a Gemm, a MatMul and a table, all large enough to be worth packing. */
function network(): Model {
  const model = emptyModel();
  const { graph } = model;
  const image = addInput(graph, 'image', [1, 3, 12, 12]);
  const ids = addInput(graph, 'ids', [1], 'int64');
  // Away from zero here and there, so that zero points differ.
  const weight = (name: string, shape: number[], seed: number) => {
    const values = noiseTensor(shape, seed).floats();
    return graph.addInitializer(
      name,
      Tensor.float32(
        shape,
        values.map((value, i) => value + 0.3 * Math.sin(i / 20)),
      ),
    );
  };
  const node = (op: string, inputs: Parameters<typeof graph.add>[0]['inputs'], attributes = {}) =>
    graph.add({ op, inputs, outputs: [`${op}_${graph.nodes.length}`], attributes }).output();
  const first = node('Conv', [image, weight('first', [24, 3, 3, 3], 1), weight('first_bias', [24], 2)]);
  const second = node('Conv', [node('Relu', [first]), weight('second', [32, 24, 3, 3], 3)]);
  const pooled = node('Flatten', [node('GlobalAveragePool', [node('Relu', [second])])]);
  const dense = node('Gemm', [pooled, weight('dense', [64, 32], 4), weight('dense_bias', [64], 5)], { transB: 1 });
  const looked = node('Gather', [weight('table', [40, 64], 6), ids]);
  const product = node('MatMul', [node('Add', [dense, looked]), weight('product', [64, 48], 7)]);
  addOutput(graph, product);
  return model;
}

const feeds = { image: noiseTensor([1, 3, 12, 12], 8), ids: Tensor.int64([1], [17]) };

async function outputOf(model: Model, runtime: Runtime): Promise<Float32Array> {
  const session = await runtime.open(writeOnnx(model));
  try {
    return Object.values(await session.run(feeds))[0].floats();
  } finally {
    await session.close();
  }
}

function difference(expected: Float32Array, got: Float32Array): number {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return expected.reduce((most, value, i) => Math.max(most, Math.abs(value - got[i])), 0) / largest;
}

const native = await openRuntime('onnxruntime-node');
const web = await openRuntime('onnxruntime-web');

const schemes = [
  ...formats.map(({ id }) => id as string),
  ...namedSchemes.map(({ id }) => id as string),
  'int3:g16:sym',
  'int4:g16:scale8',
  'nf4:g16:scale8',
  'int1:g16',
  'ternary:g16',
  'binary3:channel',
  'kmeans4:channel',
  'kmeans3:tensor',
  'float8e4m3fn:tensor',
  'int5:g16:sym:scale-e8m0',
];

describe.each(schemes)('%s', (weights) => {
  it('runs as the float network with its weights does, and takes what the report says', async () => {
    const float = network();
    const recipe = makeRecipe({ weights, uniform: true, accuracyLevel: 0 }, false);
    const first = await prepare(float, native);
    const { opset } = makePlan(first.model, recipe).plan;
    const { model } = opset > first.model.opset ? await prepare(first.model, native, opset) : first;
    const planning = makePlan(cloneModel(model), recipe);
    const { matrices } = await solveWeights(planning, { executor: inlineExecutor(), store: memoryStore() });
    const plain = simulate(makePlan(cloneModel(model), recipe), matrices).model;
    lowerModel(planning, matrices);
    tidy(planning.model);
    const expected = await outputOf(plain, native);
    // Formats without codes are casts, whose rounding the float network does not have.
    const bound = weights.endsWith('float16') ? 1e-2 : 1e-5;
    expect(difference(expected, await outputOf(planning.model, native))).toBeLessThan(bound);
    expect(difference(expected, await outputOf(planning.model, web))).toBeLessThan(bound);

    const { model: result, report } = await quantizeModel(float, { weights, uniform: true }, native);
    for (const { tensor, bytes = 0, bitsPerWeight = 0, executes, loadedBytes = 0 } of report.weights) {
      const own = [...result.graph.initializers].filter(({ name }) => name.startsWith(`${tensor}/`));
      const stored = own.reduce((sum, value) => sum + (value.tensor?.byteLength ?? 0), 0);
      expect([tensor, stored, bytes, Math.abs(stored / bytes - 1) < 0.02]).toEqual([tensor, stored, bytes, true]);
      expect(bitsPerWeight).toBeGreaterThan(1);
      expect(executes).toBeTruthy();
      expect(loadedBytes).toBeGreaterThanOrEqual(bytes * 0.9);
    }
    expect(report.weights.length).toBe(5);
  });
});
