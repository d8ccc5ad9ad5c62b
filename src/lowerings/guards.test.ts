/** Layers that are to stay float, between pairs that ONNX Runtime would take for a reason to quantize them. */
import { describe, expect, test } from 'vitest';
import { decibels, run } from '../../test/support/lowered.ts';
import { Builder, executed, quantizeStatic, stepsApart } from '../../test/support/static.ts';
import type { Value } from '../graph/value.ts';
import type { QuantizeOptions } from '../pipeline/quantize.ts';
import { Tensor } from '../tensor/tensor.ts';

/** A weight whose rows differ so much in size that one scale for all of them ruins the small ones. */
function uneven(b: Builder, shape: readonly number[]): Value {
  const values = b.weight(shape).tensor?.floats() ?? new Float32Array();
  const perRow = values.length / shape[0];
  const sizes = values.map((value, index) => value * (Math.floor(index / perRow) % 2 === 0 ? 1 : 0.02));
  return b.graph.addInitializer('uneven', Tensor.float32(shape, sizes));
}

interface Case {
  readonly name: string;
  /** The layer that stays float, and what stands around it. */
  readonly layer: (b: Builder, x: Value) => Value;
  /** Whether ONNX Runtime would quantize it. */
  readonly guarded: boolean;
}

const image = [1, 4, 8, 8];
const pads = [1, 1, 1, 1];
const left = (b: Builder, x: Value, ...more: Value[]) => b.add('Conv', [x, uneven(b, [4, 4, 3, 3]), ...more], { pads });
const dense = (b: Builder, x: Value) =>
  b.add('Gemm', [asRows(b, x), uneven(b, [32, 32]), b.weight([32])], { transB: 1 });
const product = (b: Builder, x: Value) => b.add('MatMul', [asRows(b, x), uneven(b, [32, 32])]);
const asRows = (b: Builder, x: Value) => b.add('Reshape', [x, b.ints(8, 32)]);
const asImage = (b: Builder, x: Value) => b.add('Reshape', [x, b.ints(...image)]);
const both = (b: Builder) => [b.floats([], [0]), b.floats([], [6])];

const cases: readonly Case[] = [
  { name: 'Conv', layer: (b, x) => left(b, x), guarded: true },
  { name: 'Conv with a bias', layer: (b, x) => left(b, x, b.weight([4])), guarded: true },
  { name: 'Conv + Relu', layer: (b, x) => b.add('Relu', [left(b, x)]), guarded: true },
  { name: 'Conv + Clip', layer: (b, x) => b.add('Clip', [left(b, x), ...both(b)]), guarded: true },
  {
    name: 'Conv + Mul by a constant',
    layer: (b, x) => b.add('Mul', [left(b, x), b.weight([4, 1, 1])]),
    guarded: true,
  },
  {
    name: 'MaxPool + Conv',
    layer: (b, x) => left(b, b.add('MaxPool', [x], { kernel_shape: [2, 2] })),
    guarded: true,
  },
  {
    name: 'Conv + Transpose',
    layer: (b, x) => b.add('Transpose', [left(b, x)], { perm: [0, 1, 3, 2] }),
    guarded: true,
  },
  {
    name: 'ConvTranspose',
    layer: (b, x) => b.add('ConvTranspose', [x, uneven(b, [4, 4, 3, 3])]),
    guarded: true,
  },
  { name: 'Gemm', layer: (b, x) => asImage(b, dense(b, x)), guarded: true },
  { name: 'Gemm + Relu', layer: (b, x) => asImage(b, b.add('Relu', [dense(b, x)])), guarded: true },
  {
    name: 'MatMul + Add',
    layer: (b, x) => asImage(b, b.add('Add', [product(b, x), b.weight([32])])),
    guarded: true,
  },
  { name: 'MatMul', layer: (b, x) => asImage(b, product(b, x)), guarded: false },
  { name: 'Conv + Tanh', layer: (b, x) => b.add('Tanh', [left(b, x)]), guarded: false },
  {
    name: 'Conv read twice',
    layer: (b, x) => {
      const c = left(b, x);
      return b.add('Add', [c, b.add('Tanh', [c])]);
    },
    guarded: false,
  },
];

/** The layer between two others that are quantized. */
function network({ layer }: Case): Builder {
  const b = new Builder();
  const first = b.conv(b.input('x', image), 4, 4);
  return b.output(b.conv(layer(b, first), 4, 4));
}

/** What keeps the layer float: leaving it out, or giving it a weight that integer arithmetic does not take. */
const excluded: QuantizeOptions = { exclude: ['uneven*'] };
const inBlocks: QuantizeOptions = {
  rules: [{ match: { tensor: 'uneven*' }, use: { weights: 'int8:g8', lowering: 'fold-at-load' } }],
};

async function check(one: Case, options: QuantizeOptions) {
  const { model: float, graph } = network(one);
  const { model, feeds, report } = await quantizeStatic(float, options);
  const [{ name }] = graph.outputs;
  const step = report.plan.activations.find(({ tensor }) => tensor === name)?.scale ?? 0.01;
  // Rounded once more where integers and floats round differently, in both of the quantized layers.
  expect(await stepsApart(model, model, feeds, step)).toBeLessThanOrEqual(2.001);
  const results = await Promise.all(
    feeds.map(async (feed) => [(await run(float, feed))[name].floats(), (await run(model, feed))[name].floats()]),
  );
  const joined = (index: number) => Float32Array.from(results.flatMap((pair) => [...pair[index]]));
  const ran = [...(await executed(model)).nodes()];
  return { sqnr: decibels(joined(0), joined(1)), ran, guards: model.graph.nodes.filter(({ op }) => op === 'Max') };
}

describe.each(['uint8', 'int8', 'uint16', 'int16'] as const)('%s activations', (activations) => {
  test.each(cases)('$name stays float when excluded', async (one) => {
    const { sqnr, ran, guards } = await check(one, { activations, ...excluded });
    expect(guards).toHaveLength(one.guarded ? 1 : 0);
    expect(sqnr).toBeGreaterThan(activations.endsWith('16') ? 35 : 30);
    if (activations !== 'uint8') return;
    // The layers before and behind it have integer kernels, and only they.
    const kernels = ran.filter(({ op }) => ['QLinearConv', 'QGemm'].includes(op));
    expect(kernels).toHaveLength(2);
  });

  test.each(cases.filter(({ name }) => !name.startsWith('ConvTranspose')))(
    '$name stays float with a weight that is folded when the file is loaded',
    async (one) => {
      const { sqnr, guards } = await check(one, { activations, ...inBlocks });
      expect(guards).toHaveLength(one.guarded ? 1 : 0);
      expect(sqnr).toBeGreaterThan(30);
    },
  );
});

test('layers that read one value share its guard, and integer layers keep reading the value itself', async () => {
  const b = new Builder();
  const shared = b.conv(b.input('x', image), 4, 4);
  const sides = [left(b, shared), left(b, shared), b.conv(shared, 4, 4)];
  b.output(b.conv(b.add('Concat', sides, { axis: 1 }), 12, 4));
  const { model, feeds } = await quantizeStatic(b.model, excluded);
  expect(model.graph.nodes.filter(({ op }) => op === 'Max')).toHaveLength(1);
  expect(await stepsApart(model, model, feeds, 0.05)).toBeLessThanOrEqual(1.001);
});

test('a model whose layers are all quantized has no guards', async () => {
  const b = new Builder();
  b.output(b.conv(b.add('Relu', [b.conv(b.input('x', image), 4, 4)]), 4, 4));
  const { model } = await quantizeStatic(b.model);
  expect(model.graph.nodes.filter(({ op }) => op === 'Max')).toEqual([]);
});
