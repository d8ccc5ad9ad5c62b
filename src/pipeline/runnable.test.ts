/** Models too large for one message are refused before anything is read of them or run. */
import { expect, test } from 'vitest';
import { Builder, noiseSamples, samplesOf } from '../../test/support/static.ts';
import type { Model } from '../graph/model.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { batchesFor } from './batching.ts';
import { calibrate } from './calibrate.ts';
import { compare } from './compare.ts';
import { quantizeModel } from './quantize.ts';

const [inner, columns] = [4, 2 ** 27];

/** A product with 2 GiB of weights that nobody may read. */
function large(): Model {
  const b = new Builder();
  const read = () => {
    throw new Error('read');
  };
  const weight = new Tensor('float32', [inner, columns], { byteLength: inner * columns * 4, read });
  const x = b.input('x', [1, inner]);
  x.type = { dtype: 'float32', shape: ['n', inner] };
  return b.output(b.add('MatMul', [x, b.graph.addInitializer('w', weight)])).model;
}

/** The same with few weights. */
function small(): Model {
  const b = new Builder();
  return b.output(b.add('MatMul', [b.input('x', [1, inner]), b.weight([inner, 2])])).model;
}

const samples = samplesOf(noiseSamples(small(), 2));
const runtime: Runtime = {
  id: 'none',
  version: '0',
  open: () => Promise.reject(new Error('opened')),
};

const needs = [{ tensor: 'matmul', statistic: 'min-max' }] as const;

test.each<[string, () => Promise<unknown>]>([
  ['batching', () => batchesFor(large(), samples, 4, runtime)],
  ['calibrating', () => calibrate(large(), samples, needs, runtime)],
  ['comparing', () => compare(large(), small(), samples, runtime)],
  ['comparing with it', () => compare(small(), large(), samples, runtime)],
  ['quantizing with samples', () => quantizeModel(large(), { calibration: samples }, runtime)],
])('%s', async (_, run) => {
  await expect(run()).rejects.toMatchObject({
    code: 'unsupported',
    message:
      'model: expected less than 2 GiB of tensors to run it on samples, got 2147483648 bytes, which halftone cannot run yet; ' +
      'quantize its weights without samples, and compare both models in the program that runs them',
  });
});
