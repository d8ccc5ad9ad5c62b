/** Gradients of pooling, against differences. */
import { describe, expect, test } from 'vitest';
import { checkOperator } from '../../../test/support/gradients.ts';
import type { AttributeInput } from '../../graph/attribute.ts';

const cases: [string, number[], Record<string, AttributeInput>][] = [
  ['2×2', [2, 3, 6, 4], { kernel_shape: [2, 2], strides: [2, 2] }],
  ['overlapping', [2, 3, 6, 5], { kernel_shape: [3, 3], strides: [2, 2] }],
  ['padded', [1, 2, 6, 5], { kernel_shape: [3, 3], strides: [1, 2], pads: [1, 1, 1, 1] }],
  ['unevenly padded', [1, 2, 6, 5], { kernel_shape: [3, 2], pads: [0, 1, 2, 0] }],
  ['rounded up', [1, 2, 6, 6], { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 }],
  ['SAME_UPPER', [1, 2, 6, 5], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: 'SAME_UPPER' }],
  ['1d', [2, 3, 8], { kernel_shape: [3], strides: [2] }],
  ['all', [2, 3, 4, 4], { kernel_shape: [4, 4] }],
];

describe('AveragePool', () => {
  test.each(cases)('%s', async (_, shape, attributes) => {
    await checkOperator('AveragePool', [shape], attributes);
    await checkOperator('AveragePool', [shape], { ...attributes, count_include_pad: 1 });
  });
  test('dilations', async () => {
    await checkOperator('AveragePool', [[1, 2, 7, 7]], { kernel_shape: [3, 2], dilations: [2, 3] }, { opset: 19 });
  });
});

describe('MaxPool', () => {
  test.each(cases)('%s', async (_, shape, attributes) => {
    await checkOperator('MaxPool', [shape], attributes, { step: 0.003 });
  });
  test('dilations', async () => {
    await checkOperator('MaxPool', [[1, 2, 7, 7]], { kernel_shape: [3, 2], dilations: [2, 3] }, { step: 0.003 });
  });
  test('needs operator set 16', async () => {
    await expect(checkOperator('MaxPool', [[1, 1, 4, 4]], { kernel_shape: [2, 2] }, { opset: 15 })).rejects.toThrow(
      'expected operator set 16 or later for a gradient, got 15',
    );
  });
});
