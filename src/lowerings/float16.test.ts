/** float16 models against their float32 originals in ONNX Runtime, and what stays float32 on the way. */
import { describe, expect, test } from 'vitest';
import { addInput, addNode, copyOf, emptyModel, noise, operators, run } from '../../test/support/before-after.ts';
import { decibels, quantized } from '../../test/support/lowered.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { AttributeInput } from '../graph/attribute.ts';
import { checkModel } from '../graph/check.ts';
import { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import { type Float16Options, lowerFloat16 } from './float16.ts';
import { lowerFoldAtLoad } from './fold-at-load.ts';
import { lowerMatmulNbits } from './matmul-nbits.ts';
import { findWeights, SharedConstants } from './weight.ts';

const floats = (shape: readonly number[], values: readonly number[]) => Tensor.float32(shape, values);

/** The model as float16; the original is left alone. */
function lowered(model: Model, options: Float16Options = {}) {
  const copy = copyOf(model);
  const result = lowerFloat16(copy, options);
  checkModel(copy);
  return { model: copy, ...result };
}

/** Both models on the same inputs: decibels of the first output. */
async function sqnr(before: Model, after: Model, feeds: Feeds): Promise<number> {
  const name = before.graph.outputs[0].name;
  const [a, b] = [(await run(before, feeds))[name], (await run(after, feeds))[name]];
  expect(b.dtype).toBe(a.dtype);
  expect(b.shape).toEqual(a.shape);
  return decibels(a.floats(), b.floats());
}

function output(model: Model, value: Value, dtype: 'float32' | 'int64' = 'float32'): Model {
  value.type = { dtype, shape: undefined };
  model.graph.outputs.push(value);
  return model;
}

const constant = (model: Model, name: string, tensor: Tensor) => model.graph.addInitializer(name, tensor);

/** x → Conv → Relu → y */
function convolution(): Model {
  const model = emptyModel(17);
  const x = addInput(model, 'x', [1, 3, 8, 8]);
  const conv = addNode(
    model,
    'Conv',
    [x, constant(model, 'w', noise([4, 3, 3, 3])), constant(model, 'b', noise([4]))],
    {},
    'c',
  );
  return output(model, addNode(model, 'Relu', [conv]));
}

describe('edges and names', () => {
  test('inputs and outputs stay float32, everything between is float16 under its own name', async () => {
    const { model, converted, kept } = lowered(convolution());
    expect(operators(model)).toEqual(['Cast', 'Conv', 'Relu', 'Cast']);
    expect([converted, kept]).toEqual([2, []]);
    expect(model.graph.nodes[1].output().name).toBe('c');
    expect(model.graph.outputs.map(({ name, type }) => [name, type?.dtype])).toEqual([['y', 'float32']]);
    expect([...model.graph.initializers].map((value) => value.tensor?.dtype)).toEqual(['float16', 'float16']);
    expect(await sqnr(convolution(), model, { x: noise([1, 3, 8, 8], 2) })).toBeGreaterThan(60);
  });

  test('a result that is output and read inside is cast once for the outside', async () => {
    const make = () => {
      const model = emptyModel(17);
      const a = addNode(model, 'Exp', [addInput(model, 'x', [4])], {}, 'a');
      output(model, a);
      return output(model, addNode(model, 'Neg', [a]));
    };
    const { model } = lowered(make());
    expect(operators(model).sort()).toEqual(['Cast', 'Cast', 'Cast', 'Exp', 'Neg']);
    const feeds = { x: noise([4]) };
    const [a, b] = [await run(make(), feeds), await run(model, feeds)];
    expect(Object.keys(b)).toEqual(['a', 'y']);
    expect(decibels(a.y.floats(), b.y.floats())).toBeGreaterThan(60);
  });

  test('a model without floats is left as it is', () => {
    const model = emptyModel(17);
    output(model, addNode(model, 'Neg', [addInput(model, 'x', [4], 'int64')]), 'int64');
    expect(lowered(model).converted).toBe(0);
    expect(operators(lowered(model).model)).toEqual(['Neg']);
  });
});

type Case = readonly [
  op: string,
  attributes: Readonly<Record<string, AttributeInput>>,
  constants: readonly Tensor[],
  shape?: Shape,
];

const int64 = (...values: number[]) => Tensor.int64([values.length], values);
const half = { type: 'float', value: 0.5 } as const;

/** Operators of real models, each alone: ONNX Runtime must take what they become. */
const cases: readonly Case[] = [
  ...['Abs', 'Ceil', 'Cos', 'Elu', 'Erf', 'Exp', 'Floor', 'HardSigmoid', 'HardSwish', 'LeakyRelu', 'Neg', 'Relu'].map(
    (op): Case => [op, {}, []],
  ),
  ...['Selu', 'Sigmoid', 'Sign', 'Sin', 'Softmax', 'LogSoftmax', 'Softplus', 'Softsign', 'Tanh', 'Identity'].map(
    (op): Case => [op, {}, []],
  ),
  ...['Add', 'Sub', 'Mul', 'Div', 'Max', 'Min', 'Sum', 'Mean', 'PRelu'].map(
    (op): Case => [op, {}, [floats([3], [0.5, 2, -1])], [4, 3]],
  ),
  ['Pow', {}, [floats([], [2])]],
  ['Clip', {}, [floats([], [-3.4e38]), floats([], [0.5])]],
  ['Clip', {}, [floats([], [0]), floats([], [6])]],
  ['MatMul', {}, [noise([3, 5])], [4, 3]],
  ['Gemm', { transB: 1 }, [noise([5, 3]), noise([5])], [4, 3]],
  ['Einsum', { equation: 'ij,jk->ik' }, [noise([3, 5])], [4, 3]],
  ['ConvTranspose', { strides: [2, 2] }, [noise([3, 2, 2, 2])], [1, 3, 4, 4]],
  ['MaxPool', { kernel_shape: [2, 2] }, [], [1, 3, 4, 4]],
  ['AveragePool', { kernel_shape: [2, 2] }, [], [1, 3, 4, 4]],
  ['GlobalAveragePool', {}, [], [1, 3, 4, 4]],
  ['GlobalMaxPool', {}, [], [1, 3, 4, 4]],
  ['LRN', { size: 3 }, [], [1, 3, 4, 4]],
  ['InstanceNormalization', {}, [noise([3]), noise([3])], [1, 3, 4, 4]],
  ['BatchNormalization', {}, [noise([3]), noise([3]), noise([3]), floats([3], [1, 2, 0.5])], [1, 3, 4, 4]],
  ['LayerNormalization', {}, [noise([3]), noise([3])], [4, 3]],
  ['GroupNormalization', { num_groups: 2 }, [noise([2]), noise([2])], [1, 4, 3, 3]],
  ['ReduceMean', { axes: [1] }, [], [4, 3]],
  ['ReduceSum', {}, [int64(1)], [4, 3]],
  ['ReduceMax', { axes: [1] }, [], [4, 3]],
  ['ReduceL2', { axes: [1] }, [], [4, 3]],
  ['CumSum', {}, [Tensor.int64([], [1])], [4, 3]],
  ['ArgMax', { axis: 1 }, [], [4, 3]],
  ['Transpose', { perm: [1, 0] }, [], [4, 3]],
  ['Reshape', {}, [int64(3, 4)], [4, 3]],
  ['Flatten', {}, [], [2, 3, 4]],
  ['Squeeze', {}, [int64(0)], [1, 3]],
  ['Unsqueeze', {}, [int64(0)], [4, 3]],
  ['Slice', {}, [int64(1), int64(3)], [4, 3]],
  ['Gather', { axis: 0 }, [int64(2, 0)], [4, 3]],
  ['GatherElements', {}, [Tensor.int64([1, 3], [2, 0, 1])], [4, 3]],
  ['ScatterND', {}, [Tensor.int64([1, 1], [2]), noise([1, 3])], [4, 3]],
  ['Expand', {}, [int64(2, 4, 3)], [4, 3]],
  ['Tile', {}, [int64(2, 1)], [4, 3]],
  ['Concat', { axis: 0 }, [noise([2, 3])], [4, 3]],
  ['Split', { axis: 0 }, [int64(4)], [4, 3]],
  ['Pad', {}, [int64(1, 0, 0, 1), floats([], [0.25])], [4, 3]],
  ['TopK', {}, [int64(2)], [4, 3]],
  ['DepthToSpace', { blocksize: 2 }, [], [1, 4, 2, 2]],
  ['SpaceToDepth', { blocksize: 2 }, [], [1, 2, 4, 4]],
  ['GridSample', {}, [noise([1, 2, 2, 2])], [1, 2, 4, 4]],
  ['LSTM', { hidden_size: 2 }, [noise([1, 8, 3]), noise([1, 8, 2])], [4, 1, 3]],
  ['GRU', { hidden_size: 2 }, [noise([1, 6, 3]), noise([1, 6, 2])], [4, 1, 3]],
  ['RNN', { hidden_size: 2 }, [noise([1, 2, 3]), noise([1, 2, 2])], [4, 1, 3]],
  ['ThresholdedRelu', { alpha: half }, []],
];

test.each(cases.map((one) => [one[0], one] as const))('%s computes in float16', async (_, one) => {
  const [op, attributes, constants, shape = [4, 3]] = one;
  // GroupNormalization 18 counts its factors per group; the reductions still have their axes as an attribute in 17.
  const model = emptyModel(op === 'GroupNormalization' ? 18 : 17);
  const inputs = [
    addInput(model, 'x', shape),
    ...constants.map((tensor, index) => constant(model, `k${index}`, tensor)),
  ];
  const { graph } = model;
  const outputs = op === 'TopK' ? ['y', 'positions'] : ['y'];
  const result = graph.add({ op, inputs, outputs, attributes }).output();
  output(model, result, op === 'ArgMax' ? 'int64' : 'float32');
  const after = lowered(model);
  expect(after.kept).toEqual([]);
  expect(after.converted).toBe(1);
  expect([...after.model.graph.initializers].some((value) => value.tensor?.dtype === 'float32')).toBe(false);
  expect(await sqnr(model, after.model, { x: noise(shape, 3) })).toBeGreaterThan(45);
});

describe('attributes that name a type', () => {
  test('Cast to float32 becomes Cast to float16', async () => {
    const model = emptyModel(17);
    const x = addNode(model, 'Cast', [addInput(model, 'i', [3], 'int64')], { to: 1 }, 'x');
    output(model, addNode(model, 'Sqrt', [x]));
    const after = lowered(model);
    expect(after.model.graph.nodes.map((node) => node.int('to'))).toEqual([10, undefined, 1]);
    expect(await sqnr(model, after.model, { i: Tensor.int64([3], [1, 2, 9]) })).toBeGreaterThan(60);
  });

  test('ConstantOfShape fills with float16, and with it by default', async () => {
    const model = emptyModel(17);
    const x = addInput(model, 'x', [2, 3]);
    const zeros = addNode(model, 'ConstantOfShape', [addNode(model, 'Shape', [x])]);
    const ones = addNode(model, 'ConstantOfShape', [addNode(model, 'Shape', [x])], { value: floats([1], [1.5]) });
    output(model, addNode(model, 'Sum', [x, zeros, ones]));
    const after = lowered(model);
    const filled = after.model.graph.nodes.filter((node) => node.is('ConstantOfShape'));
    expect(filled.map((node) => node.tensor('value')?.dtype)).toEqual(['float16', 'float16']);
    expect(await sqnr(model, after.model, { x: noise([2, 3]) })).toBeGreaterThan(60);
  });

  test('a Constant node becomes a float16 initializer', async () => {
    const model = emptyModel(17);
    const value = addNode(model, 'Constant', [], { value: floats([2], [0.5, 2]) }, 'k');
    output(model, addNode(model, 'Mul', [addInput(model, 'x', [2]), value]));
    const after = lowered(model);
    expect(operators(after.model)).toEqual(['Cast', 'Mul', 'Cast']);
    expect(await sqnr(model, after.model, { x: noise([2]) })).toBeGreaterThan(60);
  });
});

describe('what stays float32', () => {
  test('scales of Resize', async () => {
    const model = emptyModel(17);
    const scales = constant(model, 'scales', floats([4], [1, 1, 2, 1.3]));
    output(
      model,
      addNode(model, 'Resize', [addInput(model, 'x', [1, 1, 4, 10]), undefined, scales], { mode: 'linear' }),
    );
    const after = lowered(model);
    expect(after.converted).toBe(1);
    expect(after.model.graph.nodes[1].input(2).tensor?.dtype).toBe('float32');
    expect(await sqnr(model, after.model, { x: noise([1, 1, 4, 10]) })).toBeGreaterThan(60);
  });

  test('operators that float16 does not have, between Casts', async () => {
    const model = emptyModel(17);
    const x = addNode(model, 'Exp', [addInput(model, 'x', [4])], {}, 'e');
    output(model, addNode(model, 'Neg', [addNode(model, 'Celu', [x], {}, 'c')]));
    const after = lowered(model);
    expect(operators(after.model)).toEqual(['Cast', 'Exp', 'Cast', 'Celu', 'Cast', 'Neg', 'Cast']);
    expect(after.kept.map(({ node, byOperator }) => [node.op, byOperator])).toEqual([['Celu', true]]);
    expect(await sqnr(model, after.model, { x: noise([4]) })).toBeGreaterThan(55);
  });

  test('operators that learn float16 only in a later operator set', () => {
    const make = (opset: number) => {
      const model = emptyModel(opset);
      const axis = constant(model, 'axis', Tensor.int64([], [0]));
      return output(model, addNode(model, 'CumSum', [addInput(model, 'x', [4]), axis]));
    };
    expect([lowered(make(13)).kept.length, lowered(make(14)).kept.length]).toEqual([1, 0]);
  });

  test('operators of unknown domains, and what reads results of unknown type', async () => {
    const model = emptyModel(17);
    model.useDomain('own');
    const x = addInput(model, 'x', [4]);
    const own = model.graph.add({ op: 'Own', domain: 'own', inputs: [x], outputs: ['o'] }).output();
    output(model, addNode(model, 'Exp', [addNode(model, 'Add', [own, constant(model, 'k', noise([4]))])]));
    const after = lowered(model);
    expect(after.converted).toBe(0);
    expect(after.kept.map(({ node }) => node.op)).toEqual(['Own', 'Add', 'Exp']);
    expect([...after.model.graph.initializers][0].tensor?.dtype).toBe('float32');
  });

  test('values beyond 65504 keep their producer and readers in float32, exactly', async () => {
    const model = emptyModel(17);
    const x = addNode(model, 'Mul', [addInput(model, 'x', [2]), constant(model, 'k', floats([], [1000]))], {}, 'large');
    output(
      model,
      addNode(model, 'Relu', [addNode(model, 'Div', [x, constant(model, 'd', floats([], [3000]))], {}, 's')]),
    );
    const reach = (value: Value) => (value.name === 'large' ? 1.2e5 : 100);
    const after = lowered(model, { reach });
    expect(after.kept.map(({ node, because }) => [node.op, because])).toEqual([
      ['Mul', 'its values reach 120000, float16 ends at 65504'],
      ['Div', '"large" reaches 120000, float16 ends at 65504'],
    ]);
    const feeds = { x: floats([2], [120, 119]) };
    expect(await sqnr(model, after.model, feeds)).toBeGreaterThan(60);
  });

  test('readers of constants beyond 65504; infinity itself is no reason', () => {
    const make = (number: number) => {
      const model = emptyModel(17);
      return output(
        model,
        addNode(model, 'Max', [addInput(model, 'x', [2]), constant(model, 'k', floats([1], [number]))]),
      );
    };
    expect(lowered(make(-1e9)).kept.map(({ because }) => because)).toEqual([
      'its constant "k" holds 1.0e9, float16 ends at 65504',
    ]);
    expect(lowered(make(65504)).kept).toEqual([]);
    expect(lowered(make(Number.NEGATIVE_INFINITY)).kept).toEqual([]);
  });

  test('integers above 2048 that become floats', () => {
    const model = emptyModel(17);
    const x = addNode(model, 'Cast', [addInput(model, 'i', [3], 'int64')], { to: 1 }, 'f');
    output(model, addNode(model, 'Sqrt', [x]));
    expect(lowered(model, { reach: () => 2048 }).kept).toEqual([]);
    expect(lowered(model, { reach: () => 2049 }).kept.map(({ node }) => node.op)).toEqual(['Cast']);
  });

  test('sizes computed from shapes, so that they stay exact', async () => {
    const model = emptyModel(17);
    const x = addInput(model, 'x', [1, 2500]);
    const shape = addNode(model, 'Cast', [addNode(model, 'Shape', [x])], { to: 1 }, 's');
    const scaled = addNode(model, 'Mul', [shape, constant(model, 'k', floats([2], [1, 0.9996]))], {}, 'm');
    const size = addNode(model, 'Cast', [addNode(model, 'Floor', [scaled])], { to: 7 }, 'size');
    const zero = constant(model, 'zero', int64(0, 0));
    output(model, addNode(model, 'Slice', [x, zero, size]));
    const after = lowered(model);
    const [sliced] = Object.values(await run(after.model, { x: noise([1, 2500]) }));
    expect(sliced.shape).toEqual([1, 2499]);
  });

  test('what is asked for', () => {
    const { model, kept } = lowered(convolution(), {
      keep: (node) => (node.is('Conv') ? 'it is excluded' : undefined),
    });
    expect(operators(model)).toEqual(['Conv', 'Cast', 'Relu', 'Cast']);
    expect(kept.map(({ because }) => because)).toEqual(['it is excluded']);
  });

  test('a Transpose and MatMul that ONNX Runtime would crash on load and run', async () => {
    const model = emptyModel(17);
    const turned = addNode(model, 'Transpose', [addInput(model, 'x', [1, 5, 8])], { perm: [1, 0, 2] }, 't');
    output(model, addNode(model, 'Relu', [addNode(model, 'MatMul', [turned, constant(model, 'w', noise([8, 6]))])]));
    const after = lowered(model);
    expect(after.kept.map(({ node }) => node.op)).toEqual(['Transpose', 'MatMul']);
    expect(await sqnr(model, after.model, { x: noise([1, 5, 8], 2) })).toBeGreaterThan(60);
  });
});

test('a guard against division by 0 becomes the smallest float16 instead of 0', async () => {
  const model = emptyModel(17);
  const x = addInput(model, 'x', [2]);
  const guarded = addNode(model, 'Add', [x, constant(model, 'eps', floats([], [1e-12]))]);
  output(model, addNode(model, 'Div', [x, guarded]));
  const after = lowered(model);
  expect(after.raised.map(({ name }) => name)).toEqual(['eps']);
  const [quotient] = Object.values(await run(after.model, { x: floats([2], [0, 1]) }));
  expect([...quotient.floats()]).toEqual([0, 1]);
});

/** A subgraph of the model's own names. */
function body(model: Model, build: (graph: Graph) => Value[]): AttributeInput {
  const graph = new Graph('body', model.graph.names);
  graph.outputs.push(...build(graph));
  return { type: 'graph', value: graph };
}

describe('bodies', () => {
  test('If: both branches hand over float16, captured values and constants included', async () => {
    const model = emptyModel(17);
    const x = addInput(model, 'x', [2]);
    const flag = addInput(model, 'flag', [], 'bool');
    const outer = addNode(model, 'Exp', [x], {}, 'outer');
    const then = body(model, (graph) => [graph.add({ op: 'Celu', inputs: [outer], outputs: ['then'] }).output()]);
    const otherwise = body(model, (graph) => {
      const two = graph.addInitializer('two', floats([2], [2, 3]));
      return [graph.add({ op: 'Mul', inputs: [outer, two], outputs: ['else'] }).output()];
    });
    const chosen = addNode(model, 'If', [flag], { then_branch: then, else_branch: otherwise }, 'chosen');
    output(model, addNode(model, 'Neg', [chosen]));
    const after = lowered(model);
    expect(after.kept.map(({ node }) => node.op)).toEqual(['Celu']);
    for (const value of [0, 1]) {
      const feeds = { x: noise([2]), flag: new Tensor('bool', [], Uint8Array.of(value)) };
      expect(await sqnr(model, after.model, feeds)).toBeGreaterThan(55);
    }
  });

  const loop = () => {
    const model = emptyModel(17);
    const x = addInput(model, 'x', [2]);
    const weight = constant(model, 'w', floats([2], [0.5, 1.25]));
    const steps = body(model, (graph) => {
      const [step, go, state] = [
        graph.addValue('step', { dtype: 'int64', shape: [] }),
        graph.addValue('go', { dtype: 'bool', shape: [] }),
        graph.addValue('state', { dtype: 'float32', shape: [2] }),
      ];
      graph.inputs.push(step, go, state);
      const next = graph.add({ op: 'Mul', inputs: [state, weight], outputs: ['next'] }).output();
      const seen = graph.add({ op: 'Add', inputs: [next, x], outputs: ['seen'] }).output();
      for (const value of [next, seen]) value.type = { dtype: 'float32', shape: [2] };
      return [graph.add({ op: 'Identity', inputs: [go], outputs: ['on'] }).output(), next, seen];
    });
    const [count, on] = [
      constant(model, 'n', Tensor.int64([], [3])),
      constant(model, 'true', new Tensor('bool', [], Uint8Array.of(1))),
    ];
    const node = model.graph.add({
      op: 'Loop',
      inputs: [count, on, x],
      outputs: ['last', 'all'],
      attributes: { body: steps },
    });
    output(model, addNode(model, 'Add', [node.output(0), node.output(1)]));
    return model;
  };

  test('Loop: carried values and scans are float16 inside and out', async () => {
    const after = lowered(loop());
    expect(after.kept).toEqual([]);
    const inner = after.model.graph.nodes.find((node) => node.is('Loop'))!.subgraphs[0];
    expect(inner.inputs.map((value) => value.type?.dtype)).toEqual(['int64', 'bool', 'float16']);
    expect(inner.nodes.some((node) => node.is('Cast'))).toBe(false);
    expect(await sqnr(loop(), after.model, { x: noise([2]) })).toBeGreaterThan(55);
  });

  test('a Loop that must stay float32 computes in float16 inside, between Casts', async () => {
    const after = lowered(loop(), { keep: (node) => (node.is('Loop') ? 'it is excluded' : undefined) });
    const inner = after.model.graph.nodes.find((node) => node.is('Loop'))!.subgraphs[0];
    expect(inner.inputs.map((value) => value.type?.dtype)).toEqual(['int64', 'bool', 'float32']);
    expect(await sqnr(loop(), after.model, { x: noise([2]) })).toBeGreaterThan(55);
  });

  test('Scan: states and slices', async () => {
    const model = emptyModel(17);
    const [start, x] = [addInput(model, 's', [2]), addInput(model, 'x', [3, 2])];
    const steps = body(model, (graph) => {
      const [state, slice] = ['state', 'slice'].map((name) => graph.addValue(name, { dtype: 'float32', shape: [2] }));
      graph.inputs.push(state, slice);
      const next = graph.add({ op: 'Add', inputs: [state, slice], outputs: ['next'] }).output();
      return [next, graph.add({ op: 'Tanh', inputs: [next], outputs: ['seen'] }).output()];
    });
    const node = model.graph.add({
      op: 'Scan',
      inputs: [start, x],
      outputs: ['last', 'all'],
      attributes: { body: steps, num_scan_inputs: 1 },
    });
    output(model, node.output(1));
    const after = lowered(model);
    expect(after.kept).toEqual([]);
    expect(await sqnr(model, after.model, { s: noise([2]), x: noise([3, 2], 2) })).toBeGreaterThan(55);
  });
});

describe('weights that were lowered before', () => {
  const matmul = () => {
    const model = emptyModel(17);
    const x = addInput(model, 'x', [4, 64]);
    return output(model, addNode(model, 'MatMul', [x, constant(model, 'w', noise([64, 32], 4))]));
  };
  const feeds = { x: noise([4, 64], 5) };

  test.each(['int16:channel', 'int4:g32:asym', 'uint3:channel:asym'])(
    '%s codes are rebuilt in float32',
    async (scheme) => {
      const before = matmul();
      for (const weight of findWeights(before)) {
        lowerFoldAtLoad(weight, quantized(weight, parseScheme(scheme)), new SharedConstants(before));
      }
      before.graph.sort();
      const after = lowered(before);
      expect([after.converted, after.kept]).toEqual([1, []]);
      expect(await sqnr(before, after.model, feeds)).toBeGreaterThan(60);
    },
  );

  test('MatMulNBits takes float16 activations and scales as they are stored', async () => {
    const before = matmul();
    before.useDomain('com.microsoft');
    for (const weight of findWeights(before)) {
      const matrix = quantized(weight, parseScheme('int4:g32'));
      lowerMatmulNbits(weight, matrix, new SharedConstants(before), 0);
    }
    before.graph.sort();
    const after = lowered(before);
    expect(operators(after.model)).toEqual(['Cast', 'MatMulNBits', 'Cast']);
    expect(after.model.graph.nodes[1].input(2).tensor?.dtype).toBe('float16');
    expect(await sqnr(before, after.model, feeds)).toBeGreaterThan(50);
  });

  test('MatMulNBits stays float32 where float16 cannot hold its scales', () => {
    const before = matmul();
    for (const weight of findWeights(before)) {
      const matrix = quantized(weight, parseScheme('int4:g32:scale32'));
      matrix.scales.fill(1.2345e-6);
      lowerMatmulNbits(weight, matrix, new SharedConstants(before), 0);
    }
    expect(lowered(before).kept.map(({ node }) => node.op)).toEqual(['MatMulNBits']);
  });

  test('a weight stored as float16 is read as it is stored', async () => {
    const before = matmul();
    const weight = [...before.graph.initializers][0];
    const stored = constant(before, 'stored', weight.tensor!.converted('float16'));
    weight.replaceWith(addNode(before, 'Cast', [stored], { to: 1 }));
    before.graph.removeUnusedInitializers();
    before.graph.sort();
    const after = lowered(before);
    expect(operators(after.model)).toEqual(['Cast', 'MatMul', 'Cast']);
    expect(after.model.graph.nodes[1].input(1).name).toBe('stored');
    expect(await sqnr(before, after.model, feeds)).toBeGreaterThan(60);
  });
});
