/** Gradients of matrix products, against differences. */
import { describe, test } from 'vitest';
import { checkOperator } from '../../../test/support/gradients.ts';

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
  ])('%j', async (shapes) => {
    await checkOperator('MatMul', shapes);
  });
});

describe('Gemm', () => {
  const factors = { alpha: { type: 'float', value: 0.5 }, beta: { type: 'float', value: 2 } } as const;
  test.each([
    [[3, 4], [4, 5], 0, 0],
    [[4, 3], [4, 5], 1, 0],
    [[3, 4], [5, 4], 0, 1],
    [[4, 3], [5, 4], 1, 1],
  ])('%j by %j, transA %i, transB %i', async (a, b, transA, transB) => {
    await checkOperator('Gemm', [a, b], { transA, transB });
    for (const c of [[], [5], [3, 1], [3, 5]]) {
      await checkOperator('Gemm', [a, b, c], { transA, transB, ...factors });
    }
  });
});
