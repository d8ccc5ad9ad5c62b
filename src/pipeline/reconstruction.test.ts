/** Reconstruction behind the quantized prefix: closer to the float model on samples nobody has seen, or left as it was. */
import { describe, expect, it } from 'vitest';
import { addInput, addOutput, emptyModel, noise, noiseTensor } from '../../test/support/lowered.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Samples } from '../samples/sample.ts';
import { batches } from '../samples/select.ts';
import { Tensor } from '../tensor/tensor.ts';
import { correctionTargets, normalizationTargets } from './correction-targets.ts';
import { inlineExecutor } from './executor.ts';
import { createJudge } from './judge.ts';
import { makePlan } from './plan.ts';
import { cloneModel } from './prepare.ts';
import { makeRecipe } from './recipe.ts';
import { type ReconstructionOptions, reconstruct } from './reconstruction.ts';
import { recordRows } from './reconstruction-data.ts';
import { extractBlock, openTrainer } from './reconstruction-graph.ts';
import { simulate } from './simulate.ts';
import { solveWeights } from './solve.ts';
import { memoryStore } from './store.ts';

const runtime = await openRuntime('onnxruntime-node');

/** Two residual blocks of convolutions, one of them depthwise, and a layer behind them. */
function network(): Model {
  const model = emptyModel();
  const { graph } = model;
  let seed = 1;
  const constant = (name: string, shape: number[]) => graph.addInitializer(name, noiseTensor(shape, seed++));
  const conv = (name: string, input: Value, shape: number[], group = 1) =>
    graph
      .add({
        ...{ op: 'Conv', outputs: [name], attributes: { group, pads: [1, 1, 1, 1] } },
        inputs: [input, constant(`${name}_weight`, shape), constant(`${name}_bias`, [shape[0]])],
      })
      .output();
  const node = (op: string, name: string, ...inputs: Value[]) => graph.add({ op, inputs, outputs: [name] }).output();
  const input = graph.addValue('image', { dtype: 'float32', shape: ['N', 8, 6, 6] });
  graph.inputs.push(input);
  let value: Value = input;
  for (const name of ['a', 'b']) {
    const inner = node('Relu', `${name}_relu`, conv(`${name}_first`, value, [8, 8, 3, 3]));
    const deep = node('Relu', `${name}_deep_relu`, conv(`${name}_deep`, inner, [8, 1, 3, 3], 8));
    const last = conv(`${name}_last`, deep, [8, 8, 3, 3]);
    value = node('Add', `${name}_sum`, last, value);
  }
  addOutput(graph, node('Relu', 'result', value));
  return model;
}

function pictures(count: number, seed: number): Samples {
  return {
    description: 'pictures',
    count,
    async *[Symbol.asyncIterator]() {
      for (let index = 0; index < count; index++) {
        yield { image: Tensor.float32([1, 8, 6, 6], noise(288, seed + index)) };
      }
    },
  };
}

async function begin(model: Model, weights: string, uniform = false) {
  const recipe = makeRecipe({ weights, activations: 'none', uniform }, true);
  const planning = makePlan(cloneModel(model), recipe);
  const { matrices } = await solveWeights(planning, { executor: inlineExecutor(), store: memoryStore() });
  const targets = [...correctionTargets(planning), ...normalizationTargets(planning.model)];
  return { simulation: simulate(planning, matrices), targets };
}

const sqnrOf = async (float: Model, quantized: Model, samples: Samples) =>
  (await createJudge(float, samples, runtime, {})(quantized)).sqnr;

const optionsOf = (float: Model): ReconstructionOptions => ({
  float,
  samples: batches(pictures(48, 1), 4),
  heldOut: pictures(16, 1000),
  runtime,
  iterations: 60,
});

describe('reconstruct', () => {
  it('brings outputs of other samples closer to the float model, the same way every time', async () => {
    const float = network();
    const results = [];
    for (let time = 0; time < 2; time++) {
      const { simulation, targets } = await begin(float, 'int3:g16');
      const test = pictures(32, 5000);
      const before = await sqnrOf(float, simulation.model, test);
      const blocks = await reconstruct(simulation, targets, optionsOf(float));
      const after = await sqnrOf(float, simulation.model, test);
      expect(blocks.map(({ outputs }) => outputs.join())).toEqual(['a_sum', 'result']);
      expect(blocks.every((block) => block.after < block.before && block.iterations > 0)).toBe(true);
      expect(after).toBeGreaterThan(before + 0.5);
      results.push({ after, matrices: simulation.matrices, biases: simulation.biases });
    }
    expect(results[1]).toEqual(results[0]);
  });

  it('keeps codes of narrow weights, and their zero points', async () => {
    const float = network();
    const { simulation, targets } = await begin(float, 'int4:g16:asym');
    const before = new Map(simulation.matrices);
    await reconstruct(simulation, targets, optionsOf(float));
    for (const [name, { scheme, codes, zeroPoints, scales }] of before) {
      const now = simulation.matrices.get(name);
      if (scheme.format === 'int4') expect(now?.codes).toEqual(codes);
      expect(now?.zeroPoints).toEqual(zeroPoints);
      expect(now?.scales).not.toEqual(scales);
    }
  });

  it('leaves a block as it is where nothing gets better', async () => {
    const float = network();
    const { simulation, targets } = await begin(float, 'int4:g16:asym');
    const before = new Map(simulation.matrices);
    const rates = { codes: 0, scales: 1000, biases: 1000 };
    const blocks = await reconstruct(simulation, targets, { ...optionsOf(float), iterations: 4, rates });
    expect(blocks.map(({ iterations }) => iterations)).toEqual([0, 0]);
    expect(blocks.every((block) => block.after === block.before)).toBe(true);
    expect(simulation.matrices).toEqual(before);
  });

  it('hands the layers of each block over before they are learned', async () => {
    const float = network();
    const { simulation, targets } = await begin(float, 'int3:g16');
    const seen: string[] = [];
    const before: ReconstructionOptions['before'] = async (layers) => {
      seen.push(layers.map(({ tensor }) => tensor).join());
    };
    await reconstruct(simulation, targets, { ...optionsOf(float), iterations: 1, before });
    expect(seen).toEqual(['a_first,a_last', 'b_first,b_last']);
  });

  it('takes samples one by one where they did not come in batches', async () => {
    const float = network();
    const { simulation, targets } = await begin(float, 'int3:g16');
    const options = { ...optionsOf(float), samples: pictures(24, 1), iterations: 16, batchSize: 4 };
    const blocks = await reconstruct(simulation, targets, options);
    expect(blocks.every((block) => block.after < block.before)).toBe(true);
  });

  it('says why it leaves a block, and stops when it is told to', async () => {
    const float = network();
    const { simulation, targets } = await begin(float, 'int4:g16:asym');
    const unlike = targets.filter(({ tensor }) => tensor.startsWith('b'));
    const [first] = await reconstruct(simulation, unlike, { ...optionsOf(float), iterations: 2 });
    expect(first.left).toBe('none of its weights has integer codes');
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(reconstruct(simulation, targets, { ...optionsOf(float), signal })).rejects.toThrow('enough');
  });
});

describe('a block on its own', () => {
  const block = {
    inputs: ['a_sum'],
    outputs: ['result'],
    weights: ['b_first_weight'],
    nodes: ['b_first', 'b_relu', 'b_deep', 'b_deep_relu', 'b_last', 'b_sum', 'result'],
  };

  it('has no error from the inputs and with the weights of the float model', async () => {
    const float = network();
    const options = { inputs: ['a_sum'], targets: ['result'], maxBytes: 2 ** 20, runtime };
    const { rows, isBatched } = await recordRows(float, float, batches(pictures(6, 1), 3), options);
    expect([rows.length, isBatched]).toEqual([6, true]);
    const part = extractBlock(float, block, ['b_first_weight']);
    const weight = [...float.graph.initializers].find(({ name }) => name === 'b_first_weight')?.tensor as Tensor;
    const feeds = { a_sum: rows[0].inputs[0], 'result/target': rows[0].targets[0], b_first_weight: weight };
    const trainer = await openTrainer(part, [1], feeds, runtime, 1);
    try {
      expect(await trainer.loss(feeds)).toBeLessThan(1e-8);
      const moved = (place: number, by: number) => {
        const numbers = weight.floats().slice();
        numbers[3] += 0.05;
        numbers[place] += by;
        return { ...feeds, b_first_weight: Tensor.float32(weight.shape, numbers) };
      };
      const { loss, gradients } = await trainer.gradients(moved(0, 0));
      expect(loss).toBeCloseTo(await trainer.loss(moved(0, 0)), 6);
      const slopes = gradients.get('b_first_weight')?.floats() as Float32Array;
      for (const place of [3, 40, 200]) {
        const difference = (await trainer.loss(moved(place, 0.02))) - (await trainer.loss(moved(place, -0.02)));
        expect(slopes[place]).toBeCloseTo(difference / 0.04, 2);
      }
    } finally {
      await trainer.close();
    }
  });

  it('thins samples out evenly to stay within the bytes', async () => {
    const float = network();
    const options = { inputs: ['a_sum'], targets: ['result'], maxBytes: 20 * 288 * 4, runtime };
    const { rows } = await recordRows(float, float, pictures(32, 1), options);
    expect(rows).toHaveLength(8);
  });
});

describe('a normalization', () => {
  it('is learned with the layers around it', async () => {
    const float = emptyModel();
    const { graph } = float;
    const input = addInput(graph, 'image', [1, 8, 6, 6]);
    const constant = (name: string, shape: number[], seed: number) =>
      graph.addInitializer(name, noiseTensor(shape, seed));
    const product = graph.add({ op: 'MatMul', inputs: [input, constant('w', [6, 512], 1)], outputs: ['product'] });
    const normal = graph.add({
      op: 'LayerNormalization',
      inputs: [product.output(), constant('scale', [512], 2), constant('shift', [512], 3)],
      outputs: ['normal'],
      attributes: { axis: -1 },
    });
    addOutput(
      graph,
      graph.add({ op: 'MatMul', inputs: [normal.output(), constant('v', [512, 6], 4)], outputs: ['y'] }).output(),
    );
    const { simulation, targets } = await begin(float, 'int3:channel:asym', true);
    const blocks = await reconstruct(simulation, targets, { ...optionsOf(float), samples: pictures(32, 1) });
    expect(blocks).toHaveLength(1);
    expect(blocks[0].after).toBeLessThan(0.9 * blocks[0].before);
    expect(simulation.normalizations.get('normal')?.scale).toHaveLength(512);
  });
});
