/** The integer-only form: no pairs are left, and it computes what the form with pairs does. */
import { describe, expect, test } from 'vitest';
import { quantizeStatic, stepsApart } from '../../test/support/static.ts';
import { build, fusedCases, unfusedCases } from '../../test/support/static-cases.ts';
import type { QuantizeOptions } from '../pipeline/quantize.ts';

const variants: [string, QuantizeOptions][] = [
  ['uint8 activations', { activations: 'uint8' }],
  ['int8 activations, asymmetric weights', { activations: 'int8', weights: 'int8:channel:asym' }],
  [
    'uint8 activations, 4-bit weights per tensor',
    { activations: 'uint8', weights: 'uint4:tensor:asym', uniform: true },
  ],
];

describe.each(variants)('%s', (_, options) => {
  test.each(fusedCases)('$name: integers from end to end', async (one) => {
    const b = build(one);
    const { model, report, feeds } = await quantizeStatic(b.model, { ...options, lowering: 'qoperator' });
    const pairs = await quantizeStatic(b.model, { ...options, lowering: 'qdq' });
    // Codes are made once, from the input, and turned back once, for the output; nothing in between.
    const ends = model.graph.nodes.filter((node) => node.is('QuantizeLinear', 'DequantizeLinear'));
    for (const node of ends) {
      if (node.op === 'QuantizeLinear') expect(node.input(0).isGraphInput, node.label).toBe(true);
      else expect(node.output().isGraphOutput, node.label).toBe(true);
    }
    const left = model.graph.nodes.filter((node) =>
      node.is('Conv', 'Gemm', 'MatMul', 'Add', 'Mul', 'Concat', 'Softmax'),
    );
    // Without an activation input of its own, a node between packed codes and integers belongs to a weight.
    expect(left.filter((node) => !node.output().name.includes('w')).map((node) => node.label)).toEqual([]);
    expect(report.notes.filter((note) => note.includes('runs in float'))).toEqual([]);
    expect(model.opsets.get('com.microsoft') ?? 1).toBe(1);
    const step = report.plan.activations.find(({ tensor }) => tensor === b.graph.outputs[0].name)?.scale ?? 0.02;
    expect(await stepsApart(model, pairs.model, feeds, step)).toBeLessThanOrEqual(1.001);
    expect(await stepsApart(model, model, feeds, step)).toBeLessThanOrEqual(0.001);
  });
});

test.each(unfusedCases.filter(({ name }) => name.startsWith('Resize')))('$name stays float, said so', async (one) => {
  const b = build(one);
  const { model, report, feeds } = await quantizeStatic(b.model, { lowering: 'qoperator' });
  const pairs = await quantizeStatic(b.model, { lowering: 'qdq' });
  const step = report.plan.activations.find(({ tensor }) => tensor === b.graph.outputs[0].name)!.scale!;
  expect(await stepsApart(model, pairs.model, feeds, step)).toBeLessThanOrEqual(1.001);
  expect(report.notes.join()).toContain('Resize "resize_node" has no integer operator and runs in float');
});

test('activations of other widths have no integer operators', async () => {
  const b = build(fusedCases[0]);
  await expect(quantizeStatic(b.model, { lowering: 'qoperator', activations: 'uint16' })).rejects.toThrow(
    'lowering qoperator: expected uint8 or int8 activations, got "uint16"',
  );
});
