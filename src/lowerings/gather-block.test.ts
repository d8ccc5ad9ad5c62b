/** GatherBlockQuantized against ONNX Runtime: exact, for every layout that is not refused. */
import { describe, expect, it } from 'vitest';
import {
  addInput,
  addOutput,
  copyOf,
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
import { parameterLayout } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { Tensor } from '../tensor/tensor.ts';
import { gatherBlock, gatherBlockBytes, lowerGatherBlock } from './gather-block.ts';
import { findWeights, SharedConstants, type Weight } from './weight.ts';

const rows = 21;

/** Numbers away from zero, so that zero points differ from block to block and from the middle code. */
function table(width: number, dtype: 'float32' | 'float16'): Tensor {
  const floats = noiseTensor([rows, width], 4).floats();
  return Tensor.float32(
    [rows, width],
    floats.map((value, index) => value * (1 + (index % 3)) + 0.3 * ((index >> 4) % 3)),
  ).converted(dtype);
}

/** `y = table[ids]`. */
function lookup(width: number, indices: 'int32' | 'int64' = 'int64', dtype: 'float32' | 'float16' = 'float32'): Model {
  const model = emptyModel();
  const { graph } = model;
  const ids = addInput(graph, 'ids', [2, 4], indices);
  const weight = graph.addInitializer('w', table(width, dtype));
  addOutput(graph, graph.add({ op: 'Gather', name: 'embed', inputs: [weight, ids], outputs: ['y'] }).output(), dtype);
  return model;
}

/** First, last, repeated and, as Gather allows, counted from the end. */
const ids = [0, 20, 7, 7, -1, -21, 13, 1];
const feeds = { int64: { ids: Tensor.int64([2, 4], ids) }, int32: { ids: Tensor.int32([2, 4], ids) } };

const lowered = (model: Model, text: string) =>
  withLowered(model, () => parseScheme(text), gatherBlock, lowerGatherBlock);

const schemes = [2, 4, 8].flatMap((bits) =>
  [`int${bits}`, `uint${bits}`].flatMap((format) =>
    [16, 32, 64, 128, 256].flatMap((size) =>
      ['sym', 'asym', 'asym:scale32'].map((zero) => `${format}:g${size}:${zero}`),
    ),
  ),
);

describe('gather-block', () => {
  // 72, 100 and 20 leave a short last block for most sizes; 100 / 16 gives an odd number of blocks.
  it.each([
    [64, 'int64', 'float32'],
    [72, 'int32', 'float32'],
    [100, 'int64', 'float32'],
    [20, 'int64', 'float16'],
    [256, 'int32', 'float16'],
  ] as const)('is exact for rows of %i, %s indices, %s', async (width, indices, dtype) => {
    const model = emptyModel();
    const ids = addInput(model.graph, 'ids', [2, 4], indices);
    for (const text of schemes) {
      const weight = model.graph.addInitializer(text, table(width, dtype));
      const gathered = model.graph.add({ op: 'Gather', inputs: [weight, ids], outputs: [`${text}/y`] }).output();
      addOutput(model.graph, gathered, dtype);
    }
    const schemeOf = (weight: Weight) => parseScheme(weight.value.name);
    const expected = await run(withDequantized(model, schemeOf), feeds[indices]);
    const found = await run(withLowered(model, schemeOf, gatherBlock, lowerGatherBlock), feeds[indices]);
    for (const text of schemes) {
      const result = found[`${text}/y`];
      expect(result.dtype).toBe(dtype);
      expect(result.floats(), text).toEqual(expected[`${text}/y`].floats());
    }
  });

  it('leaves one operator to run, under the names of the original', async () => {
    const result = lowered(lookup(64), 'uint4:g32:asym');
    expect(await executedOperators(result)).toEqual(['GatherBlockQuantized']);
    expect(result.graph.outputs[0].name).toBe('y');
    expect(result.graph.nodes.at(-1)?.name).toBe('embed');
  });

  it('takes negative scales', async () => {
    const model = lookup(72);
    const copy = copyOf(model);
    const [weight] = findWeights(copy);
    const matrix = quantized(weight, parseScheme('int4:g32:sym'));
    lowerGatherBlock(weight, { ...matrix, scales: matrix.scales.map((scale) => -scale) }, new SharedConstants(copy));
    const negative = await run(finished(copy, gatherBlock.domains), feeds.int64);
    const positive = await run(lowered(model, 'int4:g32:sym'), feeds.int64);
    expect(
      relativeError(
        positive.y,
        Tensor.float32(
          negative.y.shape,
          negative.y.floats().map((value) => -value),
        ),
      ),
    ).toBe(0);
  });

  it('packs a table once for several lookups', async () => {
    const model = lookup(72);
    const { graph } = model;
    const more = addInput(graph, 'more', [3], 'int32');
    addOutput(graph, graph.add({ op: 'Gather', inputs: [findWeights(model)[0].value, more], outputs: ['z'] }).output());
    const both = { ...feeds.int64, more: Tensor.int32([3], [4, 0, 20]) };
    const result = lowered(model, 'uint4:g16:asym');
    expect([...result.graph.initializers].map((value) => value.name).sort()).toEqual([
      'w/codes',
      'w/scale',
      'w/zero_point',
    ]);
    const expected = await run(
      withDequantized(model, () => parseScheme('uint4:g16:asym')),
      both,
    );
    const found = await run(result, both);
    for (const name of ['y', 'z']) expect(found[name].floats()).toEqual(expected[name].floats());
  });

  it('stores as many bytes as it predicts', () => {
    for (const width of [64, 100]) {
      for (const text of ['int4:g32:sym', 'uint4:g16:asym', 'uint2:g16:asym:scale32', 'int8:g64:asym']) {
        const scheme = parseScheme(text);
        const stored = [...lowered(lookup(width), text).graph.initializers].reduce(
          (sum, value) => sum + value.tensor!.bytes.byteLength,
          0,
        );
        const { count } = parameterLayout(scheme, rows, width);
        expect(stored, `${text} ${width}`).toBe(gatherBlockBytes(rows, width, count, { scheme }));
      }
    }
  });
});

describe('gather-block refuses', () => {
  it.each([
    [64, 'int16:g32', 'GatherBlockQuantized expects 2, 4 or 8 bits, got 16'],
    [64, 'nf4:g32', 'GatherBlockQuantized takes evenly spaced levels, got nf4'],
    [64, 'kmeans4', 'GatherBlockQuantized takes evenly spaced levels, got kmeans4'],
    [64, 'binary2', 'GatherBlockQuantized takes evenly spaced levels, got binary2'],
    [64, 'int8:channel', 'GatherBlockQuantized expects a scale per block, got one per channel'],
    [64, 'int4:g8', 'GatherBlockQuantized expects blocks of a power of two from 16 to 256, got 8'],
    [64, 'uint4:g32:asym:float-zero', 'GatherBlockQuantized expects integer zero points, got float ones'],
    [64, 'uint1:g32', 'GatherBlockQuantized expects integer zero points, got float ones'],
    [65, 'int3:g32', 'GatherBlockQuantized expects rows of whole bytes, got 65 codes of 4 bits'],
    [66, 'int1:g32', 'GatherBlockQuantized expects rows of whole bytes, got 66 codes of 2 bits'],
    [65, 'int4:g32', 'GatherBlockQuantized expects rows of whole bytes, got 65 codes of 4 bits'],
    [66, 'int2:g32', 'GatherBlockQuantized expects rows of whole bytes, got 66 codes of 2 bits'],
  ])('rows of %i in %s', (width, text, reason) => {
    const [weight] = findWeights(lookup(width));
    expect(gatherBlock.refuses(weight, parseScheme(text))).toBe(reason);
  });

  it('a table that another layer multiplies with', () => {
    const model = lookup(64);
    const [{ value }] = findWeights(model);
    const x = addInput(model.graph, 'x', [1, rows]);
    model.graph.add({ op: 'MatMul', name: 'head', inputs: [x, value], outputs: ['z'] });
    const [weight] = findWeights(model);
    expect(gatherBlock.refuses(weight, parseScheme('int4:g32'))).toBe(
      'expected Gather along axis 0 as the only reader, got MatMul "head" as well',
    );
  });

  it('tables of more than two axes', () => {
    const model = emptyModel();
    const ids = addInput(model.graph, 'ids', [1], 'int64');
    model.graph.add({
      op: 'Gather',
      inputs: [model.graph.addInitializer('w', noiseTensor([5, 2, 64])), ids],
      outputs: ['y'],
    });
    expect(gatherBlock.refuses(findWeights(model)[0], parseScheme('int4:g32'))).toBe(
      'GatherBlockQuantized expects a table of vectors, got [5,2,64]',
    );
  });
});
