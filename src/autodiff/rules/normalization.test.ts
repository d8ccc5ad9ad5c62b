/** Gradients of Softmax and of normalizations, against differences. */
import { describe, expect, test } from 'vitest';
import { checkOperator } from '../../../test/support/gradients.ts';
import { Tensor } from '../../tensor/tensor.ts';

describe.each(['Softmax', 'LogSoftmax'])('%s', (op) => {
  test.each([[-1], [0], [1]])('axis %i', async (axis) => {
    await checkOperator(op, [[3, 4, 2]], { axis });
  });
});

describe.each([
  ['LayerNormalization', 17],
  ['SimplifiedLayerNormalization', 17],
  ['RMSNormalization', 23],
])('%s', (op, opset) => {
  const centered = op === 'LayerNormalization';
  test('last axis', async () => {
    await checkOperator(op, centered ? [[3, 4, 6], [6], [6]] : [[3, 4, 6], [6]], {}, { opset });
    await checkOperator(op, [[3, 6], [6]], { epsilon: { type: 'float', value: 0.3 } }, { opset });
  });
  test('several axes', async () => {
    await checkOperator(
      op,
      [
        [3, 4, 6],
        [4, 6],
      ],
      { axis: 1 },
      { opset },
    );
  });
});

test('LayerNormalization whose statistics are used', async () => {
  await expect(checkOperator('LayerNormalization', [[3, 6], [6]], {}, { output: [1, 2] })).rejects.toThrow(
    'only its first output',
  );
});

test('BatchNormalization', async () => {
  const statistics = [
    { constant: Tensor.float32([3], [0.3, -0.5, 0.1]) },
    { constant: Tensor.float32([3], [0.7, 1.5, 0.9]) },
  ];
  await checkOperator('BatchNormalization', [[2, 3, 4, 4], [3], [3], ...statistics]);
  await checkOperator('BatchNormalization', [[4, 3], [3], [3], ...statistics]);
});

test('InstanceNormalization', async () => {
  await checkOperator('InstanceNormalization', [[2, 3, 4, 4], [3], [3]]);
  await checkOperator('InstanceNormalization', [[2, 3, 7], [3], [3]]);
});
