/** Graphs that are easy to quantize wrongly: shared values, shared weights, Relus that may not go, biases that overflow. */
import { describe, expect, test } from 'vitest';
import { decibels, run } from '../../test/support/lowered.ts';
import { Builder, executedOps, quantizeStatic, type StaticResult, stepsApart } from '../../test/support/static.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { QuantizeOptions } from '../pipeline/quantize.ts';
import { Tensor } from '../tensor/tensor.ts';

const image = [1, 4, 8, 8];

/** Quantizes what `body` makes of an image; every output must be close to float, and to the simulation. */
async function check(
  body: (b: Builder, x: Value) => Value | readonly Value[],
  options: QuantizeOptions = {},
  { floor = 25, shape = image }: { floor?: number; shape?: readonly number[] } = {},
): Promise<StaticResult & { readonly ran: readonly string[]; readonly builder: Builder }> {
  const builder = new Builder();
  const made = body(builder, builder.input('x', shape));
  builder.output(...(Array.isArray(made) ? made : [made as Value]));
  const result = await quantizeStatic(builder.model, options);
  const { model, report, feeds } = result;
  const names = builder.graph.outputs.map(({ name }) => name);
  expect(model.graph.outputs.map(({ name }) => name)).toEqual(names);
  const step = Math.max(0.01, ...report.plan.activations.filter((a) => names.includes(a.tensor)).map((a) => a.scale!));
  expect(await stepsApart(model, model, feeds, step)).toBeLessThanOrEqual(1.001);
  for (const name of names) {
    const floats = async (of: typeof model) =>
      Float32Array.from(
        (await Promise.all(feeds.map((feed) => run(of, feed)))).flatMap((all) => [...all[name].floats()]),
      );
    expect(decibels(await floats(builder.model), await floats(model)), name).toBeGreaterThan(floor);
  }
  return { ...result, ran: await executedOps(model), builder };
}

const count = (ran: readonly string[], op: string) => ran.filter((other) => other === op).length;
const parameters = ({ report }: StaticResult, tensor: string) =>
  report.plan.activations.find((activation) => activation.tensor === tensor)!;
const relu = (b: Builder, x: Value) => b.add('Relu', [x]);
const concat = (b: Builder, ...parts: Value[]) => b.add('Concat', parts, { axis: 1 });

describe('Relu', () => {
  test('its lowest code stands for zero in every format', async () => {
    for (const activations of ['uint8', 'int8', 'uint16', 'int16'] as const) {
      const result = await check((b, x) => b.conv(relu(b, b.conv(x, 4, 4)), 4, 4), {
        activations,
        symmetricActivations: true,
      });
      const lowest = { uint8: 0, int8: -128, uint16: 0, int16: -32768 }[activations];
      expect(parameters(result, 'relu')).toMatchObject({ zeroPoint: lowest, symmetric: false });
      expect(result.model.graph.nodes.some((node) => node.op === 'Relu')).toBe(false);
    }
  });

  test('with two readers it goes, and both read its codes', async () => {
    const { ran, model } = await check((b, x) => {
      const shared = relu(b, b.conv(x, 4, 4));
      return b.conv(b.add('Add', [b.conv(shared, 4, 4), shared]), 4, 4);
    });
    expect(count(ran, 'QLinearConv')).toBe(3);
    expect(count(ran, 'QLinearAdd')).toBe(1);
    expect(model.graph.nodes.some((node) => node.op === 'Relu')).toBe(false);
  });

  test('whose input is read elsewhere stays', async () => {
    const { ran, model } = await check((b, x) => {
      const c = b.conv(x, 4, 4);
      return b.conv(b.add('Add', [b.conv(relu(b, c), 4, 4), c]), 4, 4);
    });
    expect(count(ran, 'QLinearConv')).toBe(3);
    expect(model.graph.nodes.some((node) => node.op === 'Relu')).toBe(true);
  });

  test('whose input is a graph output stays', async () => {
    const { model } = await check((b, x) => {
      const c = b.conv(x, 4, 4);
      return [c, b.conv(relu(b, c), 4, 4)];
    });
    expect(model.graph.nodes.some((node) => node.op === 'Relu')).toBe(true);
  });

  test('behind a product with a float result stays', async () => {
    const { model } = await check((b, x) => relu(b, b.add('MatMul', [x, b.weight([8, 8])])), {}, { shape: [2, 8] });
    expect(model.graph.nodes.map((node) => node.op)).toContain('Relu');
  });

  test('a Clip with bounds that exclude zero, or that are computed, stays', async () => {
    const { model } = await check((b, x) => {
      const c = b.add('Clip', [b.conv(x, 4, 4), b.floats([], [0.5]), b.floats([], [6])]);
      return b.conv(c, 4, 4);
    });
    expect(model.graph.nodes.map((node) => node.op)).toContain('Clip');
  });

  test('a Clip given as attributes, of an old operator set, goes', async () => {
    const b = new Builder(9);
    const x = b.input('x', image);
    const float = (value: number) => ({ type: 'float', value }) as const;
    b.output(b.conv(b.add('Clip', [b.conv(x, 4, 4)], { min: float(0), max: float(6) }), 4, 4));
    const { model } = await quantizeStatic(b.model);
    expect(model.graph.nodes.map((node) => node.op)).not.toContain('Clip');
    expect(model.opset).toBeGreaterThanOrEqual(13);
    expect(count(await executedOps(model), 'QLinearConv')).toBe(2);
  });
});

describe('scaling of inputs', () => {
  test('stays float, also where they are moved about before', async () => {
    const { ran, report } = await check((b, x) => {
      const moved = b.add('Transpose', [x], { perm: [0, 1, 3, 2] });
      const scaled = b.add('Add', [b.add('Mul', [moved, b.floats([4, 1, 1], [1, 2, 3, 4])]), b.floats([], [0.5])]);
      return b.conv(relu(b, b.conv(scaled, 4, 4)), 4, 4);
    });
    expect(report.plan.activations[0].tensor).toBe('add');
    expect(count(ran, 'Mul') + count(ran, 'Add')).toBe(2);
    expect(count(ran, 'QLinearConv')).toBe(2);
  });

  test('runs in integers between layers', async () => {
    const { ran } = await check((b, x) => b.conv(b.add('Mul', [relu(b, b.conv(x, 4, 4)), b.floats([], [2])]), 4, 4));
    expect(count(ran, 'QLinearMul')).toBe(1);
  });
});

describe('shared parameters', () => {
  test('Concat of Relus shares them, Concat of a Relu and none does not', async () => {
    const group = (result: StaticResult, tensor: string) => parameters(result, tensor).group;
    const alike = await check((b, x) => b.conv(concat(b, relu(b, b.conv(x, 4, 4)), relu(b, b.conv(x, 4, 4))), 8, 4));
    expect(group(alike, 'relu')).toBe(group(alike, 'relu_1'));
    expect(group(alike, 'relu')).toBe(group(alike, 'concat'));
    const mixed = await check((b, x) => b.conv(concat(b, relu(b, b.conv(x, 4, 4)), b.conv(x, 4, 4)), 8, 4));
    expect(new Set(['relu', 'conv_1', 'concat'].map((name) => group(mixed, name))).size).toBe(3);
    expect(parameters(mixed, 'relu').zeroPoint).toBe(0);
  });

  test('a mixed Concat does not lend its negative range to a Relu', async () => {
    const result = await check((b, x) => {
      const mixed = concat(b, relu(b, b.conv(x, 4, 4)), b.conv(x, 4, 4));
      return b.conv(concat(b, relu(b, b.conv(x, 4, 4)), mixed), 12, 4);
    });
    expect(parameters(result, 'relu_1').zeroPoint).toBe(0);
  });

  test('a pool between passes them on', async () => {
    const result = await check((b, x) => {
      const pooled = b.add('MaxPool', [relu(b, b.conv(x, 4, 4))], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
      return b.conv(concat(b, pooled, relu(b, b.conv(x, 4, 4))), 8, 4);
    });
    expect(new Set(['relu', 'maxpool', 'relu_1', 'concat'].map((name) => parameters(result, name).scale)).size).toBe(1);
  });

  test('a long chain of Concats is decided at once', async () => {
    const b = new Builder();
    let all = relu(b, b.conv(b.input('x', [1, 1, 4, 4]), 1, 1));
    let channels = 1;
    for (let depth = 0; depth < 8; depth++) {
      all = concat(b, all, all);
      channels *= 2;
    }
    b.output(b.conv(all, channels, 1, [1, 1]));
    const result = await quantizeStatic(b.model);
    expect(new Set(result.report.plan.activations.slice(1, -1).map(({ group }) => group)).size).toBe(1);
  });
});

describe('values with several readers', () => {
  test('one of them float', async () => {
    const { ran } = await check((b, x) => {
      const c = b.conv(x, 4, 4);
      return [b.conv(c, 4, 4), b.add('Tanh', [c])];
    });
    expect(count(ran, 'QLinearConv')).toBe(2);
    expect(ran).toContain('Tanh');
  });

  test('a Conv whose result is also a graph output', async () => {
    const { ran } = await check((b, x) => {
      const c = b.conv(x, 4, 4);
      return [c, b.conv(c, 4, 4)];
    });
    expect(count(ran, 'QLinearConv')).toBe(2);
  });

  test('a graph input read by integers and by floats', async () => {
    const { ran } = await check((b, x) => [b.conv(x, 4, 4), b.add('Tanh', [x])]);
    expect(ran).toContain('QLinearConv');
  });

  test('an Add of a value and itself', async () => {
    const { ran } = await check((b, x) => {
      const c = b.conv(x, 4, 4);
      return b.conv(b.add('Add', [c, c]), 4, 4);
    });
    expect(ran).toContain('QLinearAdd');
  });
});

describe('weights with several readers', () => {
  /** Two layers with one weight. */
  const twins = (b: Builder, x: Value): Value => {
    const weight = b.weight([16, 16, 3, 3]);
    const layer = (input: Value) => b.add('Conv', [input, weight, b.weight([16])], { pads: [1, 1, 1, 1] });
    return layer(layer(x));
  };

  test('both run in integers, and the codes are stored once', async () => {
    const { ran, report, model } = await check(twins, {}, { shape: [1, 16, 8, 8] });
    expect(count(ran, 'QLinearConv')).toBe(2);
    expect(report.plan.weights[0].users).toHaveLength(2);
    const codes = [...model.graph.initializers].filter(({ tensor }) => tensor?.dtype === 'int8' && tensor.size > 100);
    expect(codes).toHaveLength(1);
  });

  test('one of them excluded: neither does, and the weight is packed once', async () => {
    const { ran, report } = await check(twins, { exclude: ['conv_1'] }, { shape: [1, 16, 8, 8] });
    expect(count(ran, 'QLinearConv')).toBe(0);
    expect(report.plan.weights[0].quantize).toBeUndefined();
    expect(report.plan.weights[0].because).toBe('excluded');
  });

  test('that see it transposed stay float', async () => {
    const { ran, report } = await check(
      (b, x) => {
        const weight = b.weight([32, 32]);
        return b.add('Gemm', [b.add('MatMul', [x, weight]), weight], { transB: 1 });
      },
      {},
      { shape: [2, 32] },
    );
    expect(count(ran, 'QGemm') + count(ran, 'QLinearMatMul')).toBe(0);
    expect(report.plan.weights[0].quantize?.lowering).toBe('fold-at-load');
  });
});

describe('what the caller leaves out', () => {
  const net = (b: Builder, x: Value) => b.conv(b.add('Add', [b.conv(x, 4, 4), x]), 4, 4);
  const named = (model: StaticResult['model'], op: string): Node[] =>
    model.graph.nodes.filter((node) => node.op === op);

  test('exclude by node name and by pattern', async () => {
    for (const pattern of ['conv_1_node', 'conv_1*']) {
      const { ran, model, report } = await check(net, { exclude: [pattern] });
      expect([count(ran, 'QLinearConv'), count(ran, 'QLinearAdd')]).toEqual([1, 0]);
      expect(named(model, 'Conv').map((node) => node.inputs[1]?.producer?.op)).toContain(undefined);
      expect(report.plan.weights.filter(({ because }) => because === 'excluded').length).toBeGreaterThan(0);
    }
  });

  test('opTypes', async () => {
    const { ran } = await check(net, { opTypes: ['Conv'] });
    expect([count(ran, 'QLinearConv'), count(ran, 'QLinearAdd'), count(ran, 'Add')]).toEqual([2, 0, 1]);
  });

  test('a rule that keeps a layer float', async () => {
    const { ran, report } = await check(net, { rules: [{ match: { position: 'last' }, use: { weights: 'float' } }] });
    expect(count(ran, 'QLinearConv')).toBe(1);
    expect(report.plan.integerNodes).toEqual(['conv']);
  });
});

describe('biases', () => {
  const dead = (b: Builder, x: Value) => {
    const weight = b.weight([4, 4, 3, 3]);
    const values = weight.tensor!.floats().slice();
    for (let i = 0; i < 36; i++) values[i] *= 1e-12;
    for (let i = 36; i < 72; i++) values[i] = 0;
    weight.tensor = Tensor.float32([4, 4, 3, 3], values);
    const layer = b.add('Conv', [x, weight, b.floats([4], [0.7, -0.6, 100, 0])], { pads: [1, 1, 1, 1] });
    return b.conv(relu(b, layer), 4, 2);
  };

  test.each<[QuantizeOptions, number]>([
    [{}, 25],
    [{ corrections: ['bias'] }, 25],
    [{ weights: 'int8:tensor' }, 25],
    [{ weights: 'uint4:channel:asym', uniform: true }, 12],
    [{ activations: 'int8' }, 25],
  ])('of dead channels do not overflow int32: %o', async (options, floor) => {
    const { model, report } = await check(dead, options, { floor });
    expect(report.notes.filter((note) => note.startsWith('Bias'))).toEqual([]);
    const biases = model.graph.nodes
      .filter((node) => node.op === 'Conv')
      .map((node) => node.input(2).producer!.input(0));
    for (const { tensor } of biases) {
      expect(tensor!.dtype).toBe('int32');
      for (const code of tensor!.integers()) expect(Math.abs(code)).toBeLessThan(2 ** 30);
    }
  });

  test.each(['int16', 'uint16'] as const)(
    'of dead channels do not overflow beside %s activations',
    async (activations) => {
      await check((b, x) => dead(b, x), { activations }, { floor: 35 });
    },
  );

  test('an ordinary bias lies within half a step of its float value', async () => {
    const { model, builder } = await check((b, x) => b.conv(x, 4, 8));
    const pair = model.graph.nodes.find((node) => node.op === 'Conv')!.input(2).producer!;
    const [codes, scales] = [pair.input(0).tensor!.integers(), pair.input(1).tensor!.floats()];
    const expected = builder.graph.nodes[0].input(2).tensor!.floats();
    codes.forEach((code, channel) => {
      expect(Math.abs(code * scales[channel] - expected[channel])).toBeLessThanOrEqual(scales[channel] * 0.501);
    });
  });
});

test('a float16 model keeps its layers out of integers', async () => {
  const b = new Builder(17);
  const x = b.input('x', image, 'float16');
  const weight = b.weight([4, 4, 3, 3]);
  weight.tensor = weight.tensor!.converted('float16');
  b.output(b.add('Conv', [x, weight]));
  b.graph.outputs[0].type = { dtype: 'float16', shape: undefined };
  const feeds = [{ x: Tensor.float16(image, new Float32Array(256).fill(0.5)) }];
  const { report } = await quantizeStatic(b.model, {}, feeds);
  expect(report.plan.integerNodes).toEqual([]);
  expect(report.notes.join()).toContain('No operator of this model runs in integer arithmetic');
});
