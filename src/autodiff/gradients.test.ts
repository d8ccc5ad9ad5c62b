/** Gradients of whole blocks, against differences; what is asked for wrongly. */
import { describe, expect, test } from 'vitest';
import { addInput, addNode, emptyModel, run } from '../../test/support/before-after.ts';
import { expectGradients, gaussian } from '../../test/support/gradients.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import type { AttributeInput } from '../graph/attribute.ts';
import { checkModel } from '../graph/check.ts';
import type { Value } from '../graph/value.ts';
import { openRuntime } from '../runtime/node.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';
import { addGradients, addMeanSquaredError, differentiable, observeShapes } from './index.ts';

const float = (value: number) => ({ type: 'float', value }) as const;

/** A model to which operators are added, and weights that are inputs to differentiate by. */
function block(opset = 18) {
  const model = emptyModel(opset);
  const feeds: Record<string, Tensor> = {};
  const variables: Value[] = [];
  return {
    model,
    feeds,
    variables,
    variable(shape: readonly number[], deviation = 1): Value {
      const name = `v${variables.length}`;
      const value = addInput(model, name, shape);
      feeds[name] = gaussian(shape, variables.length + 1, deviation);
      variables.push(value);
      return value;
    },
    constant: (tensor: Tensor) => model.graph.addInitializer('c', tensor),
    op: (op: string, inputs: readonly (Value | undefined)[], attributes: Record<string, AttributeInput> = {}) =>
      addNode(model, op, inputs, attributes, op),
  };
}

describe('blocks', () => {
  test('residual, with BatchNormalization and a shortcut that strides', async () => {
    const { model, feeds, variables, variable, constant, op } = block();
    const x = variable([2, 3, 8, 8]);
    const normalize = (value: Value, channels: number) => {
      const ones = Array.from({ length: channels }, (_, i) => 1 + i / 10);
      const statistics = [constant(Tensor.float32([channels], ones)), constant(Tensor.float32([channels], ones))];
      return op('BatchNormalization', [value, variable([channels]), variable([channels]), ...statistics]);
    };
    const pads = [1, 1, 1, 1];
    const first = op('Conv', [x, variable([4, 3, 3, 3], 0.3)], { pads, strides: [2, 2] });
    const middle = op('Elu', [normalize(first, 4)]);
    const second = normalize(op('Conv', [middle, variable([4, 4, 3, 3], 0.3)], { pads }), 4);
    const shortcut = op('Conv', [x, variable([4, 3, 1, 1]), variable([4])], { strides: [2, 2] });
    model.graph.outputs.push(op('Tanh', [op('Add', [second, shortcut])]));
    await expectGradients(model, variables, feeds);
  });

  test('inverted residual, with ReLU6', async () => {
    const { model, feeds, variables, variable, constant, op } = block();
    const x = variable([2, 3, 6, 6]);
    const bounds = [constant(Tensor.float32([], [0])), constant(Tensor.float32([], [6]))];
    const wide = op('Clip', [op('Conv', [x, variable([12, 3, 1, 1]), variable([12])]), ...bounds]);
    const depthwise = op('Conv', [wide, variable([12, 1, 3, 3]), variable([12])], { group: 12, pads: [1, 1, 1, 1] });
    const narrow = op('Conv', [op('Clip', [depthwise, ...bounds]), variable([3, 12, 1, 1]), variable([3])]);
    model.graph.outputs.push(op('Add', [x, narrow]));
    // Kinks lie between the two points of some differences.
    await expectGradients(model, variables, feeds, { step: 0.001, tolerance: 0.03 });
  });

  test('transformer, with masked attention and rotated heads', async () => {
    const { model, feeds, variables, variable, constant, op } = block();
    const [batch, time, heads, size] = [2, 5, 2, 4];
    const width = heads * size;
    const x = variable([batch, time, width]);
    const ints = (...values: number[]) => constant(Tensor.int64([values.length], values));
    const project = (value: Value, columns: number) =>
      op('Add', [op('MatMul', [value, variable([width, columns], 0.4)]), variable([columns])]);
    const normalized = op('LayerNormalization', [x, variable([width]), variable([width])]);
    const all = model.graph.add({
      op: 'Split',
      inputs: [project(normalized, 3 * width), ints(width, width, width)],
      outputs: ['q', 'k', 'v'],
      attributes: { axis: 2 },
    });
    const [q, k, v] = all.outputs.map((value) =>
      op('Transpose', [op('Reshape', [value, ints(batch, time, heads, size)])], { perm: [0, 2, 1, 3] }),
    );
    const rotate = (value: Value) => {
      const half = (from: number) => op('Slice', [value, ints(from), ints(from + size / 2), ints(3)]);
      const turned = op('Concat', [op('Neg', [half(size / 2)]), half(0)], { axis: 3 });
      const table = (seed: number) => constant(gaussian([time, size], seed));
      return op('Add', [op('Mul', [value, table(31)]), op('Mul', [turned, table(32)])]);
    };
    const keys = op('Transpose', [rotate(k)], { perm: [0, 1, 3, 2] });
    const scores = op('Div', [op('MatMul', [rotate(q), keys]), constant(Tensor.float32([], [Math.sqrt(size)]))]);
    const visible = Array.from({ length: time * time }, (_, i) => (i % time <= Math.floor(i / time) ? 1 : 0));
    const mask = constant(new Tensor('bool', [time, time], Uint8Array.from(visible)));
    const masked = op('Where', [mask, scores, constant(Tensor.float32([], [-1e9]))]);
    const mixed = op('MatMul', [op('Softmax', [masked], { axis: -1 }), v]);
    const joined = op('Reshape', [op('Transpose', [mixed], { perm: [0, 2, 1, 3] }), ints(batch, time, width)]);
    const middle = op('Add', [x, op('MatMul', [joined, variable([width, width], 0.4)])]);
    const root = op('Sqrt', [
      op('Add', [op('ReduceMean', [op('Mul', [middle, middle]), ints(-1)]), constant(Tensor.float32([], [1e-5]))]),
    ]);
    const gate = project(op('Mul', [op('Div', [middle, root]), variable([width])]), width);
    const silu = op('Mul', [gate, op('Sigmoid', [gate])]);
    model.graph.outputs.push(op('Add', [middle, silu]));
    await expectGradients(model, variables, feeds, { elements: 8 });
  });

  test('an intermediate value that several nodes read', async () => {
    const { model, feeds, variable, constant, op } = block();
    const x = variable([2, 3]);
    const middle = op('Exp', [x]);
    const y = op('Add', [op('Mul', [middle, constant(Tensor.float32([], [3]))]), op('Sin', [middle])]);
    model.graph.outputs.push(y);
    const observed = await observeShapes(model, feeds, await openRuntime());
    const seed = constant(gaussian([2, 3], 8));
    const found = addGradients({ model, output: y, seed, inputs: [middle], shapes: observed });
    model.graph.outputs.push(found.get(middle)!, middle);
    const results = await run(model, feeds);
    const weights = seed.tensor!.floats();
    const at = results[middle.name].floats();
    results[found.get(middle)!.name].floats().forEach((slope, index) => {
      expect(slope).toBeCloseTo(weights[index] * (3 + Math.cos(at[index])), 4);
    });
  });
});

test('in double precision', async () => {
  const model = emptyModel(13);
  const [x, w] = [addInput(model, 'x', [2, 3], 'float64'), addInput(model, 'w', [3, 2], 'float64')];
  const y = addNode(model, 'Exp', [addNode(model, 'MatMul', [x, w], {}, 'product')]);
  const loss = addNode(model, 'ReduceSum', [addNode(model, 'Mul', [y, y], {}, 'squares')], { keepdims: 0 }, 'loss');
  const tensor = (shape: number[], values: number[]) =>
    new Tensor('float64', shape, bytesOf(Float64Array.from(values)));
  const [a, b] = [
    [0.1, -0.4, 0.7, 0.3, 0.2, -0.6],
    [0.5, -0.1, 0.9, 0.2, -0.3, 0.8],
  ];
  const feeds = { x: tensor([2, 3], a), w: tensor([3, 2], b) };
  model.graph.outputs.push(loss);
  const shapes = await observeShapes(model, feeds, await openRuntime());
  const gradient = addGradients({ model, output: loss, inputs: [w], shapes }).get(w)!;
  model.graph.outputs.push(gradient);
  const found = new Float64Array((await run(model, feeds))[gradient.name].bytes.slice().buffer);
  const slopes = [0, 1].map((row) =>
    [0, 1].map((column) => 2 * Math.exp(2 * [0, 1, 2].reduce((sum, k) => sum + a[row * 3 + k] * b[k * 2 + column], 0))),
  );
  found.forEach((value, index) => {
    const [k, column] = [index >> 1, index & 1];
    expect(value).toBeCloseTo(a[k] * slopes[0][column] + a[3 + k] * slopes[1][column], 12);
  });
});

describe('observeShapes', () => {
  test('names every value and leaves the model as it was', async () => {
    const { model, feeds, variable, constant, op } = block();
    const x = variable([2, 6]);
    const weight = constant(Tensor.float32([3], [1, 2, 3]));
    const parts = op('Reshape', [x, constant(Tensor.int64([2], [4, -1]))]);
    const size = op('Shape', [parts]);
    const y = op('Mul', [op('ReduceSum', [parts], { keepdims: 0 }), weight]);
    model.graph.outputs.push(y);
    const before = writeOnnx(model);
    const shapes = await observeShapes(model, feeds, await openRuntime());
    expect(writeOnnx(model)).toEqual(before);
    const of = (value: Value) => shapes.get(value.name);
    expect([x, weight, parts, size, y].map(of)).toEqual([[2, 6], [3], [4, 3], [2], [3]]);
    expect(of(y.producer!.input(0))).toEqual([]);
  });
});

describe('addMeanSquaredError', () => {
  test('is the mean over all elements, and its gradient', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [2, 3]);
    const y = addNode(model, 'Neg', [x]);
    const shapes = new Map([x, y].map(({ name }) => [name, [2, 3]]));
    const { loss, target } = addMeanSquaredError(model, y, 'target', shapes);
    const gradient = addGradients({ model, output: loss, inputs: [x], shapes }).get(x)!;
    model.graph.outputs.push(loss, gradient);
    checkModel(model);
    const [given, wanted] = [gaussian([2, 3]), gaussian([2, 3], 2)];
    const results = await run(model, { x: given, [target.name]: wanted });
    const differences = given.floats().map((value, i) => -value - wanted.floats()[i]);
    expect(results[loss.name].shape).toEqual([]);
    expect(results[loss.name].floats()[0]).toBeCloseTo(differences.reduce((sum, d) => sum + d * d, 0) / 6, 5);
    results[gradient.name].floats().forEach((slope, i) => {
      expect(slope).toBeCloseTo((-2 * differences[i]) / 6, 5);
    });
  });
});

describe('addGradients', () => {
  const shapes = new Map<string, readonly number[]>([
    ['x', [3]],
    ['z', [2]],
    ['y', [3]],
  ]);

  test('is zero by a value without influence, also where only integers connect them', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [3]);
    const z = addInput(model, 'z', [2]);
    const whole = addNode(model, 'Cast', [z], { to: 7 }, 'whole');
    const rows = addNode(model, 'Gather', [x, whole], {}, 'rows');
    const seed = addInput(model, 'seed', [2]);
    const known = new Map([...shapes, ['whole', [2]], ['rows', [2]]]);
    const gradients = addGradients({ model, output: rows, seed, inputs: [x, z], shapes: known });
    model.graph.outputs.push(...gradients.values());
    const feeds = { x: gaussian([3]), z: Tensor.float32([2], [0, 2]), seed: Tensor.float32([2], [5, 7]) };
    const results = await run(model, feeds);
    expect(Array.from(results[gradients.get(x)!.name].floats())).toEqual([5, 0, 7]);
    expect(Array.from(results[gradients.get(z)!.name].floats())).toEqual([0, 0]);
  });

  test('is the seed by the output itself', () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [3]);
    const seed = addInput(model, 'seed', [3]);
    expect(addGradients({ model, output: x, seed, inputs: [x], shapes }).get(x)).toBe(seed);
  });

  test('names the operator and the node without a rule', () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [3]);
    const y = model.graph.add({ op: 'Celu', name: 'odd', inputs: [x], outputs: ['y'] }).output();
    expect(differentiable).not.toContain('Celu');
    expect(() => addGradients({ model, output: y, seed: x, inputs: [x], shapes })).toThrow(
      'Celu "odd": expected an operator with a known gradient, got Celu',
    );
  });

  test('refuses a vector without a seed, a seed of another shape, unknown shapes and old operator sets', () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [3]);
    const z = addInput(model, 'z', [2]);
    const y = addNode(model, 'LeakyRelu', [x], { alpha: float(0.1) });
    expect(() => addGradients({ model, output: y, inputs: [x], shapes })).toThrow('expected a single number');
    expect(() => addGradients({ model, output: y, seed: z, inputs: [x], shapes })).toThrow('got [2]');
    expect(() => addGradients({ model, output: y, seed: x, inputs: [x], shapes: new Map() })).toThrow(
      'value "y": expected a concrete shape',
    );
    model.opsets.set('', 12);
    expect(() => addGradients({ model, output: y, seed: x, inputs: [x], shapes })).toThrow('got 12');
  });
});
