/** Weights inside local functions are found, and plans list them as left. */
import { create, toBinary } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { makePlan } from '../../pipeline/plan.ts';
import { makeRecipe } from '../../pipeline/recipe.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { functionWeights } from './functions.ts';
import { ModelProtoSchema } from './generated/onnx_pb.ts';
import { readOnnx } from './read.ts';
import { writeTensorProto } from './tensor-proto.ts';

function constant(name: string, tensor: Tensor) {
  return {
    opType: 'Constant',
    output: [name],
    attribute: [{ name: 'value', type: 4, t: writeTensorProto(tensor, { name: '', unknown: undefined }) }],
  };
}

const bytes = toBinary(
  ModelProtoSchema,
  create(ModelProtoSchema, {
    irVersion: 8n,
    opsetImport: [
      { domain: '', version: 17n },
      { domain: 'own', version: 1n },
    ],
    graph: {
      name: 'main',
      node: [{ opType: 'Scale', domain: 'own', input: ['x'], output: ['y'] }],
      input: [{ name: 'x' }],
      output: [{ name: 'y' }],
    },
    functions: [
      {
        name: 'Scale',
        domain: 'own',
        opsetImport: [{ domain: '', version: 17n }],
        node: [
          constant('w', Tensor.float32([2, 3], [1, 2, 3, 4, 5, 6])),
          constant('shape', Tensor.int64([2], [2, 3])),
          { opType: 'MatMul', input: ['x', 'w'], output: ['y'] },
        ],
      },
    ],
  }),
);

test('float constants of functions are weights, others are not', () => {
  expect(functionWeights(readOnnx(bytes))).toEqual([{ function: 'Scale', tensor: 'w', shape: [2, 3], bytes: 24 }]);
});

test('a plan lists them as left, and notes it', () => {
  const { plan } = makePlan(readOnnx(bytes), makeRecipe({}, false));
  expect(plan.weights).toMatchObject([{ tensor: 'Scale/w', users: ['function "Scale"'], predictedBytes: 24 }]);
  expect(plan.weights[0].quantize).toBeUndefined();
  expect(plan.notes.join()).toMatch(/1 weights inside local functions/);
});
