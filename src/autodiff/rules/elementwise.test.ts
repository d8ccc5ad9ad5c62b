/** Gradients of elementwise operators, against differences, at points away from their kinks. */
import { describe, expect, test } from 'vitest';
import { addInput, addNode, emptyModel } from '../../../test/support/before-after.ts';
import { checkOperator, gaussian, type OperatorInput } from '../../../test/support/gradients.ts';
import type { AttributeInput } from '../../graph/attribute.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { addGradients } from '../index.ts';

const shape = [3, 4];
/** Numbers around 0, at least 0.03 from every half and every tenth: no kink of an operator lies nearer. */
const scattered = Tensor.float32(
  [4, 10],
  Array.from({ length: 40 }, (_, i) => ((i * 7) % 40) / 5 - 3.93),
);
const positive = Tensor.float32(
  shape,
  gaussian(shape)
    .floats()
    .map((x) => Math.abs(x) + 0.5),
);
const float = (value: number) => ({ type: 'float', value }) as const;
const constant = (tensorShape: number[], ...numbers: number[]) => ({ constant: Tensor.float32(tensorShape, numbers) });

describe('one input', () => {
  test.each<[string, Tensor, Record<string, AttributeInput>?, string?]>([
    ['Abs', scattered],
    ['Clip', scattered],
    ['Cos', scattered],
    ['Dropout', scattered],
    ['Elu', scattered, { alpha: float(0.7) }],
    ['Erf', scattered],
    ['Exp', gaussian(shape)],
    ['Gelu', scattered],
    ['Gelu', scattered, { approximate: 'tanh' }],
    ['Gelu', scattered, {}, 'com.microsoft'],
    ['HardSigmoid', scattered],
    ['HardSigmoid', scattered, { alpha: float(0.4), beta: float(0.3) }],
    ['HardSwish', scattered],
    ['Identity', scattered],
    ['LeakyRelu', scattered],
    ['LeakyRelu', scattered, { alpha: float(0.3) }],
    ['Log', positive],
    ['Neg', scattered],
    ['QuickGelu', scattered, { alpha: float(1.2) }, 'com.microsoft'],
    ['Reciprocal', positive],
    ['Relu', scattered],
    ['Round', scattered],
    ['Sigmoid', scattered],
    ['Sign', scattered],
    ['Sin', scattered],
    ['Softplus', scattered],
    ['Sqrt', positive],
    ['Tanh', scattered],
  ])('%s', async (op, x, attributes = {}, domain = '') => {
    await checkOperator(op, [x], attributes, { opset: 20, domain, elements: 40 });
  });

  test('casts to another float and back', async () => {
    const model = emptyModel(18);
    const x = addInput(model, 'x', shape, 'float16');
    const y = addNode(model, 'Cast', [x], { to: 1 });
    const seed = addInput(model, 'seed', shape);
    const gradient = addGradients({ model, output: y, seed, inputs: [x], shapes: new Map([['y', shape]]) }).get(x)!;
    expect(gradient.type?.dtype).toBe('float16');
    expect(gradient.producer?.op).toBe('Cast');
  });
});

describe('several inputs, broadcast', () => {
  const pairs: [number[], number[]][] = [
    [
      [3, 4],
      [3, 4],
    ],
    [[3, 4], [4]],
    [
      [3, 1],
      [2, 1, 4],
    ],
    [[], [2, 3]],
    [[2, 3], [1]],
  ];
  test.each(['Add', 'Sub', 'Mul', 'Max', 'Min', 'Sum'])('%s', async (op) => {
    for (const inputs of pairs) await checkOperator(op, inputs, {}, { step: 0.003 });
  });

  test.each<[string, OperatorInput[], Record<string, AttributeInput>?]>([
    ['Div', [shape, positive]],
    ['Div', [[2, 3, 4], { constant: positive }]],
    ['Pow', [positive, constant([], 2)]],
    ['Pow', [positive, constant([4], 3, 0.5, -1, 1)]],
    ['Pow', [positive, { constant: Tensor.int64([], [3]) }]],
    ['PRelu', [scattered, [10]]],
    ['PRelu', [scattered, [1]]],
    ['Clip', [scattered, constant([], -1), constant([], 2)]],
    ['Clip', [scattered, undefined, constant([], 1)]],
    ['Clip', [scattered, Tensor.float32([], [-1]), Tensor.float32([], [2])]],
    ['Max', [scattered, constant([], 1)]],
    ['Min', [constant([10], 0, 1, 2, 3, 0, 0, 1, 2, 3, 0), scattered]],
    ['Sum', [[3], [2, 3], [2, 1]]],
    ['Where', [{ constant: new Tensor('bool', [3, 1], Uint8Array.of(1, 0, 1)) }, [3, 4], [4]]],
  ])('%s, case %#', async (op, inputs, attributes) => {
    await checkOperator(op, inputs, attributes, { elements: 40 });
  });

  test('a value times and divided by itself', async () => {
    for (const op of ['Mul', 'Add', 'Div']) {
      const model = emptyModel(18);
      const x = addInput(model, 'x', shape);
      model.graph.outputs.push(addNode(model, op, [x, x]));
      const { expectGradients } = await import('../../../test/support/gradients.ts');
      await expectGradients(model, [x], { x: positive });
    }
  });

  test('of three candidates for the largest, and of variable exponents, nothing is known', async () => {
    await expect(checkOperator('Max', [[2], [2], [2]])).rejects.toThrow('at most two inputs');
    await expect(checkOperator('Pow', [positive, shape])).rejects.toThrow('an exponent that is not differentiated');
  });
});
