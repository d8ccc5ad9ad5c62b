/** Functions behind layers: their values as ONNX Runtime computes them, and their slopes. */
import { expect, test } from 'vitest';
import { run } from '../../test/support/lowered.ts';
import { Builder } from '../../test/support/static.ts';
import type { AttributeInput } from '../graph/attribute.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { functionBehind } from './activation-functions.ts';

const functions: [string, Record<string, AttributeInput>, ((b: Builder) => Value[])?][] = [
  ['Relu', {}],
  ['LeakyRelu', { alpha: { type: 'float', value: 0.2 } }],
  ['LeakyRelu', {}],
  ['Clip', {}, (b) => [b.floats([], [-1]), b.floats([], [4])]],
  ['HardSwish', {}],
  ['Sigmoid', {}],
  ['Tanh', {}],
];
// Between the places where slopes change.
const points = Float32Array.from({ length: 41 }, (_, index) => (index - 20) * 0.25 + 0.05);

test.each(functions)('%s %o', async (op, attributes, more) => {
  const b = new Builder();
  const x = b.input('x', [points.length]);
  const { model } = b.output(b.add(op, [x, ...(more?.(b) ?? [])], attributes));
  const found = functionBehind(x);
  expect(found?.tensor).toBe(model.graph.outputs[0].name);
  const made = (await run(model, { x: Tensor.float32([points.length], points) }))[model.graph.outputs[0].name].floats();
  points.forEach((point, index) => {
    expect(found?.of(point)).toBeCloseTo(made[index], 5);
    const rise = ((found?.of(point + 1e-4) ?? 0) - (found?.of(point - 1e-4) ?? 0)) / 2e-4;
    expect(found?.slope(point)).toBeCloseTo(rise, 4);
  });
});

test('a result that others read, too, is as it is', () => {
  const b = new Builder();
  const x = b.input('x', [4]);
  b.output(b.add('Relu', [x]), b.add('Tanh', [x]));
  expect(functionBehind(x)).toBeUndefined();
});

test('other operators, and bounds that are computed, are not known', () => {
  const b = new Builder();
  const [x, y] = [b.input('x', [4]), b.input('y', [4])];
  b.output(b.add('Softmax', [x]), b.add('Clip', [y, b.input('low', [])]));
  expect([functionBehind(x), functionBehind(y)]).toEqual([undefined, undefined]);
});
