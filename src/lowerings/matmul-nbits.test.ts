/** MatMulNBits against ONNX Runtime: the same results as with the dequantized weight, and what is refused and why. */
import { describe, expect, it } from 'vitest';
import {
  addInput,
  addOutput,
  branchesModel,
  copyOf,
  decibels,
  emptyModel,
  executedOperators,
  finished,
  noiseTensor,
  quantized,
  relativeError,
  run,
  withDequantized,
  withLowered,
} from '../../test/support/lowered.ts';
import { parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import { formatScheme, parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import { type AccuracyLevel, lowerMatmulNbits, matmulNbits, matmulNbitsBytes } from './matmul-nbits.ts';
import { findWeights, SharedConstants, type Weight } from './weight.ts';

/** Numbers away from zero, so that zero points differ from block to block and from the middle code. */
function weightTensor(shape: Shape, seed: number, dtype: 'float32' | 'float16' = 'float32'): Tensor {
  const floats = noiseTensor(shape, seed).floats();
  return Tensor.float32(
    shape,
    floats.map((value, index) => value * (1 + (index % 3)) + 0.3 * ((index >> 4) % 3)),
  ).converted(dtype);
}

interface Linear {
  readonly columns: number;
  readonly rows: number;
  readonly gemm?: { readonly transB: 0 | 1; readonly c?: Tensor };
  readonly dtype?: 'float32' | 'float16';
}

/** `y = x·W` (+ c) with x of two or, for MatMul, three dimensions. */
function linear({ columns, rows, gemm, dtype = 'float32' }: Linear): Model {
  const model = emptyModel();
  const { graph } = model;
  const x = addInput(graph, 'x', gemm ? [4, columns] : [2, 4, columns], dtype);
  const weight = graph.addInitializer('w', weightTensor(gemm?.transB ? [rows, columns] : [columns, rows], 3, dtype));
  const c = gemm?.c && graph.addInitializer('c', gemm.c);
  const node = graph.add({
    op: gemm ? 'Gemm' : 'MatMul',
    name: 'layer',
    inputs: [x, weight, ...(c ? [c] : [])],
    outputs: ['y'],
    attributes: gemm?.transB ? { transB: 1 } : {},
  });
  addOutput(graph, node.output(), dtype);
  return model;
}

function feedsOf(model: Model) {
  const [x] = model.graph.inputs;
  return { x: noiseTensor(x.type!.shape as number[], 9, x.type!.dtype as 'float32') };
}

const isMatrix = (weight: Weight) => weight.use.kind === 'matrix';

function lowered(model: Model, text: string, level: AccuracyLevel): Model {
  const scheme = parseScheme(text);
  return withLowered(
    model,
    (weight) => (isMatrix(weight) ? scheme : undefined),
    matmulNbits,
    (weight, matrix, constants) => lowerMatmulNbits(weight, matrix, constants, level),
  );
}

async function errorOf(model: Model, text: string, level: AccuracyLevel): Promise<number> {
  const scheme = parseScheme(text);
  const expected = await run(
    withDequantized(model, (weight) => (isMatrix(weight) ? scheme : undefined)),
    feedsOf(model),
  );
  return relativeError(expected.y, (await run(lowered(model, text, level), feedsOf(model))).y);
}

const schemes = [2, 4, 8].flatMap((bits) =>
  [`int${bits}`, `uint${bits}`].flatMap((format) =>
    [16, 32, 128, 256].flatMap((size) => [
      `${format}:g${size}:sym`,
      `${format}:g${size}:asym`,
      `${format}:g${size}:asym:scale32`,
      ...(bits === 8 ? [] : [`${format}:g${size}:asym:float-zero`, `${format}:g${size}:asym:float-zero:scale32`]),
    ]),
  ),
);

describe('matmul-nbits', () => {
  it.each([256, 77, 10])('is exact at accuracy level 0 for %i columns, under every scheme', async (columns) => {
    const model = emptyModel();
    const x = addInput(model.graph, 'x', [2, 4, columns]);
    for (const text of schemes) {
      const weight = model.graph.addInitializer(text, weightTensor([columns, 7], 3));
      addOutput(model.graph, model.graph.add({ op: 'MatMul', inputs: [x, weight], outputs: [`${text}/y`] }).output());
    }
    const schemeOf = (weight: Weight) => parseScheme(weight.value.name);
    const expected = await run(withDequantized(model, schemeOf), feedsOf(model));
    const exact = withLowered(model, schemeOf, matmulNbits, (weight, matrix, constants) =>
      lowerMatmulNbits(weight, matrix, constants, 0),
    );
    const found = await run(exact, feedsOf(model));
    for (const text of schemes) {
      expect(relativeError(expected[`${text}/y`], found[`${text}/y`]), text).toBeLessThan(1e-5);
    }
  });

  it('rounds activations at accuracy level 4, the default, and stays within one percent', async () => {
    for (const text of [
      'int4:g32',
      'uint4:g32:asym',
      'int8:g64',
      'uint8:g32:asym',
      'int2:g64:asym',
      'uint4:g128:asym',
    ]) {
      const model = linear({ columns: 256, rows: 24 });
      const error = await errorOf(model, text, 4);
      expect(error, text).toBeLessThan(1e-2);
      const scheme = parseScheme(text);
      const choose = (weight: Weight) => (isMatrix(weight) ? scheme : undefined);
      const byDefault = withLowered(model, choose, matmulNbits, lowerMatmulNbits);
      expect(byDefault.graph.nodes.find((node) => node.op === 'MatMulNBits')?.int('accuracy_level')).toBe(4);
      const [exact, rounded] = [
        await run(lowered(model, text, 0), feedsOf(model)),
        await run(byDefault, feedsOf(model)),
      ];
      expect(decibels(exact.y.floats(), rounded.y.floats()), text).toBeGreaterThan(40);
    }
  });

  it.each([0, 1] as const)('lowers Gemm with transB = %i and every kind of C', async (transB) => {
    for (const shape of [undefined, [7], [1, 7], [1], [], [4, 1], [4, 7]]) {
      const model = linear({ columns: 40, rows: 7, gemm: { transB, c: shape && noiseTensor(shape, 5) } });
      const result = lowered(model, 'uint4:g16:asym', 0);
      const operators = result.graph.nodes.map((node) => node.op).filter((op) => op !== 'Cast');
      const own = shape === undefined || (shape.at(-1) === 7 && shape[0] !== 4);
      expect(operators, `C [${shape}]`).toEqual(own ? ['MatMulNBits'] : ['MatMulNBits', 'Add']);
      expect(result.graph.outputs[0].name).toBe('y');
      expect(result.graph.nodes.find((node) => node.op === 'MatMulNBits')?.name).toBe('layer');
      expect(await errorOf(model, 'uint4:g16:asym', 0), `C [${shape}]`).toBeLessThan(1e-5);
      expect(await errorOf(model, 'uint4:g16:asym', 4), `C [${shape}]`).toBeLessThan(1e-2);
    }
  });

  it('leaves one operator to run: scales stored as float16 are cast when the file is loaded', async () => {
    for (const text of ['int4:g32:sym', 'uint4:g32:asym', 'int2:g32:asym:float-zero', 'uint8:g32:asym:scale32']) {
      expect(await executedOperators(lowered(linear({ columns: 64, rows: 7 }), text, 4)), text).toEqual([
        'MatMulNBits',
      ]);
    }
  });

  it('runs float16 layers, in float32 where scales are float32', async () => {
    for (const text of [
      'int4:g32:sym',
      'uint4:g32:asym:scale32',
      'int4:g16:asym:float-zero',
      'uint8:g32:asym',
      'uint2:g32:asym',
    ]) {
      expect(await errorOf(linear({ columns: 77, rows: 7, dtype: 'float16' }), text, 0), text).toBeLessThan(3e-3);
      const c = noiseTensor([7], 5, 'float16');
      const gemm = linear({ columns: 77, rows: 7, dtype: 'float16', gemm: { transB: 1, c } });
      expect(await errorOf(gemm, text, 0), text).toBeLessThan(3e-3);
    }
  });

  it('takes negative scales', async () => {
    const model = linear({ columns: 77, rows: 7 });
    const negated = (level: AccuracyLevel) => {
      const copy = copyOf(model);
      const [weight] = findWeights(copy);
      const matrix = quantized(weight, parseScheme('int4:g32:sym'));
      const scales = matrix.scales.map((scale) => -scale);
      lowerMatmulNbits(weight, { ...matrix, scales }, new SharedConstants(copy), level);
      return finished(copy, matmulNbits.domains);
    };
    for (const level of [0, 4] as const) {
      const positive = (await run(lowered(model, 'int4:g32:sym', level), feedsOf(model))).y;
      const negative = (await run(negated(level), feedsOf(model))).y;
      const back = Tensor.float32(
        negative.shape,
        negative.floats().map((value) => -value),
      );
      expect(relativeError(positive, back)).toBeLessThan(1e-6);
    }
  });

  it('packs a tied weight once', async () => {
    const model = emptyModel();
    const { graph } = model;
    const x = addInput(graph, 'x', [4, 40]);
    const weight = graph.addInitializer('w', weightTensor([40, 40], 3));
    const first = graph.add({ op: 'MatMul', inputs: [x, weight], outputs: ['first'] }).output();
    const second = graph.add({ op: 'Gemm', inputs: [first, weight], outputs: ['y'] }).output();
    addOutput(graph, second);
    const result = lowered(model, 'uint4:g16:asym', 0);
    expect([...result.graph.initializers].map((value) => value.name).sort()).toEqual([
      'w/codes',
      'w/scale',
      'w/zero_point',
    ]);
    expect(result.graph.nodes.filter((node) => node.op === 'MatMulNBits')).toHaveLength(2);
    expect(await errorOf(model, 'uint4:g16:asym', 0)).toBeLessThan(1e-5);
  });

  it('lowers weights inside the branches of an If', async () => {
    const model = branchesModel([weightTensor([40, 9], 1), weightTensor([40, 9], 2)]);
    const scheme = parseScheme('uint4:g32:asym');
    const result = lowered(model, 'uint4:g32:asym', 0);
    expect(await executedOperators(result)).toEqual(['If', 'MatMulNBits', 'MatMulNBits']);
    for (const condition of [0, 1]) {
      const feeds = { x: noiseTensor([2, 40], 3), condition: new Tensor('bool', [], Uint8Array.of(condition)) };
      const expected = await run(
        withDequantized(model, () => scheme),
        feeds,
      );
      expect(relativeError(expected.y, (await run(result, feeds)).y)).toBeLessThan(1e-5);
    }
  });

  it('stores as many bytes as it predicts', () => {
    for (const columns of [64, 77]) {
      for (const text of [
        'int4:g32:sym',
        'uint4:g16:asym',
        'uint2:g16:asym:scale32',
        'int2:g32:asym:float-zero',
        'int8:g64:sym',
      ]) {
        const scheme = parseScheme(text);
        const result = lowered(linear({ columns, rows: 7 }), text, 4);
        const stored = [...result.graph.initializers]
          .filter((value) => !value.name.startsWith('halftone/'))
          .reduce((sum, value) => sum + value.tensor!.bytes.byteLength, 0);
        const { count } = parameterLayout(scheme, 7, columns);
        expect(stored, `${text} ${columns}`).toBe(matmulNbitsBytes(7, columns, count, { scheme }));
      }
    }
  });

  it('leaves out zero points that are the middle code', () => {
    const inputs = (text: string) =>
      lowered(linear({ columns: 64, rows: 7 }), text, 4).graph.nodes.at(-1)!.inputs.length;
    expect(inputs('int4:g32:sym')).toBe(3);
    expect(inputs('uint4:g32:sym')).toBe(3);
    expect(inputs('uint4:g32:asym')).toBe(4);
  });
});

describe('matmul-nbits refuses', () => {
  const reasonFor = (model: Model, text: string) =>
    matmulNbits.refuses(findWeights(model).find(isMatrix) ?? findWeights(model)[0], parseScheme(text));

  it.each([
    ['int16:g32', 'MatMulNBits expects 2, 4 or 8 bits, got 16'],
    ['nf4', 'MatMulNBits takes evenly spaced levels, got nf4'],
    ['mxfp4', 'MatMulNBits takes evenly spaced levels, got float4e2m1'],
    ['kmeans4', 'MatMulNBits takes evenly spaced levels, got kmeans4'],
    ['binary2', 'MatMulNBits takes evenly spaced levels, got binary2'],
    ['int8:channel', 'MatMulNBits expects a scale per block, got one per channel'],
    ['uint4:tensor', 'MatMulNBits expects a scale per block, got one per tensor'],
    ['int4:g8', 'MatMulNBits expects blocks of a power of two from 16 to 256, got 8'],
    ['int4:g48', 'MatMulNBits expects blocks of a power of two from 16 to 256, got 48'],
    ['int4:g512', 'MatMulNBits expects blocks of a power of two from 16 to 256, got 512'],
    ['uint8:g32:asym:float-zero', 'MatMulNBits expects integer zero points for 8 bits'],
    ['int5:g32:asym:float-zero', 'MatMulNBits expects integer zero points for 5 bits, which it runs as 8'],
  ])('%s', (text, reason) => {
    expect(reasonFor(linear({ columns: 64, rows: 7 }), text)).toBe(reason);
  });

  it('what ONNX Runtime would refuse or get wrong', async () => {
    // The reasons above are the runtime's: the same weights, lowered past the check, do not load or do not run.
    const odd = (bits: number, blockSize: number) => {
      const model = emptyModel();
      const { graph } = model;
      const x = addInput(graph, 'x', [1, blockSize]);
      const codes = graph.addInitializer(
        'codes',
        Tensor.uint8([1, 1, (blockSize * bits) / 8], new Uint8Array((blockSize * bits) / 8)),
      );
      const scales = graph.addInitializer('scales', Tensor.float32([1, 1], [1]));
      const attributes = { K: blockSize, N: 1, bits, block_size: blockSize };
      const node = graph.add({
        op: 'MatMulNBits',
        domain: 'com.microsoft',
        inputs: [x, codes, scales],
        outputs: ['y'],
        attributes,
      });
      addOutput(graph, node.output());
      return finished(model, ['com.microsoft']);
    };
    const feeds = (size: number) => ({ x: noiseTensor([1, size], 1) });
    await run(odd(4, 16), feeds(16));
    for (const [bits, size] of [
      [3, 32],
      [4, 8],
      [4, 512],
    ]) {
      await expect(run(odd(bits, size), feeds(size)), `${bits} bits, ${size}`).rejects.toThrow('onnxruntime');
    }
  });

  it('other readers, other shapes, other attributes', () => {
    const gemm = (attributes: Record<string, number>, floats: Record<string, number>) => {
      const model = linear({ columns: 64, rows: 64, gemm: { transB: 0, c: noiseTensor([64], 2) } });
      for (const [name, value] of Object.entries(attributes)) model.graph.nodes[0].set(name, value);
      for (const [name, value] of Object.entries(floats)) model.graph.nodes[0].setFloat(name, value);
      return reasonFor(model, 'int4:g32');
    };
    expect(gemm({}, {})).toBeUndefined();
    expect(gemm({ transA: 1 }, {})).toBe('expected Gemm "layer" with transA = 0, got 1');
    expect(gemm({}, { alpha: 2 })).toBe('expected Gemm "layer" with alpha = 1, got 2');
    expect(gemm({}, { beta: 0.5 })).toBe('expected Gemm "layer" with beta = 1, got 0.5');

    const tied = linear({ columns: 64, rows: 64 });
    const weight = findWeights(tied)[0].value;
    tied.graph.add({
      op: 'Gemm',
      name: 'other',
      inputs: [tied.graph.inputs[0], weight],
      outputs: ['z'],
      attributes: { transB: 1 },
    });
    expect(reasonFor(tied, 'int4:g32')).toBe(
      'expected all readers to see the same matrix, got MatMul "layer" and Gemm "other" transposed',
    );
    const looked = linear({ columns: 64, rows: 64 });
    const ids = addInput(looked.graph, 'ids', [1], 'int64');
    looked.graph.add({ op: 'Gather', name: 'lookup', inputs: [findWeights(looked)[0].value, ids], outputs: ['z'] });
    expect(reasonFor(looked, 'int4:g32')).toBe('expected a MatMul or Gemm, got Gather "lookup"');

    const first = emptyModel();
    const x = addInput(first.graph, 'x', [64, 3]);
    first.graph.add({
      op: 'MatMul',
      name: 'first',
      inputs: [first.graph.addInitializer('w', noiseTensor([7, 64])), x],
      outputs: ['y'],
    });
    expect(reasonFor(first, 'int4:g32')).toBe(
      'expected the weight to be the second factor of MatMul "first", got the first',
    );

    const batch = emptyModel();
    const xs = addInput(batch.graph, 'x', [2, 3, 64]);
    batch.graph.add({
      op: 'MatMul',
      name: 'batch',
      inputs: [xs, batch.graph.addInitializer('w', noiseTensor([2, 64, 7]))],
      outputs: ['y'],
    });
    expect(reasonFor(batch, 'int4:g32')).toBe('MatMulNBits expects one matrix, got a batch of them ([2,64,7])');
  });

  it('and does not lower what it refuses', () => {
    const model = linear({ columns: 64, rows: 7 });
    const [weight] = findWeights(model);
    const matrix: QuantizedMatrix = quantized(weight, parseScheme('int16:g32'));
    expect(() => lowerMatmulNbits(weight, matrix, new SharedConstants(model))).toThrow(
      'weight "w": expected one for MatMulNBits, got: MatMulNBits expects 2, 4 or 8 bits, got 16',
    );
    expect(formatScheme(matrix.scheme)).toBe('int16:g32:sym');
  });
});
