/** Moments of embeddings: the Gauss-Newton matrix in closed form, and codes that put their errors where nobody looks. */
import { describe, expect, it } from 'vitest';
import { Builder, samplesOf } from '../../test/support/static.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { compare } from './compare.ts';
import { embeddingMoments } from './embedding-moments.ts';
import { type QuantizeOptions, quantizeModel } from './quantize.ts';

const runtime = await openRuntime('onnxruntime-node');

/** Rows of 64 numbers, of which a layer of few outputs sees as many directions. */
function lookup(outputs: number, op = 'MatMul'): Model {
  const b = new Builder();
  const rows = b.add('Gather', [b.weight([200, 64]), b.input('ids', [8], 'int64')]);
  rows.type = { dtype: 'float32', shape: undefined };
  return b.output(b.add(op, [rows, b.weight([64, outputs])])).model;
}

const ids = (count: number, seed: number) =>
  samplesOf(
    Array.from({ length: count }, (_, sample) => ({
      ids: Tensor.int64(
        [8],
        Array.from({ length: 8 }, (_, index) => (seed + 37 * sample + 23 * index) % 200),
      ),
    })),
  );

const gathered = (model: Model) => model.graph.nodes[0].output().name;

describe('moments of an embedding', () => {
  it('are w·wᵀ, but for a factor, before a layer of one output w', async () => {
    const model = lookup(1);
    const weights = model.graph.nodes[1].inputs[1]?.tensor?.floats() as Float32Array;
    const found = await embeddingMoments(model, [gathered(model)], ids(4, 0), runtime);
    if (typeof found === 'string') throw new Error(found);
    const { moment, mean, count } = found.get(gathered(model))!;
    expect(count).toBe(32);
    expect([...mean]).toEqual(Array(64).fill(0));
    const factor = moment[0] / weights[0] ** 2;
    expect(factor).toBeGreaterThan(0);
    for (let i = 0; i < 64; i++) {
      for (let j = 0; j < 64; j++) expect(moment[i * 64 + j] / factor).toBeCloseTo(weights[i] * weights[j], 4);
    }
  });

  it('are the same again with the same seed, and others with another', async () => {
    const model = lookup(5);
    const once = async (seed: number) => {
      const found = await embeddingMoments(model, [gathered(model)], ids(4, 0), runtime, { seed });
      return typeof found === 'string' ? found : found.get(gathered(model))?.moment;
    };
    expect(await once(0)).toEqual(await once(0));
    expect(await once(0)).not.toEqual(await once(1));
  });

  it('are refused with a reason where an operator has no gradient', async () => {
    const b = new Builder();
    const rows = b.add('Gather', [b.weight([200, 4]), b.input('ids', [8], 'int64')]);
    const model = b.output(b.add('Mod', [rows, b.floats([1], [0.5])], { fmod: 1 })).model;
    expect(await embeddingMoments(model, [gathered(model)], ids(2, 0), runtime)).toContain('Mod');
  });
});

it('gptq chooses the codes of an embedding by what the layers behind it see', async () => {
  const model = lookup(12);
  const options: QuantizeOptions = {
    ...{ weights: 'int3:g32', uniform: true, activations: 'none', calibration: ids(48, 0), corrections: ['bias'] },
    rules: [{ match: { op: 'MatMul' }, use: { weights: 'float' } }],
  };
  const sqnrOf = async (solver: QuantizeOptions['solver']) => {
    const { model: result, report } = await quantizeModel(model, { ...options, solver }, runtime);
    const { outputs } = await compare(model, result, ids(25, 5), runtime);
    return { sqnr: outputs[0].sqnr, stage: report.stages?.find(({ stage }) => stage === 'gptq') };
  };
  const [nearest, gptq] = [await sqnrOf('nearest'), await sqnrOf('gptq')];
  expect(gptq.stage).toMatchObject({ kept: true, changed: 1, left: [] });
  expect(gptq.sqnr).toBeGreaterThan(nearest.sqnr + 3);
});
