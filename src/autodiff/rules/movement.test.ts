/** Gradients of operators that move elements, against differences. */
import { describe, expect, test } from 'vitest';
import { addInput, addNode, emptyModel } from '../../../test/support/before-after.ts';
import { checkOperator, expectGradients, gaussian } from '../../../test/support/gradients.ts';
import { Tensor } from '../../tensor/tensor.ts';

const ints = (...values: number[]) => ({ constant: Tensor.int64([values.length], values) });
const table = (shape: number[], ...values: number[]) => ({ constant: Tensor.int64(shape, values) });
/** Movements are linear: a wide step, whose difference is exact but for rounding. */
const linear = { step: 0.5, tolerance: 1e-3 };

test('shapes', async () => {
  await checkOperator('Reshape', [[2, 3, 4], ints(4, -1)], {}, linear);
  await checkOperator('Flatten', [[2, 3, 4]], { axis: 2 }, linear);
  await checkOperator('Squeeze', [[2, 1, 3, 1], ints(1, -1)], {}, linear);
  await checkOperator('Unsqueeze', [[2, 3], ints(0, -1)], {}, linear);
  await checkOperator('Transpose', [[2, 3, 4]], {}, linear);
  await checkOperator('Transpose', [[2, 3, 4, 2]], { perm: [2, 0, 3, 1] }, linear);
  await checkOperator('Expand', [[3, 1], ints(2, 1, 4)], {}, linear);
  await checkOperator('Tile', [[2, 3], ints(3, 2)], {}, linear);
});

test('Concat', async () => {
  await checkOperator(
    'Concat',
    [
      [2, 3],
      [2, 1],
      [2, 2],
    ],
    { axis: 1 },
    linear,
  );
  await checkOperator('Concat', [[2, 3], { constant: gaussian([1, 3]) }, [4, 3]], { axis: -2 }, linear);
});

test('Split, of which one part is used', async () => {
  for (const index of [0, 1, 2]) {
    await checkOperator('Split', [[2, 6, 2], ints(1, 2, 3)], { axis: 1 }, { ...linear, output: [index, 3] });
  }
});

describe('Slice', () => {
  const big = Number.MAX_SAFE_INTEGER;
  test.each<[string, number[], number[], number[]?, number[]?]>([
    ['first axes', [1, 0], [3, 2]],
    ['from the end', [-2], [big], [-1]],
    ['beyond the ends', [-big, 2], [2, big], [1, 2]],
    ['steps', [1, 0], [6, 5], [1, 2], [2, 3]],
    ['backwards', [-1], [-big], [1], [-1]],
    ['backwards in steps', [4, big], [0, -big], [1, 2], [-3, -2]],
  ])('%s', async (_, starts, ends, axes, steps) => {
    const rest = [axes && ints(...axes), steps && ints(...steps)];
    await checkOperator('Slice', [[3, 6, 5], ints(...starts), ints(...ends), ...rest], {}, linear);
  });

  test('with bounds that are computed', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [4, 3]);
    const start = addInput(model, 'start', [1], 'int64');
    const end = model.graph.addInitializer('end', Tensor.int64([1], [4]));
    model.graph.outputs.push(addNode(model, 'Slice', [x, start, end]));
    await expectGradients(model, [x], { x: gaussian([4, 3]), start: Tensor.int64([1], [1]) }, linear);
  });
});

describe.each([15, 16])('Gather with operator set %i', (opset) => {
  test.each<[number[], ReturnType<typeof table>, number]>([
    [[5, 3], table([4], 0, 3, 3, -1), 0],
    [[5, 3], table([2, 2], 4, 1, -2, 1), 0],
    [[2, 5, 3], table([3], 2, 0, 2), 1],
    [[2, 3, 4], table([1, 2], 3, 3), -1],
    [[2, 5, 3], table([], -2), 1],
    [[2, 5, 3], table([1], 4), 1],
  ])('%j, case %#', async (shape, indices, axis) => {
    await checkOperator('Gather', [shape, indices], { axis }, { ...linear, opset });
  });
});

test('GatherElements and GatherND', async () => {
  await checkOperator('GatherElements', [[3, 4], table([2, 4], 0, 2, 1, 1, 0, 0, -1, 1)], { axis: 0 }, linear);
  await checkOperator('GatherND', [[3, 4, 2], table([3, 2], 0, 1, 2, 3, 0, 1)], {}, linear);
});

test('Pad', async () => {
  await checkOperator('Pad', [[2, 3, 4], ints(0, 1, 2, 1, 0, 3)], {}, linear);
  await checkOperator('Pad', [[2, 3, 4], ints(0, -1, 2, 1, 0, -2), { constant: Tensor.float32([], [3]) }], {}, linear);
  await checkOperator('Pad', [[2, 3, 4], ints(1, 2, 0, 1), undefined, ints(-1, 0)], {}, linear);
  await expect(checkOperator('Pad', [[2, 3], ints(0, 1, 0, 1)], { mode: 'reflect' })).rejects.toThrow(
    'expected mode "constant" for a gradient, got "reflect"',
  );
});
