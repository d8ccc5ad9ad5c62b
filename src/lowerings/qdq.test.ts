/** Static quantization as pairs: what ONNX Runtime fuses of it, and that the integers compute what the pairs say. */
import { describe, expect, test } from 'vitest';
import { decibels, run } from '../../test/support/lowered.ts';
import { executedOps, quantizeStatic, stepsApart } from '../../test/support/static.ts';
import { build, fusedCases, type StaticCase, unfusedCases } from '../../test/support/static-cases.ts';
import type { QuantizeOptions } from '../pipeline/quantize.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Conversions at the edges, and changes of memory layout that depend on the machine. */
const aside = ['QuantizeLinear', 'DequantizeLinear', 'Transpose', 'ReorderInput', 'ReorderOutput'];
/** int8 activations all stay int8 only with this option. */
const int8Allowed = { config: { 'session.qdqisint8allowed': '1' } };

async function check(one: StaticCase, options: QuantizeOptions = {}) {
  const b = build(one);
  const { model, report, feeds } = await quantizeStatic(b.model, options);
  const [output] = b.graph.outputs;
  expect(model.graph.inputs.map(({ name, type }) => [name, type?.dtype])).toEqual([['x', 'float32']]);
  expect(model.graph.outputs.map(({ name, type }) => [name, type?.dtype])).toEqual([[output.name, 'float32']]);
  // Without a quantized result the output differs by what float sums differ, and by steps inside.
  const step = report.plan.activations.find(({ tensor }) => tensor === output.name)?.scale ?? 0.02;
  expect(await stepsApart(model, model, feeds, step)).toBeLessThanOrEqual(1.001);
  const options8 = options.activations === 'int8' ? int8Allowed : {};
  const ran = await executedOps(model, options8);
  const results = { expected: [] as Tensor[], found: [] as Tensor[] };
  for (const feed of feeds) {
    results.expected.push((await run(b.model, feed))[output.name]);
    results.found.push((await run(model, feed))[output.name]);
  }
  const floats = (list: readonly Tensor[]) => Float32Array.from(list.flatMap((tensor) => [...tensor.floats()]));
  return { ran, sqnr: decibels(floats(results.expected), floats(results.found)) };
}

const without = (ran: readonly string[]) =>
  ran.map((op) => (op === 'NhwcMaxPool' ? 'MaxPool' : op)).filter((op) => !aside.includes(op));

describe('uint8 activations, int8 weights per channel', () => {
  test.each(fusedCases)('$name runs in integers', async (one) => {
    const { ran, sqnr } = await check(one);
    expect(without(ran)).toEqual(one.runs);
    // Nothing is dequantized but the output.
    expect(ran.filter((op) => op === 'DequantizeLinear').length).toBeLessThanOrEqual(1);
    expect(sqnr).toBeGreaterThan(28);
  });

  test.each(unfusedCases)('$name stays float, and is right', async (one) => {
    const { ran, sqnr } = await check(one);
    expect(without(ran)).toEqual(one.runs);
    expect(ran.filter((op) => op === 'DequantizeLinear').length).toBeGreaterThan(1);
    expect(sqnr).toBeGreaterThan(28);
  });

  test('ConvTranspose: weights fold at load, and it runs in float', async () => {
    const { ran, sqnr } = await check({
      name: 'ConvTranspose',
      shape: [1, 16, 8, 8],
      body: (b, x) => b.add('ConvTranspose', [b.conv(x, 16, 16), b.weight([16, 8, 3, 3]), b.weight([8])]),
      runs: [],
    });
    expect(without(ran)).toEqual(['ConvTranspose', 'QLinearConv']);
    expect(sqnr).toBeGreaterThan(28);
  });
});

const pick = (...names: string[]) => fusedCases.filter(({ name }) => names.includes(name));
const layers = pick('Conv + Relu', 'depthwise Conv', 'Gemm + Relu + Gemm', 'MatMul + MatMul', 'Add + Relu', 'Pad');

describe.each<[string, QuantizeOptions, number]>([
  ['uint8 weights', { weights: 'uint8' }, 28],
  ['int8 weights per tensor', { weights: 'int8:tensor' }, 28],
  ['asymmetric int8 weights', { weights: 'int8:channel:asym' }, 28],
  ['asymmetric uint8 weights per tensor', { weights: 'uint8:tensor:asym' }, 28],
  ['int4 weights', { weights: 'int4:channel' }, 12],
  ['uint4 weights', { weights: 'uint4:channel:asym', uniform: true }, 12],
  ['int5 weights per tensor', { weights: 'int5:tensor', uniform: true }, 15],
  ['int2 weights', { weights: 'int2', uniform: true }, 2],
  ['weights of reduced range', { reduceRange: true }, 26],
  ['int8 activations', { activations: 'int8' }, 28],
  ['symmetric int8 activations', { activations: 'int8', symmetricActivations: true }, 25],
  ['int8 activations, uint8 weights', { activations: 'int8', weights: 'uint8' }, 28],
  ['int8 activations, uint4 weights', { activations: 'int8', weights: 'uint4:channel:asym', uniform: true }, 12],
])('%s', (_, options, floor) => {
  test.each(layers)('$name runs in integers', async (one) => {
    const { ran, sqnr } = await check(one, { activations: 'uint8', ...options });
    expect(without(ran)).toEqual(one.runs);
    expect(sqnr).toBeGreaterThan(floor);
  });
});

describe.each<[string, QuantizeOptions, number]>([
  ['uint16', { activations: 'uint16' }, 35],
  ['int16', { activations: 'int16' }, 35],
  ['uint4', { activations: 'uint4' }, 8],
  ['int4', { activations: 'int4' }, 8],
  ['uint2', { activations: 'uint2' }, -6],
  ['int2', { activations: 'int2' }, -6],
])('%s activations', (_, options, floor) => {
  const cases = [
    ...pick('Concat of a Relu and none', 'MaxPool', 'Squeeze, Unsqueeze', 'MatMul of two activations'),
    ...layers,
  ];
  test.each(cases)('$name: load and simulate', async (one) => {
    const { ran, sqnr } = await check(one, options);
    expect(ran.some((op) => op.startsWith('Q') && op !== 'QuantizeLinear')).toBe(false);
    expect(ran).toContain('QuantizeLinear');
    expect(sqnr).toBeGreaterThan(floor);
  });
});
