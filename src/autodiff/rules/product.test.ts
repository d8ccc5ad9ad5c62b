/** Gradients of matrix products, against differences. */
import { describe, test } from 'vitest';
import { addInput, addNode, emptyModel } from '../../../test/support/before-after.ts';
import { expectGradients, gaussian } from '../../../test/support/gradients.ts';
import type { AttributeInput } from '../../graph/attribute.ts';

type Attributes = Readonly<Record<string, AttributeInput>>;

async function check(op: string, shapes: readonly (readonly number[])[], attributes: Attributes = {}): Promise<void> {
  const model = emptyModel(13);
  const inputs = shapes.map((shape, index) => addInput(model, `x${index}`, shape));
  model.graph.outputs.push(addNode(model, op, inputs, attributes));
  const feeds = Object.fromEntries(shapes.map((shape, index) => [`x${index}`, gaussian(shape, index + 1)]));
  await expectGradients(model, inputs, feeds);
}

describe('MatMul', () => {
  test.each([
    [
      [
        [3, 4],
        [4, 5],
      ],
    ],
    [
      [
        [2, 3, 4],
        [4, 5],
      ],
    ],
    [
      [
        [3, 4],
        [2, 4, 5],
      ],
    ],
    [
      [
        [2, 1, 3, 4],
        [5, 4, 2],
      ],
    ],
    [
      [
        [1, 3, 4],
        [2, 4, 5],
      ],
    ],
    [[[4], [4]]],
    [[[4], [2, 4, 3]]],
    [[[2, 3, 4], [4]]],
  ])('%j', (shapes) => check('MatMul', shapes));
});

describe('Gemm', () => {
  const factors = { alpha: { type: 'float', value: 0.5 }, beta: { type: 'float', value: 2 } } as const;
  test.each([
    [[3, 4], [4, 5], 0, 0],
    [[4, 3], [4, 5], 1, 0],
    [[3, 4], [5, 4], 0, 1],
    [[4, 3], [5, 4], 1, 1],
  ])('%j by %j, transA %i, transB %i', async (a, b, transA, transB) => {
    await check('Gemm', [a, b], { transA, transB });
    for (const c of [[], [5], [3, 1], [3, 5]]) await check('Gemm', [a, b, c], { transA, transB, ...factors });
  });
});
