/** Dynamic quantization against ONNX Runtime and against its arithmetic written out in plain loops. */
import { describe, expect, it } from 'vitest';
import { convolve, dynamicRound, multiply } from '../../test/support/dynamic-reference.ts';
import {
  addInput,
  addOutput,
  branchesModel,
  emptyModel,
  executedOperators,
  noiseTensor,
  relativeError,
  run,
  withDequantized,
  withLowered,
} from '../../test/support/lowered.ts';
import { parameterLayout } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';
import { dynamic, dynamicBytes, lowerDynamic } from './dynamic.ts';
import { findWeights, type Weight } from './weight.ts';

const isLayer = (weight: Weight) => weight.use.kind !== 'other';

/** Every row and every batch has a magnitude and a centre of its own, so that a scale in the wrong place shows. */
function weightTensor(shape: Shape, seed = 3): Tensor {
  const last = shape[shape.length - 1];
  const perBatch = sizeOf(shape.slice(-2));
  const floats = noiseTensor(shape, seed).floats();
  return Tensor.float32(
    shape,
    floats.map((value, i) => value * (1 + (i % last)) * (1 + 2 * Math.floor(i / perBatch)) + 0.1 * (1 + (i % last))),
  );
}

function lowered(model: Model, text: string): Model {
  const scheme = parseScheme(text);
  return withLowered(model, (weight) => (isLayer(weight) ? scheme : undefined), dynamic, lowerDynamic, true);
}

/** The float weight that a lowered model stands for. */
function roundedWeight(model: Model, text: string): Tensor {
  const scheme = parseScheme(text);
  const rounded = withDequantized(model, (weight) => (isLayer(weight) ? scheme : undefined), true);
  return findWeights(rounded).find(isLayer)!.tensor;
}

const expectClose = (expected: Float64Array, found: Tensor, message: string) => {
  expect(found.size, message).toBe(expected.length);
  expect(relativeError(Tensor.float32(found.shape, expected), found), message).toBeLessThan(2e-6);
};

const perTensor = ['int8:tensor', 'uint8:tensor', 'uint8:tensor:asym', 'int8:tensor:asym'];
const perChannel = [
  'int8:channel',
  'int8:channel:sym:scale16',
  'uint8:channel:sym',
  'uint8:channel:asym',
  'int8:channel:asym',
];
const schemes = [...perTensor, ...perChannel];
const optimizations = ['disabled', 'all'] as const;

describe('dynamic: MatMul and Gemm', () => {
  it.each([
    [
      [5, 40],
      [40, 9],
    ],
    [
      [2, 5, 40],
      [40, 9],
    ],
    [
      [2, 5, 40],
      [2, 40, 9],
    ],
    [
      [1, 3],
      [3, 1],
    ],
  ] as const)('multiply x %j by W %j as written out', async (shape, weightShape) => {
    const model = emptyModel();
    const x = addInput(model.graph, 'x', shape);
    const weight = model.graph.addInitializer('w', weightTensor(weightShape));
    addOutput(model.graph, model.graph.add({ op: 'MatMul', inputs: [x, weight], outputs: ['y'] }).output());
    const values = noiseTensor(shape, 9)
      .floats()
      .map((value) => value + 0.4);
    for (const text of schemes) {
      const expected = multiply(dynamicRound(values), shape, roundedWeight(model, text).floats(), weightShape);
      for (const optimization of optimizations) {
        const found = await run(lowered(model, text), { x: Tensor.float32(shape, values) }, { optimization });
        expectClose(expected, found.y, `${text} ${optimization}`);
      }
    }
  });

  it.each([0, 1] as const)('take Gemm with transB = %i, beta and every kind of C', async (transB) => {
    const shape = [4, 40];
    for (const c of [undefined, [7], [1, 7], [1], [], [4, 1], [4, 7]]) {
      const model = emptyModel();
      const { graph } = model;
      const x = addInput(graph, 'x', shape);
      // Rows of W are outputs either way.
      const weight = graph.addInitializer('w', weightTensor(transB ? [7, 40] : [40, 7]));
      const bias = c && graph.addInitializer('c', noiseTensor(c, 5));
      const inputs = bias ? [x, weight, bias] : [x, weight];
      const node = graph.add({ op: 'Gemm', name: 'fc', inputs, outputs: ['y'], attributes: { transB } });
      node.setFloat('beta', 2.5);
      addOutput(graph, node.output());
      const feeds = { x: noiseTensor(shape, 9) };
      for (const text of ['int8:channel', 'uint8:channel:asym', 'uint8:tensor:asym']) {
        const rounded = withDequantized(model, (given) => (isLayer(given) ? parseScheme(text) : undefined), true);
        const expected = await run(rounded, { x: Tensor.float32(shape, dynamicRound(feeds.x.floats())) });
        for (const optimization of optimizations) {
          const found = await run(lowered(model, text), feeds, { optimization });
          expect(relativeError(expected.y, found.y), `${text} C [${c}] ${optimization}`).toBeLessThan(2e-6);
        }
      }
    }
  });

  it('become DynamicQuantizeMatMul with a bias of their own', async () => {
    for (const text of schemes) {
      for (const c of [undefined, [7], [1, 7]]) {
        const model = emptyModel();
        const x = addInput(model.graph, 'x', [4, 40]);
        const weight = model.graph.addInitializer('w', weightTensor([7, 40]));
        const bias = c ? [model.graph.addInitializer('c', noiseTensor(c, 5))] : [];
        const node = model.graph.add({
          op: 'Gemm',
          inputs: [x, weight, ...bias],
          outputs: ['y'],
          attributes: { transB: 1 },
        });
        addOutput(model.graph, node.output());
        expect(await executedOperators(lowered(model, text)), `${text} C [${c}]`).toEqual(['DynamicQuantizeMatMul']);
      }
    }
  });

  it('quantize an activation once for all that read it', async () => {
    const model = emptyModel();
    const { graph } = model;
    const x = addInput(graph, 'x', [4, 40]);
    const results = ['q', 'k', 'v'].map((name, index) =>
      graph
        .add({
          op: 'MatMul',
          name,
          inputs: [x, graph.addInitializer(name, weightTensor([40, 9], index + 1))],
          outputs: [`${name}/y`],
        })
        .output(),
    );
    for (const result of results) addOutput(graph, result);
    const result = lowered(model, 'int8');
    expect(result.graph.nodes.filter((node) => node.op === 'DynamicQuantizeLinear')).toHaveLength(1);
    expect(await executedOperators(result)).toEqual([
      'DynamicQuantizeLinear',
      ...results.map(() => 'MatMulIntegerToFloat'),
    ]);
    expect(result.graph.outputs.map((value) => value.name)).toEqual(['q/y', 'k/y', 'v/y']);
    expect(result.graph.nodes.filter((node) => node.op === 'MatMulInteger').map((node) => node.name)).toEqual([
      'q',
      'k',
      'v',
    ]);
    const values = noiseTensor([4, 40], 9).floats();
    const found = await run(result, { x: Tensor.float32([4, 40], values) });
    const rounded = withDequantized(model, () => parseScheme('int8'), true);
    for (const { value, tensor } of findWeights(rounded)) {
      expectClose(
        multiply(dynamicRound(values), [4, 40], tensor.floats(), [40, 9]),
        found[`${value.name}/y`],
        value.name,
      );
    }
  });

  it('stand inputs that are all zero, all of one sign, or one number', async () => {
    const model = emptyModel();
    const x = addInput(model.graph, 'x', [2, 40]);
    const weight = model.graph.addInitializer('w', weightTensor([40, 9]));
    addOutput(model.graph, model.graph.add({ op: 'MatMul', inputs: [x, weight], outputs: ['y'] }).output());
    for (const fill of [() => 0, () => 3, () => -3, (i: number) => 5 + i, (i: number) => -0.001 * (i + 1)]) {
      const values = Float32Array.from({ length: 80 }, (_, index) => fill(index));
      const expected = multiply(dynamicRound(values), [2, 40], roundedWeight(model, 'uint8:asym').floats(), [40, 9]);
      const found = await run(lowered(model, 'uint8:asym'), { x: Tensor.float32([2, 40], values) });
      expectClose(expected, found.y, `${fill}`);
    }
  });

  it('share the codes of a tied weight, and go into the branches of an If', async () => {
    const model = branchesModel([weightTensor([40, 9], 1), weightTensor([40, 9], 2)]);
    const result = lowered(model, 'int8');
    expect(result.graph.nodes.filter((node) => node.op === 'DynamicQuantizeLinear')).toHaveLength(1);
    const values = noiseTensor([2, 40], 9).floats();
    const rounded = new Map(
      findWeights(withDequantized(model, () => parseScheme('int8'), true)).map(({ value, tensor }) => [
        value.name,
        tensor,
      ]),
    );
    for (const [condition, name] of ['outer', 'inner'].entries()) {
      const feeds = { x: Tensor.float32([2, 40], values), condition: new Tensor('bool', [], Uint8Array.of(condition)) };
      const expected = multiply(dynamicRound(values), [2, 40], rounded.get(name)!.floats(), [40, 9]);
      expectClose(expected, (await run(result, feeds)).y, name);
    }

    const tied = emptyModel();
    const x = addInput(tied.graph, 'x', [2, 40]);
    const weight = tied.graph.addInitializer('w', weightTensor([40, 40]));
    const first = tied.graph.add({ op: 'MatMul', inputs: [x, weight], outputs: ['first'] }).output();
    addOutput(tied.graph, tied.graph.add({ op: 'Gemm', inputs: [first, weight], outputs: ['y'] }).output());
    const names = [...lowered(tied, 'uint8:asym').graph.initializers].map((value) => value.name).sort();
    expect(names).toEqual(['w/codes', 'w/scale', 'w/zero_point']);
  });
});

describe('dynamic: Conv', () => {
  const plain = { group: 1, stride: 1, dilation: 1, pad: 0 };
  it.each([
    ['1-D', [2, 6, 15], [8, 6, 3], { ...plain, pad: 1 }],
    ['2-D', [2, 6, 9, 9], [8, 6, 3, 3], { ...plain, stride: 2, pad: 1 }],
    ['2-D, dilated', [1, 3, 11, 11], [5, 3, 3, 3], { ...plain, dilation: 2, pad: 2 }],
    ['2-D, 1×1', [1, 6, 5, 5], [8, 6, 1, 1], plain],
    ['2-D, in groups', [1, 6, 9, 9], [8, 3, 3, 3], { ...plain, group: 2, pad: 1 }],
    ['2-D, depthwise', [1, 6, 9, 9], [6, 1, 3, 3], { ...plain, group: 6, pad: 1 }],
    ['3-D', [1, 4, 5, 6, 5], [6, 4, 3, 3, 3], { ...plain, pad: 1 }],
  ] as const)('%s as written out', async (_, shape, weightShape, convolution) => {
    const spatial = weightShape.slice(2);
    const model = emptyModel();
    const { graph } = model;
    const x = addInput(graph, 'x', shape);
    const weight = graph.addInitializer('w', weightTensor(weightShape));
    const bias = graph.addInitializer('b', noiseTensor([weightShape[0]], 7));
    const attributes = {
      group: convolution.group,
      strides: spatial.map(() => convolution.stride),
      dilations: spatial.map(() => convolution.dilation),
      pads: [...spatial, ...spatial].map(() => convolution.pad),
    };
    addOutput(
      graph,
      graph.add({ op: 'Conv', name: 'conv', inputs: [x, weight, bias], outputs: ['y'], attributes }).output(),
    );
    // Padding stands for 0, which is not code 0 where the input is not centred.
    const values = noiseTensor(shape, 9)
      .floats()
      .map((value) => value - 0.3);
    for (const text of [...perTensor, 'int8:channel', 'uint8:channel:sym', 'int8:channel:sym:scale16']) {
      const rounded = roundedWeight(model, text).floats();
      const expected = convolve(dynamicRound(values), shape, rounded, weightShape, convolution);
      const perChannel = expected.length / shape[0] / weightShape[0];
      const biases = bias.tensor!.floats();
      for (let i = 0; i < expected.length; i++) expected[i] += biases[Math.floor(i / perChannel) % weightShape[0]];
      const result = lowered(model, text);
      expect(result.graph.nodes.find((node) => node.op === 'ConvInteger')?.input(1).tensor?.dtype).toBe('uint8');
      for (const optimization of optimizations) {
        const found = await run(result, { x: Tensor.float32(shape, values) }, { optimization });
        expectClose(expected, found.y, `${text} ${optimization}`);
      }
    }
  });

  it('keeps auto_pad', async () => {
    for (const auto of ['SAME_UPPER', 'SAME_LOWER', 'VALID']) {
      const model = emptyModel();
      const x = addInput(model.graph, 'x', [1, 3, 8, 8]);
      const weight = model.graph.addInitializer('w', weightTensor([4, 3, 3, 3]));
      const attributes = { auto_pad: auto, strides: [2, 2] };
      addOutput(model.graph, model.graph.add({ op: 'Conv', inputs: [x, weight], outputs: ['y'], attributes }).output());
      const values = noiseTensor([1, 3, 8, 8], 9)
        .floats()
        .map((value) => value - 0.3);
      const rounded = withDequantized(model, () => parseScheme('int8'), true);
      const expected = await run(rounded, { x: Tensor.float32([1, 3, 8, 8], dynamicRound(values)) });
      const found = await run(lowered(model, 'int8'), { x: Tensor.float32([1, 3, 8, 8], values) });
      expect(relativeError(expected.y, found.y), auto).toBeLessThan(2e-6);
    }
  });

  it('adds a bias that is computed', async () => {
    const model = emptyModel();
    const x = addInput(model.graph, 'x', [1, 3, 8, 8]);
    const bias = addInput(model.graph, 'bias', [4]);
    const weight = model.graph.addInitializer('w', weightTensor([4, 3, 3, 3]));
    addOutput(model.graph, model.graph.add({ op: 'Conv', inputs: [x, weight, bias], outputs: ['y'] }).output());
    const values = noiseTensor([1, 3, 8, 8], 9).floats();
    const biases = noiseTensor([4], 2);
    const rounded = withDequantized(model, () => parseScheme('int8'), true);
    const expected = await run(rounded, { x: Tensor.float32([1, 3, 8, 8], dynamicRound(values)), bias: biases });
    const found = await run(lowered(model, 'int8'), { x: Tensor.float32([1, 3, 8, 8], values), bias: biases });
    expect(relativeError(expected.y, found.y)).toBeLessThan(2e-6);
  });
});

describe('dynamic', () => {
  it('stores as many bytes as it predicts', () => {
    const sizes = (model: Model, text: string) =>
      [...lowered(model, text).graph.initializers].reduce((sum, value) => sum + value.tensor!.bytes.byteLength, 0);
    for (const text of ['int8:channel', 'int8:tensor', 'uint8:channel:asym', 'int8:channel:sym:scale16']) {
      const model = emptyModel();
      const x = addInput(model.graph, 'x', [2, 40]);
      const weight = model.graph.addInitializer('w', weightTensor([40, 9]));
      addOutput(model.graph, model.graph.add({ op: 'MatMul', inputs: [x, weight], outputs: ['y'] }).output());
      const scheme = parseScheme(text);
      const { count } = parameterLayout(scheme, 9, 40);
      expect(sizes(model, text), text).toBe(dynamicBytes(9, 40, count, { scheme }));
    }
  });
});

describe('dynamic refuses', () => {
  function layer(op: string, shape: Shape, weightShape: Shape, dtype: 'float32' | 'float16' = 'float32'): Model {
    const model = emptyModel();
    const x = addInput(model.graph, 'x', shape, dtype);
    const weight = model.graph.addInitializer('w', noiseTensor(weightShape, 3, dtype));
    model.graph.add({ op, name: 'layer', inputs: [x, weight], outputs: ['y'] });
    return model;
  }
  const reasonFor = (model: Model, text: string) => dynamic.refuses(findWeights(model)[0], parseScheme(text));

  it.each([
    ['int4:channel', 'dynamic quantization expects 8-bit weights, got 4 bits'],
    ['int16:channel', 'dynamic quantization expects 8-bit weights, got 16 bits'],
    ['int8:g32', 'dynamic quantization expects a scale per tensor or channel, got blocks'],
    ['uint8:channel:asym:float-zero', 'dynamic quantization expects integer zero points, got float ones'],
  ])('%s', (text, reason) => {
    expect(reasonFor(layer('MatMul', [2, 40], [40, 9]), text)).toBe(reason);
  });

  it('convolutions with a zero point per channel, as ONNX Runtime does', () => {
    const reason = 'ConvInteger expects one zero point: a symmetric scheme, or one scale per tensor';
    expect(reasonFor(layer('Conv', [1, 3, 8, 8], [4, 3, 3, 3]), 'uint8:channel:asym')).toBe(reason);
    expect(reasonFor(layer('Conv', [1, 3, 8, 8], [4, 3, 3, 3]), 'uint8:tensor:asym')).toBeUndefined();
  });

  it('float16 layers, transposed convolutions, tables, recurrent layers other than LSTM', () => {
    expect(reasonFor(layer('MatMul', [2, 40], [40, 9], 'float16'), 'int8')).toBe(
      'DynamicQuantizeLinear expects float32 activations, got float16',
    );
    expect(reasonFor(layer('ConvTranspose', [1, 4, 8, 8], [4, 3, 3, 3]), 'int8')).toBe(
      'expected a MatMul or Gemm, got ConvTranspose "layer"',
    );
    expect(reasonFor(layer('Add', [2, 40], [2, 40]), 'int8')).toBe('expected a MatMul or Gemm, got Add "layer"');
    expect(reasonFor(layer('GRU', [4, 2, 9], [1, 15, 9]), 'int8')).toBe(
      'expected an LSTM, got GRU "layer": there is no integer operator for it',
    );
    expect(reasonFor(layer('MatMul', [40], [2, 40, 9]), 'int8')).toBe(
      'expected a matrix as input of MatMul "layer", got a vector',
    );
  });

  it('a weight that a convolution shares with something else', () => {
    const model = layer('Conv', [1, 3, 8, 8], [4, 3, 3, 3]);
    const [{ value }] = findWeights(model);
    model.graph.add({ op: 'Add', name: 'sum', inputs: [value, value], outputs: ['z'] });
    expect(reasonFor(model, 'int8')).toBe('expected only convolutions to read it, got Add "sum"');
  });

  it('a Gemm that scales a computed C', () => {
    const model = emptyModel();
    const { graph } = model;
    const inputs = [
      addInput(graph, 'x', [2, 40]),
      graph.addInitializer('w', noiseTensor([40, 9])),
      addInput(graph, 'c', [9]),
    ];
    graph.add({ op: 'Gemm', name: 'fc', inputs, outputs: ['y'] }).setFloat('beta', 0.5);
    expect(reasonFor(model, 'int8')).toBe('expected Gemm "fc" with beta = 1, got 0.5');
  });
});
