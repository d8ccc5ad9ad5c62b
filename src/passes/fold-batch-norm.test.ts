/** What folds into the layer before, what must not, and that the layer computes the same. */
import { describe, expect, test } from 'vitest';
import { addInput, addNode, difference, emptyModel, noise, operators, run } from '../../test/support/before-after.ts';
import { checkModel } from '../graph/check.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { bytesOf, type Shape, Tensor } from '../tensor/tensor.ts';
import { foldBatchNorm } from './fold-batch-norm.ts';

type Attributes = Parameters<typeof addNode>[3];
const real = (value: number) => ({ type: 'float', value }) as const;
let seed = 100;
const constant = (model: Model, name: string, shape: Shape) => model.graph.addInitializer(name, noise(shape, ++seed));
const positive = (shape: Shape) =>
  Tensor.float32(
    shape,
    noise(shape, ++seed)
      .floats()
      .map((value) => value + 1.5),
  );

/** A BatchNormalization of `channels` after `input`, with statistics that matter. */
function normalize(model: Model, input: Value, channels: number, attributes: Attributes = {}): Value {
  const parameters = ['scale', 'bias', 'mean'].map((name) => constant(model, name, [channels]));
  const variance = model.graph.addInitializer('var', positive([channels]));
  return addNode(model, 'BatchNormalization', [input, ...parameters, variance], attributes, 'normalized');
}

/** Folds, and compares what the runtime computes without its own folding. Returns the operators that are left. */
async function folded(model: Model, output: Value, tolerance = 2e-6): Promise<string[]> {
  const { name } = output;
  model.graph.outputs.push(output);
  const feeds = Object.fromEntries(
    model.graph.inputs.map((input) => {
      const data = noise(input.type!.shape as Shape, 7);
      const dtype = input.type!.dtype;
      if (dtype === 'float64')
        return [input.name, new Tensor(dtype, data.shape, bytesOf(Float64Array.from(data.floats())))];
      return [input.name, data.converted(dtype as 'float32')];
    }),
  );
  const asWritten = { optimization: 'disabled' } as const;
  const before = await run(model, feeds, asWritten);
  const changed = foldBatchNorm.run(model);
  checkModel(model);
  const after = await run(model, feeds, asWritten);
  expect(Object.keys(after)).toEqual([name]);
  expect(difference(before, after)).toBeLessThanOrEqual(changed ? tolerance : 0);
  expect(foldBatchNorm.run(model)).toBe(false);
  const unused = [...model.graph.initializers].filter((value) => value.users.size === 0);
  expect(unused.map((value) => value.name)).toEqual([]);
  return operators(model);
}

/** A Conv with 4 output channels. */
function conv(model: Model, { bias = true, spatial = [5, 6], group = 1, inputs = 2 } = {}): Value {
  const x = addInput(model, 'x', [2, inputs, ...spatial]);
  const weight = constant(model, 'w', [4, inputs / group, ...spatial.map(() => 3)]);
  const offsets = bias ? constant(model, 'b', [4]) : undefined;
  return addNode(model, 'Conv', [x, weight, offsets], { group, pads: spatial.flatMap(() => [1, 1]) }, 'conv');
}

describe('BatchNormalization folds into', () => {
  for (const opset of [7, 9, 14, 15, 21]) {
    test(`Conv, opset ${opset}`, async () => {
      const model = emptyModel(opset);
      const attributes = { epsilon: real(0.01), momentum: real(0.5) };
      expect(await folded(model, normalize(model, conv(model), 4, attributes))).toEqual(['Conv']);
    });
  }
  test('Conv without bias, over one, two and three axes', async () => {
    for (const spatial of [[9], [5, 6], [4, 3, 5]]) {
      const model = emptyModel(15);
      expect(await folded(model, normalize(model, conv(model, { bias: false, spatial }), 4))).toEqual(['Conv']);
      expect(model.graph.nodes[0].inputs.length).toBe(3);
    }
  });
  test('grouped and depthwise Conv', async () => {
    for (const [inputs, group] of [
      [4, 2],
      [4, 4],
      [2, 2],
    ]) {
      const model = emptyModel(15);
      expect(await folded(model, normalize(model, conv(model, { inputs, group }), 4))).toEqual(['Conv']);
    }
  });
  for (const group of [1, 2, 3, 6]) {
    test(`ConvTranspose of ${group} groups`, async () => {
      const model = emptyModel(15);
      const x = addInput(model, 'x', [1, 6, 4, 5]);
      const weight = constant(model, 'w', [6, 12 / group, 3, 2]);
      const y = addNode(model, 'ConvTranspose', [x, weight], { group, strides: [2, 2] }, 'up');
      expect(await folded(model, normalize(model, y, 12))).toEqual(['ConvTranspose']);
    });
  }
  for (const transB of [0, 1]) {
    for (const shape of [undefined, [4], [1, 4], [1], []] as const) {
      test(`Gemm, transB ${transB}, bias [${shape}]`, async () => {
        const model = emptyModel(13);
        const x = addInput(model, 'x', [3, 5]);
        const weight = constant(model, 'w', transB ? [4, 5] : [5, 4]);
        const bias = shape && constant(model, 'b', shape);
        const y = addNode(model, 'Gemm', [x, weight, bias], { transB, alpha: real(0.5), beta: real(3) }, 'gemm');
        expect(await folded(model, normalize(model, y, 4))).toEqual(['Gemm']);
      });
    }
  }
  test('MatMul, whose shift becomes an Add', async () => {
    const model = emptyModel(13);
    const y = addNode(model, 'MatMul', [addInput(model, 'x', [3, 5]), constant(model, 'w', [5, 4])], {}, 'product');
    expect(await folded(model, normalize(model, y, 4))).toEqual(['MatMul', 'Add']);
  });
  test('MatMul and Add, in either order of its inputs', async () => {
    for (const swap of [false, true]) {
      const model = emptyModel(13);
      const y = addNode(model, 'MatMul', [addInput(model, 'x', [3, 5]), constant(model, 'w', [5, 4])], {}, 'product');
      const bias = constant(model, 'b', [4]);
      const sum = addNode(model, 'Add', swap ? [bias, y] : [y, bias], {}, 'sum');
      expect(await folded(model, normalize(model, sum, 4))).toEqual(['MatMul', 'Add']);
    }
  });
  test('float16 and float64 layers', async () => {
    // ONNX Runtime has Conv in half precision and Gemm in double.
    for (const dtype of ['float16', 'float64'] as const) {
      const model = emptyModel(15);
      const gemm = () =>
        addNode(model, 'Gemm', [addInput(model, 'x', [3, 5]), constant(model, 'w', [5, 4]), constant(model, 'b', [4])]);
      const y = normalize(model, dtype === 'float16' ? conv(model) : gemm(), 4);
      model.graph.inputs[0].type = { dtype, shape: model.graph.inputs[0].type!.shape };
      for (const value of model.graph.initializers) {
        const { tensor } = value;
        const doubles = () => bytesOf(Float64Array.from(tensor!.floats()));
        value.tensor = dtype === 'float16' ? tensor!.converted(dtype) : new Tensor(dtype, tensor!.shape, doubles());
      }
      expect(await folded(model, y, dtype === 'float16' ? 3e-3 : 1e-12)).toHaveLength(1);
      expect(model.graph.nodes[0].inputs.map((value) => value?.tensor?.dtype)).toEqual([undefined, dtype, dtype]);
    }
  });
});

describe('per-channel arithmetic folds into Conv', () => {
  const shapes: Shape[] = [[4, 1, 1], [1, 4, 1, 1], [1], [], [1, 1, 1]];
  for (const op of ['Mul', 'Add', 'Sub', 'Div']) {
    test(op, async () => {
      for (const shape of shapes) {
        const model = emptyModel(13);
        const factor = model.graph.addInitializer('f', positive(shape));
        expect(await folded(model, addNode(model, op, [conv(model), factor], {}, 'after'))).toEqual(['Conv']);
      }
    });
  }
  test('with the constant first, except a division by the layer', async () => {
    for (const [op, left] of [
      ['Mul', ['Conv']],
      ['Sub', ['Conv']],
      ['Div', ['Conv', 'Div']],
    ] as const) {
      const model = emptyModel(13);
      const factor = constant(model, 'f', [4, 1, 1]);
      expect(await folded(model, addNode(model, op, [factor, conv(model)], {}, 'after'))).toEqual(left);
    }
  });
  test('a chain of all of them', async () => {
    const model = emptyModel(13);
    let y = normalize(model, conv(model, { bias: false }), 4);
    for (const op of ['Mul', 'Add']) y = addNode(model, op, [y, constant(model, op, [4, 1, 1])], {}, op);
    expect(await folded(model, normalize(model, y, 4))).toEqual(['Conv']);
  });
});

describe('left alone', () => {
  test('constants along another axis, or that widen the output', async () => {
    // The last axis has as many elements as there are channels.
    for (const shape of [[4], [1, 4], [4, 1], [1, 1, 1, 1, 1], [2, 1, 1, 1]]) {
      const model = emptyModel(13);
      const y = addNode(model, 'Add', [conv(model, { spatial: [4, 4] }), constant(model, 'f', shape)], {}, 'after');
      expect(await folded(model, y)).toEqual(['Conv', 'Add']);
    }
  });
  test('a Mul or Add after a matrix product', async () => {
    for (const op of ['Mul', 'Add']) {
      const model = emptyModel(13);
      const y = addNode(model, 'Gemm', [addInput(model, 'x', [3, 5]), constant(model, 'w', [5, 4])], {}, 'gemm');
      expect(await folded(model, addNode(model, op, [y, constant(model, 'f', [4])], {}, 'after'))).toEqual([
        'Gemm',
        op,
      ]);
    }
  });
  test('BatchNormalization over the second of three axes of a MatMul', async () => {
    const model = emptyModel(13);
    const y = addNode(model, 'MatMul', [addInput(model, 'x', [3, 4, 5]), constant(model, 'w', [5, 4])], {}, 'product');
    expect(await folded(model, normalize(model, y, 4))).toEqual(['MatMul', 'BatchNormalization']);
  });
  test('a layer whose output somebody else reads too', async () => {
    const model = emptyModel(15);
    const y = conv(model);
    const sum = addNode(model, 'Add', [normalize(model, y, 4), y], {}, 'sum');
    expect(await folded(model, sum)).toEqual(['Conv', 'BatchNormalization', 'Add']);
  });
  test('weights, biases or statistics that are computed or that a caller may override', async () => {
    for (const name of ['w', 'b', 'mean']) {
      const model = emptyModel(15);
      const y = normalize(model, conv(model), 4);
      const value = [...model.graph.initializers].find((candidate) => candidate.name === name)!;
      const shape = value.tensor!.shape;
      model.graph.inputs.push(value);
      value.type = { dtype: 'float32', shape };
      expect(await folded(model, y)).toEqual(['Conv', 'BatchNormalization']);
    }
  });
  test('training, and statistics a position', () => {
    for (const [opset, attributes, outputs] of [
      [15, { training_mode: 1 }, 3],
      [9, {}, 5],
      [7, { spatial: 0 }, 1],
    ] as const) {
      const model = emptyModel(opset);
      normalize(model, conv(model), 4, attributes);
      const node = model.graph.nodes[1];
      for (let index = 1; index < outputs; index++) node.setOutput(index, model.graph.addValue('statistic'));
      model.graph.outputs.push(node.output());
      expect(foldBatchNorm.run(model)).toBe(false);
      expect(operators(model)).toEqual(['Conv', 'BatchNormalization']);
    }
  });
  test('a normalization by zero: the product would not be finite', () => {
    const model = emptyModel(15);
    const y = normalize(model, conv(model), 4, { epsilon: real(0) });
    const variance = [...model.graph.initializers].find((value) => value.name === 'var')!;
    variance.tensor = Tensor.float32([4], [1, 0, 1, 1]);
    model.graph.outputs.push(y);
    expect(foldBatchNorm.run(model)).toBe(false);
  });
});

test('a shared weight is copied for the layer that folds, and stays for the other', async () => {
  const model = emptyModel(15);
  const first = conv(model, { inputs: 4 });
  const weight = model.graph.nodes[0].input(1);
  const original = weight.tensor!;
  const second = addNode(model, 'Conv', [normalize(model, first, 4), weight], { pads: [1, 1, 1, 1] }, 'second');
  expect(await folded(model, second)).toEqual(['Conv', 'Conv']);
  expect(weight.tensor).toBe(original);
  expect(model.graph.nodes[0].input(1)).not.toBe(weight);
  expect(model.graph.nodes[1].input(1)).toBe(weight);
});

test('a weight of its own keeps its name', async () => {
  const model = emptyModel(15);
  await folded(model, normalize(model, conv(model), 4));
  expect(model.graph.nodes[0].inputs.map((value) => value?.name)).toEqual(['x', 'w', 'b']);
  expect(model.graph.nodes[0].output().name).toBe('normalized');
});
