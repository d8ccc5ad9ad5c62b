/** Fold-at-load against ONNX Runtime: rebuilt weights are the quantized ones, to the bit, and nothing but layers runs. */
import { describe, expect, it } from 'vitest';
import { emptyModel as emptyModelOf } from '../../test/support/before-after.ts';
import {
  addInput,
  addOutput,
  branchesModel,
  copyOf,
  dequantized,
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
import { formatIds, formatOf } from '../formats/index.ts';
import { namedSchemes } from '../formats/named.ts';
import { parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import { formatScheme, isAffine, parseScheme, type Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { solverOf } from '../solvers/index.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import { foldAtLoad, foldAtLoadBytes, lowerFoldAtLoad } from './fold-at-load.ts';
import { findWeights, SharedConstants, type Weight } from './weight.ts';

const widths = [2, 3, 4, 5, 6, 7, 8, 16];

/** Every width, signed and not, with every granularity and kind of zero point; ragged blocks, blocks longer than rows. */
const schemes = [
  ...widths.flatMap((bits) =>
    [`int${bits}`, `uint${bits}`].flatMap((format) =>
      ['tensor', 'channel', 'g32', 'g7', 'g4096'].flatMap((granularity) =>
        // A float16 cannot hold every zero point of 16-bit codes.
        ['sym', 'asym', bits === 16 ? 'asym:float-zero:scale32' : 'asym:float-zero'].map(
          (zero) => `${format}:${granularity}:${zero}`,
        ),
      ),
    ),
  ),
  ...['tensor', 'channel', 'g32', 'g7'].flatMap((granularity) => [
    `int1:${granularity}:sym`,
    `uint1:${granularity}:asym`,
    `int4:${granularity}:sym:scale16`,
    `uint3:${granularity}:asym:scale32`,
    `int6:${granularity}:asym:float-zero:scale16`,
    `int5:${granularity}:asym:float-zero:scale32`,
  ]),
].map(parseScheme);
/** Every fourth, which is some of each: 4 and the 15 schemes of a format have no common factor. */
const someSchemes = schemes.filter((_, index) => index % 4 === 0);

/** Weights away from zero, so that zero points differ. */
function weightTensor(shape: Shape, seed: number, dtype: 'float32' | 'float16' = 'float32'): Tensor {
  return Tensor.float32(
    shape,
    noiseTensor(shape, seed)
      .floats()
      .map((value, index) => value * (1 + (index % 3)) + 0.2),
  ).converted(dtype);
}

interface Layer {
  readonly name: string;
  readonly input: Shape;
  readonly weights: readonly Shape[];
  readonly dtype?: 'float32' | 'float16';
  readonly indices?: readonly number[];
  /** Default 1e-6. Recurrent layers carry differences on; a float16 may round either way. */
  readonly tolerance?: number;
  readonly add: (graph: Graph, x: Value, weights: readonly Value[]) => Value;
}

function node(
  op: string,
  order: 'first' | 'second' = 'second',
  attributes: Record<string, number | readonly number[] | string> = {},
): Layer['add'] {
  return (graph, x, weights) =>
    graph.add({
      op,
      inputs: order === 'first' ? [weights[0], x] : [x, ...weights],
      outputs: [`${weights[0].name}/result`],
      attributes,
    }).outputs[0]!;
}

const layers: readonly Layer[] = [
  { name: 'MatMul', input: [3, 40], weights: [[40, 9]], add: node('MatMul') },
  { name: 'MatMul of a batch', input: [2, 3, 40], weights: [[2, 40, 5]], add: node('MatMul') },
  {
    name: 'MatMul with the weight first',
    input: [40, 3],
    weights: [[9, 40]],
    add: node('MatMul', 'first'),
  },
  { name: 'Gemm', input: [3, 40], weights: [[40, 9]], add: node('Gemm') },
  {
    name: 'Gemm, transB',
    input: [3, 40],
    weights: [[9, 40]],
    add: node('Gemm', 'second', { transB: 1 }),
  },
  { name: 'Conv', input: [1, 4, 6, 6], weights: [[5, 4, 3, 3]], add: node('Conv') },
  { name: 'Conv, 1-D', input: [1, 9, 11], weights: [[5, 9, 5]], add: node('Conv') },
  {
    name: 'Conv, depthwise',
    input: [1, 6, 7, 7],
    weights: [[6, 1, 5, 5]],
    add: node('Conv', 'second', { group: 6 }),
  },
  {
    name: 'ConvTranspose',
    input: [1, 5, 6, 6],
    weights: [[5, 4, 3, 3]],
    add: node('ConvTranspose'),
  },
  {
    name: 'LSTM, two directions',
    tolerance: 1e-5,
    input: [4, 2, 11],
    weights: [
      [2, 20, 11],
      [2, 20, 5],
    ],
    add: node('LSTM', 'second', { hidden_size: 5, direction: 'bidirectional' }),
  },
  {
    name: 'GRU',
    tolerance: 1e-5,
    input: [4, 2, 11],
    weights: [
      [1, 15, 11],
      [1, 15, 5],
    ],
    add: node('GRU', 'second', { hidden_size: 5 }),
  },
  {
    name: 'Gather',
    input: [2, 3],
    indices: [0, 1, 8, 3, 3, 5],
    weights: [[9, 40]],
    add: node('Gather', 'first'),
  },
  { name: 'Add', input: [3, 40], weights: [[3, 40]], add: node('Add') },
  {
    name: 'MatMul, float16',
    tolerance: 2e-3,
    input: [3, 40],
    weights: [[40, 9]],
    dtype: 'float16',
    add: node('MatMul'),
  },
];

/** One layer per scheme, all of the same input, each with its result as an output. */
function build(layer: Layer, count: number, opset = 17): { model: Model; feeds: Feeds } {
  const model = emptyModelOf(opset);
  const { graph } = model;
  const dtype = layer.dtype ?? 'float32';
  const x = addInput(graph, 'x', layer.input, layer.indices ? 'int64' : dtype);
  for (let index = 0; index < count; index++) {
    const weights = layer.weights.map((shape, which) =>
      graph.addInitializer(`${index}/${which}`, weightTensor(shape, index * 2 + which + 1, dtype)),
    );
    addOutput(graph, layer.add(graph, x, weights), dtype);
  }
  const input = layer.indices ? Tensor.int64(layer.input, [...layer.indices]) : noiseTensor(layer.input, 77, dtype);
  return { model, feeds: { x: input } };
}

/** The scheme of the layer that a weight's name begins with. */
const schemeFrom = (list: typeof schemes) => (weight: Weight) => list[Number(weight.value.name.split('/')[0])];

describe.each(layers)('fold-at-load: $name', (layer) => {
  it('gives what the dequantized weight gives', async () => {
    const { model, feeds } = build(layer, someSchemes.length);
    const schemeOf = schemeFrom(someSchemes);
    const lowered = withLowered(model, schemeOf, foldAtLoad, lowerFoldAtLoad);
    const float = withDequantized(model, schemeOf);
    for (const optimization of ['disabled', 'all'] as const) {
      const expected = await run(float, feeds, { optimization });
      const found = await run(lowered, feeds, { optimization });
      expect(Object.keys(found)).toEqual(Object.keys(expected));
      for (const [index, name] of Object.keys(expected).entries()) {
        const tolerance = layer.tolerance ?? 1e-6;
        expect(
          relativeError(expected[name], found[name]),
          `${formatScheme(someSchemes[index])} ${optimization}`,
        ).toBeLessThan(tolerance);
      }
    }
  });

  it('leaves nothing but the layer in the graph that runs', async () => {
    const chosen = ['int8:channel', 'int4:g7', 'uint3:channel:asym', 'uint1:g32', 'int16:tensor:asym:scale16'].map(
      parseScheme,
    );
    for (const scheme of chosen) {
      const { model } = build(layer, 1);
      const executed = await executedOperators(withLowered(model, () => scheme, foldAtLoad, lowerFoldAtLoad));
      expect(executed, formatScheme(scheme)).toEqual(await executedOperators(model));
    }
  });
});

describe('fold-at-load', () => {
  /** Tensors whose axes are permuted in the matrix, and one that is not. */
  const shapes: readonly (readonly [string, Shape, Layer['add']])[] = [
    ['MatMul', [40, 9], node('MatMul')],
    ['ConvTranspose', [4, 5, 3, 3], node('ConvTranspose')],
    ['Gemm', [9, 40], node('Gemm', 'second', { transB: 1 })],
  ];

  it.each(shapes)(
    'rebuilds the tensor of %s to the bit, or to the last bits where zero points are floats',
    async (op, shape, add) => {
      const schemeOf = schemeFrom(schemes);
      const model = emptyModel();
      const { graph } = model;
      const inputs = { MatMul: [2, 40], ConvTranspose: [1, 4, 3, 3], Gemm: [2, 40] }[op]!;
      const x = addInput(graph, 'x', inputs);
      for (let index = 0; index < schemes.length; index++) {
        const weight = graph.addInitializer(`${index}`, weightTensor(shape, index + 1));
        add(graph, x, [weight]);
        addOutput(graph, graph.add({ op: 'Identity', inputs: [weight], outputs: [`${index}/copy`] }).output());
      }
      const found = await run(withLowered(model, schemeOf, foldAtLoad, lowerFoldAtLoad), {
        x: noiseTensor(inputs, 3),
      });
      for (const weight of findWeights(model)) {
        const scheme = schemeOf(weight);
        const expected = dequantized(weight, quantized(weight, scheme));
        const result = found[`${weight.value.name}/copy`];
        const text = formatScheme(scheme);
        if (scheme.zeroPointType === 'integer' || scheme.symmetric) {
          expect(result.floats(), text).toEqual(expected.floats());
        } else {
          expect(relativeError(expected, result), text).toBeLessThan(1e-6);
        }
      }
    },
  );

  it('takes negative scales', async () => {
    const scheme = parseScheme('int4:g32:sym');
    const model = emptyModel();
    const weight = model.graph.addInitializer('w', weightTensor([40, 9], 5));
    addOutput(
      model.graph,
      model.graph.add({ op: 'MatMul', inputs: [addInput(model.graph, 'x', [1, 40]), weight], outputs: ['y'] }).output(),
    );
    const feeds = { x: noiseTensor([1, 40], 6) };
    const positive = await run(
      withLowered(model, () => scheme, foldAtLoad, lowerFoldAtLoad),
      feeds,
    );
    const negative = withLowered(
      model,
      () => scheme,
      foldAtLoad,
      (given, matrix, constants) =>
        lowerFoldAtLoad(given, { ...matrix, scales: matrix.scales.map((scale) => -scale) }, constants),
    );
    const found = (await run(negative, feeds)).y;
    expect(found.floats().map((value) => -value)).toEqual(positive.y.floats());
  });

  it('rebuilds a tied weight once for all its readers', async () => {
    const scheme = parseScheme('int4:g32');
    const model = emptyModel();
    const { graph } = model;
    const indices = addInput(graph, 'indices', [3], 'int64');
    const table = graph.addInitializer('table', weightTensor([30, 40], 2));
    const gathered = graph.add({ op: 'Gather', inputs: [table, indices], outputs: ['gathered'] }).output();
    const transposed = graph.add({
      op: 'Transpose',
      inputs: [table],
      outputs: ['transposed'],
      attributes: { perm: [1, 0] },
    });
    const logits = graph.add({ op: 'MatMul', inputs: [gathered, transposed.output()], outputs: ['logits'] }).output();
    addOutput(graph, logits);
    const feeds = { indices: Tensor.int64([3], [0, 29, 7]) };
    const lowered = withLowered(model, () => scheme, foldAtLoad, lowerFoldAtLoad);
    expect([...lowered.graph.initializers].filter((value) => value.name.startsWith('table/codes'))).toHaveLength(1);
    const [expected, found] = [
      await run(
        withDequantized(model, () => scheme),
        feeds,
      ),
      await run(lowered, feeds),
    ];
    expect(relativeError(expected.logits, found.logits)).toBeLessThan(1e-6);
  });

  it('rebuilds weights inside the branches of an If', async () => {
    const scheme = parseScheme('int4:g32:asym');
    const model = branchesModel([weightTensor([40, 9], 1), weightTensor([40, 9], 2)]);
    const lowered = withLowered(model, () => scheme, foldAtLoad, lowerFoldAtLoad);
    expect(new Set(await executedOperators(lowered))).toEqual(new Set(['If', 'MatMul']));
    for (const condition of [0, 1]) {
      const feeds = { x: noiseTensor([2, 40], 3), condition: new Tensor('bool', [], Uint8Array.of(condition)) };
      const [expected, found] = [
        await run(
          withDequantized(model, () => scheme),
          feeds,
        ),
        await run(lowered, feeds),
      ];
      expect(relativeError(expected.y, found.y)).toBeLessThan(1e-6);
    }
  });
});

/** The scheme, where there is one of this name. Sums of signs have no scales that are multiples of a float8. */
function schemesCalled(text: string): Scheme[] {
  if (/^binary.*e4m3$/.test(text)) return [];
  try {
    return [parseScheme(text)];
  } catch {
    return [];
  }
}

/** Every format with everything that may share a scale and every type of scale, but those that are tested above. */
const allSchemes = [
  ...formatIds
    .filter((id) => formatOf(id).kind !== 'float')
    .flatMap((id) =>
      ['tensor', 'channel', 'g20', 'g7', 'g4096'].flatMap((share) =>
        ['scale32', 'scale16', 'scale8', 'scale-e8m0', 'scale-e4m3'].flatMap((scale) =>
          (formatOf(id).kind === 'int' ? [':sym', ':asym'] : ['']).flatMap((zero) =>
            schemesCalled(`${id}:${share}${zero}:${scale}`),
          ),
        ),
      ),
    )
    .filter((scheme) => scheme.format === 'ternary' || !isAffine(scheme)),
  ...namedSchemes.flatMap(({ id }) => [parseScheme(id), parseScheme(`${id}:g12`)]),
];

/** A model as lowered, the same with the numbers that its weights stand for, and what each was quantized to. */
interface Pair {
  readonly lowered: Model;
  readonly float: Model;
  readonly matrices: ReadonlyMap<string, QuantizedMatrix>;
}

function lowerSolved(model: Model, schemeOf: (weight: Weight) => Scheme): Pair {
  const [lowered, float] = [copyOf(model), copyOf(model)];
  const constants = new SharedConstants(lowered);
  const matrices = new Map<string, QuantizedMatrix>();
  for (const weight of findWeights(lowered)) {
    const { view } = weight.use;
    const values = toMatrix(weight.tensor.floats(), view);
    const matrix = solverOf('search').solve(values, view.rows, view.columns, schemeOf(weight));
    matrices.set(weight.value.name, matrix);
    lowerFoldAtLoad(weight, matrix, constants);
  }
  for (const weight of findWeights(float)) {
    weight.value.tensor = dequantized(weight, matrices.get(weight.value.name) as QuantizedMatrix);
  }
  return { lowered: finished(lowered), float, matrices };
}

/** Bytes of the initializers of each layer, without what all share. */
function storedBytes(model: Model): Map<string, number> {
  const bytes = new Map<string, number>();
  for (const { name, tensor } of model.graph.initializers) {
    const [layer, which] = name.split('/');
    if (layer === 'halftone' || !tensor) continue;
    const key = `${layer}/${which}`;
    bytes.set(key, (bytes.get(key) ?? 0) + tensor.byteLength);
  }
  return bytes;
}

describe.each([
  ['MatMul', 1],
  ['Conv', 3],
  ['ConvTranspose', 5],
  ['LSTM, two directions', 7],
  ['Gather', 7],
  ['MatMul, float16', 5],
])('fold-at-load of every kind of format: %s', (name, step) => {
  const layer = layers.find((candidate) => candidate.name === name) as Layer;
  const some = allSchemes.filter((_, index) => index % step === 0);

  it.each([11, 19])('is exact, is folded, and has the bytes predicted, at opset %i', async (opset) => {
    const chosen = some.filter((scheme) => foldAtLoad.requiredOpset(scheme) === opset);
    const { model, feeds } = build(layer, chosen.length, opset);
    const { lowered, float, matrices } = lowerSolved(model, schemeFrom(chosen) as (weight: Weight) => Scheme);

    const bytes = storedBytes(lowered);
    for (const [weight, { scheme: asked, rows, columns, zeroPoints }] of matrices) {
      const scheme = { ...asked, symmetric: zeroPoints.every((zeroPoint) => zeroPoint === zeroPoints[0]) };
      const { count } = parameterLayout(scheme, rows, columns);
      expect(bytes.get(weight), formatScheme(scheme)).toBe(foldAtLoadBytes(rows, columns, count, { scheme }));
    }
    expect(await executedOperators(lowered)).toEqual(await executedOperators(float));

    const made = new Map(lowered.graph.nodes.map((node) => [node.output().name, node.output()]));
    const rebuilt = (weight: string) => `${weight}/${layer.dtype ?? 'weight'}`;
    for (const weight of matrices.keys()) addOutput(lowered.graph, made.get(rebuilt(weight)) as Value, layer.dtype);
    const expected = await run(float, feeds);
    const found = await run(lowered, feeds);
    for (const { value, tensor } of findWeights(float)) {
      const text = formatScheme((matrices.get(value.name) as QuantizedMatrix).scheme);
      expect(relativeError(tensor, found[rebuilt(value.name)]), text).toBe(0);
    }
    for (const [index, key] of Object.keys(expected).entries()) {
      const text = formatScheme(chosen[index]);
      expect(relativeError(expected[key], found[key]), text).toBeLessThan(layer.tolerance ?? 1e-6);
    }
  });
});
