/** Gradients of Resize, against differences. */
import { describe, test } from 'vitest';
import { checkOperator } from '../../../test/support/gradients.ts';
import { Tensor } from '../../tensor/tensor.ts';

const linear = { step: 0.5, tolerance: 1e-3 };
const scales = (...values: number[]) => ({ constant: Tensor.float32([values.length], values) });
const sizes = (...values: number[]) => ({ constant: Tensor.int64([values.length], values) });

describe.each(['half_pixel', 'pytorch_half_pixel', 'asymmetric', 'align_corners'])('%s', (mode) => {
  const attributes = { coordinate_transformation_mode: mode };
  test.each(['linear', 'nearest'])('%s', async (interpolation) => {
    const both = { ...attributes, mode: interpolation };
    await checkOperator('Resize', [[1, 2, 3, 4], undefined, scales(1, 1, 2, 2)], both, linear);
    await checkOperator('Resize', [[2, 1, 4, 6], undefined, scales(1, 1, 0.5, 1.5)], both, linear);
    await checkOperator('Resize', [[1, 2, 3, 5], undefined, undefined, sizes(1, 2, 7, 3)], both, linear);
  });
  test.each(['round_prefer_floor', 'round_prefer_ceil', 'floor', 'ceil'])('nearest, %s', async (nearest_mode) => {
    const all = { ...attributes, mode: 'nearest', nearest_mode };
    await checkOperator('Resize', [[1, 2, 3, 4], undefined, scales(1, 1, 2, 1.5)], all, linear);
  });
});
