/** Gradients of reductions, against differences. */
import { describe, test } from 'vitest';
import { checkOperator } from '../../../test/support/gradients.ts';
import { Tensor } from '../../tensor/tensor.ts';

const axesInput = (...axes: number[]) => ({ constant: Tensor.int64([axes.length], axes) });

describe.each(['ReduceSum', 'ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceL2', 'ReduceSumSquare'])('%s', (op) => {
  test('axes as input', async () => {
    for (const keepdims of [0, 1]) {
      await checkOperator(op, [[2, 3, 4], axesInput(1)], { keepdims }, { step: 0.003 });
      await checkOperator(op, [[2, 3, 4], axesInput(-1, 0)], { keepdims }, { step: 0.003 });
      await checkOperator(op, [[2, 3, 4]], { keepdims }, { step: 0.003 });
    }
  });

  test('axes as attribute', async () => {
    if (op === 'ReduceSum') return;
    await checkOperator(op, [[2, 3, 4]], { axes: [-2], keepdims: 0 }, { opset: 13, step: 0.003 });
  });
});

test('no axes', async () => {
  await checkOperator('ReduceSum', [[2, 3, 4]], { noop_with_empty_axes: 1 });
});

test.each(['GlobalAveragePool', 'GlobalMaxPool'])('%s', async (op) => {
  await checkOperator(op, [[2, 3, 4, 5]], {}, { step: 0.003 });
  await checkOperator(op, [[2, 3, 7]], {}, { step: 0.003 });
});
