/** Static quantization as pairs: what ONNX Runtime fuses of it, and that the integers compute what the pairs say. */
import { describe, expect, test } from 'vitest';
import { decibels, run } from '../../test/support/lowered.ts';
import { executedOps, quantizeStatic, stepsApart } from '../../test/support/static.ts';
import { build, fusedCases, type StaticCase, unfusedCases } from '../../test/support/static-cases.ts';
import { formatOf } from '../formats/index.ts';
import type { QuantizeOptions } from '../pipeline/quantize.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Conversions at the edges, and changes of memory layout that depend on the machine. */
const aside = ['QuantizeLinear', 'DequantizeLinear', 'Transpose', 'ReorderInput', 'ReorderOutput'];
/** int8 activations all stay int8 only with this option. */
const int8Allowed = { config: { 'session.qdqisint8allowed': '1' } };

/** The largest distance of neighbouring numbers in a format, in scales. */
function widestStep(id: string): number {
  const format = formatOf(id);
  if (format.kind !== 'levels') return 1;
  const levels = [...format.levels].filter((level) => !Number.isNaN(level)).sort((a, b) => b - a);
  return levels[0] - levels[1];
}

async function check(one: StaticCase, options: QuantizeOptions = {}) {
  const b = build(one);
  const { model, report, feeds } = await quantizeStatic(b.model, options);
  const [output] = b.graph.outputs;
  expect(model.graph.inputs.map(({ name, type }) => [name, type?.dtype])).toEqual([['x', 'float32']]);
  expect(model.graph.outputs.map(({ name, type }) => [name, type?.dtype])).toEqual([[output.name, 'float32']]);
  // Without a quantized result the output differs by what float sums differ, and by steps inside.
  const scale = report.plan.activations.find(({ tensor }) => tensor === output.name)?.scale;
  const step = scale === undefined ? 0.02 : scale * widestStep(report.plan.recipe.activations);
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
  ['float8e4m3fn', { activations: 'float8e4m3fn' }, 20],
  ['float8e5m2', { activations: 'float8e5m2' }, 14],
  ['float8e4m3fnuz', { activations: 'float8e4m3fnuz' }, 20],
  ['float8e5m2fnuz', { activations: 'float8e5m2fnuz' }, 14],
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

describe('float8 activations', () => {
  const relus: StaticCase = {
    name: 'Conv + Relu + Conv',
    shape: [1, 4, 8, 8],
    body: (b, x) => b.conv(b.add('Relu', [b.conv(x, 4, 4)]), 4, 4),
    runs: [],
  };

  test.each<[QuantizeOptions, number]>([
    [{ activations: 'float8e4m3fn' }, 448],
    [{ activations: 'float8e5m2' }, 57344],
  ])('%o: the largest number stands for the largest value, and a Relu stays', async (options, largest) => {
    const b = build(relus);
    const { model, report, feeds } = await quantizeStatic(b.model, options);
    const seen = Math.max(...feeds.flatMap((feed) => [...feed.x.floats()].map(Math.abs)));
    const input = report.plan.activations.find(({ tensor }) => tensor === 'x');
    expect(input).toMatchObject({ range: 'min-max', symmetric: true, zeroPoint: 0 });
    expect(input?.scale).toBe(Math.fround(seen / largest));
    expect(model.opset).toBe(19);
    expect(model.graph.nodes.map(({ op }) => op)).toContain('Relu');
    const [result] = Object.values(await run(model, feeds[0]));
    const scale = report.plan.activations.find(({ tensor }) => tensor === b.graph.outputs[0].name)?.scale ?? 0;
    const format = formatOf(options.activations ?? '');
    const levels = format.kind === 'levels' ? format.levels.map((level) => Math.fround(level * scale)) : [];
    for (const value of result.floats()) expect(levels).toContain(value);
    expect(report.notes.join()).toContain(`no arithmetic for ${options.activations}`);
  });

  test.each(['int8', 'int4:g32', 'float8e4m3fn', 'uint4:channel'])(
    'weights %s are folded, never pairs',
    async (weights) => {
      const b = build({
        shape: [2, 64],
        body: (b, x) =>
          b.add('MatMul', [b.add('Relu', [b.add('MatMul', [x, b.weight([64, 64])])]), b.weight([64, 64])]),
      });
      const { report, model, feeds } = await quantizeStatic(b.model, {
        activations: 'float8e4m3fn',
        weights,
        uniform: true,
      });
      expect(report.plan.weights.map(({ quantize }) => quantize?.lowering)).toEqual(['fold-at-load', 'fold-at-load']);
      expect(report.plan.integerNodes).toHaveLength(2);
      const ran = await executedOps(model);
      expect(ran.filter((op) => op.includes('MatMul'))).toEqual(['MatMul', 'MatMul']);
      expect(ran).not.toContain('MatMulNBits');
      expect(await stepsApart(model, model, feeds, 0.01)).toBeLessThan(1);
    },
  );
});
