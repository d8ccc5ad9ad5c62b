/** Moments of gradients: the Gauss-Newton matrix in closed form, and codes that put their errors where nobody looks. */
import { describe, expect, it } from 'vitest';
import { Builder, samplesOf } from '../../test/support/static.ts';
import { createGaussian, createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import { openRuntime } from '../runtime/node.ts';
import { matrixView } from '../tensor/matrix-view.ts';
import { Tensor } from '../tensor/tensor.ts';
import { compare } from './compare.ts';
import { type GradientMomentsOptions, gradientMoments } from './gradient-moments.ts';
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

/** The moments of embeddings alone, by one run of each sample. */
async function embeddingMoments(
  model: Model,
  places: readonly { readonly tensor: string; readonly columns: number }[],
  samples: ReturnType<typeof ids>,
  options: GradientMomentsOptions = {},
) {
  const found = await gradientMoments(model, places, samples, runtime, { runs: samples.count ?? 0, ...options });
  return typeof found === 'string' ? found : new Map([...found].map(([name, { columns }]) => [name, columns]));
}

const gathered = (model: Model) => model.graph.nodes[0].output().name;

describe('moments of an embedding', () => {
  it('are w·wᵀ, but for a factor, before a layer of one output w', async () => {
    const model = lookup(1);
    const weights = model.graph.nodes[1].inputs[1]?.tensor?.floats() as Float32Array;
    const found = await embeddingMoments(model, [{ tensor: gathered(model), columns: 64 }], ids(4, 0));
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
      const found = await embeddingMoments(model, [{ tensor: gathered(model), columns: 64 }], ids(4, 0), {
        seed,
      });
      return typeof found === 'string' ? found : found.get(gathered(model))?.moment;
    };
    expect(await once(0)).toEqual(await once(0));
    expect(await once(0)).not.toEqual(await once(1));
  });

  it('weigh outputs by their power, not by their size', async () => {
    const b = new Builder();
    const rows = b.add('Gather', [b.weight([200, 64]), b.input('ids', [8], 'int64')]);
    const [left, right] = [b.weight([64, 1]), b.weight([64, 1], 0.01)];
    const wide = b.add('Concat', Array(16).fill(b.add('MatMul', [rows, left])), { axis: 1 });
    const model = b.output(wide, b.add('MatMul', [rows, right])).model;
    const found = await embeddingMoments(model, [{ tensor: rows.name, columns: 64 }], ids(200, 0));
    if (typeof found === 'string') throw new Error(found);
    const { moment } = found.get(rows.name)!;
    // What either output sees of the moments: w·M·wᵀ over (w·wᵀ)², times its power, is the same but for what they share.
    const along = (w: Float32Array) => {
      let [sum, square] = [0, 0];
      for (let i = 0; i < 64; i++) {
        square += w[i] ** 2;
        for (let j = 0; j < 64; j++) sum += w[i] * moment[i * 64 + j] * w[j];
      }
      return sum / square;
    };
    const ratio = along(left.tensor!.floats()) / along(right.tensor!.floats());
    expect(ratio).toBeGreaterThan(0.5);
    expect(ratio).toBeLessThan(2);
  });

  it('count all axes behind the first as columns', async () => {
    const b = new Builder();
    const rows = b.add('Gather', [b.weight([200, 4, 16]), b.input('ids', [8], 'int64')]);
    const model = b.output(b.add('MatMul', [rows, b.weight([16, 3])])).model;
    const found = await embeddingMoments(model, [{ tensor: rows.name, columns: 64 }], ids(4, 0));
    if (typeof found === 'string') throw new Error(found);
    expect(found.get(rows.name)).toMatchObject({ count: 32 });
    expect(found.get(rows.name)?.moment).toHaveLength(64 * 64);
  });

  it('leave runs without finite outputs out', async () => {
    const b = new Builder();
    const rows = b.add('Gather', [b.weight([200, 64]), b.input('ids', [8], 'int64')]);
    const masked = b.add('Add', [
      b.add('MatMul', [rows, b.weight([64, 2])]),
      b.floats([2], [0, Number.NEGATIVE_INFINITY]),
    ]);
    const model = b.output(masked).model;
    expect(await embeddingMoments(model, [{ tensor: rows.name, columns: 64 }], ids(4, 0))).toEqual(new Map());
    const calibration = ids(16, 0);
    const options: QuantizeOptions = {
      weights: 'int4:g32',
      uniform: true,
      solver: 'gptq',
      calibration,
      compare: false,
    };
    const { report } = await quantizeModel(model, options, runtime);
    const gptq = report.stages?.find(({ stage }) => stage === 'gptq');
    expect(gptq?.left.map(({ because }) => because)).toContain('nothing is known of its influence');
  });

  it('are refused where outputs are too large', async () => {
    const model = lookup(4);
    const embedding = { tensor: gathered(model), columns: 64 };
    const found = await embeddingMoments(model, [embedding], ids(4, 0), { maxBytes: 100 });
    expect(found).toBe('outputs of 128 bytes are too large to take their gradients');
  });

  it('are refused with a reason where an operator has no gradient', async () => {
    const b = new Builder();
    const rows = b.add('Gather', [b.weight([200, 4]), b.input('ids', [8], 'int64')]);
    const model = b.output(b.add('Mod', [rows, b.floats([1], [0.5])], { fmod: 1 })).model;
    expect(await embeddingMoments(model, [{ tensor: gathered(model), columns: 4 }], ids(2, 0))).toContain('Mod');
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

describe('moments of a weight', () => {
  /** 24 numbers through a layer of 32 and one of `outputs`. */
  function twoLayers(outputs: number): Model {
    const b = new Builder();
    const hidden = b.add('MatMul', [b.input('x', [6, 24]), b.weight([24, 32])]);
    return b.output(b.add('MatMul', [hidden, b.weight([32, outputs])])).model;
  }

  const vectors = (count: number, seed: number) => {
    const random = createGaussian(createRandom(seed));
    const values = Array.from({ length: count }, () => Float32Array.from({ length: 6 * 24 }, random));
    return samplesOf(values.map((numbers) => ({ x: Tensor.float32([6, 24], numbers) })));
  };

  it('are those of the inputs for its columns, and w·wᵀ of the layer behind for its rows', async () => {
    const model = twoLayers(1);
    const [first, second] = model.graph.nodes.map((node) => node.inputs[1]);
    const weights = second?.tensor?.floats() as Float32Array;
    const place = { tensor: first?.name ?? '', values: first?.tensor as Tensor, view: matrixView([24, 32], [1]) };
    const found = await gradientMoments(model, [place], vectors(256, 0), runtime);
    if (typeof found === 'string') throw new Error(found);
    const { rows, columns } = found.get(place.tensor)!;
    const factor = rows!.moment[0] / weights[0] ** 2;
    for (let i = 0; i < 32; i++) {
      for (let j = 0; j < 32; j++) expect(rows!.moment[i * 32 + j] / factor).toBeCloseTo(weights[i] * weights[j], 3);
    }
    // Independent inputs of one size: next to nothing beside the diagonal.
    const diagonal = columns.moment.filter((_, index) => index % 25 === 0);
    const beside = columns.moment.filter((_, index) => index % 25 !== 0);
    expect(Math.min(...diagonal)).toBeGreaterThan(2 * Math.max(...beside.map(Math.abs)));
  });

  it('let rows make up for each other where the layer behind sees few directions of them', async () => {
    const model = twoLayers(3);
    const [, second] = model.graph.nodes.map((node) => node.inputs[1]?.name ?? '');
    const options: QuantizeOptions = {
      ...{ weights: 'int3', uniform: true, activations: 'none', calibration: vectors(64, 1), corrections: ['bias'] },
      rules: [{ match: { tensor: second }, use: { weights: 'float' } }],
    };
    const sqnrOf = async (solver: QuantizeOptions['solver']) => {
      const { model: result } = await quantizeModel(model, { ...options, solver }, runtime);
      return (await compare(model, result, vectors(32, 2), runtime)).outputs[0].sqnr;
    };
    // Inputs are independent: columns alone have nothing to make up for each other with.
    expect(await sqnrOf('gptq')).toBeGreaterThan((await sqnrOf('nearest')) + 6);
  });
});
