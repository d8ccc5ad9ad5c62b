/** DynamicQuantizeLSTM against the float LSTM with the same rounded weights: every direction, input and attribute. */
import { describe, expect, it } from 'vitest';
import {
  addInput,
  addOutput,
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
} from '../../test/support/lowered.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import { dynamic, lowerDynamicLstm } from './dynamic.ts';
import { findWeights, type Weight } from './weight.ts';

const [time, batch, size, hidden] = [6, 3, 12, 8];

/** Every gate has a magnitude of its own, so that a scale in the wrong place shows. */
function weightTensor(shape: Shape, seed: number): Tensor {
  const columns = shape[shape.length - 1];
  const floats = noiseTensor(shape, seed).floats();
  return Tensor.float32(
    shape,
    floats.map((value, index) => value * 0.15 * (1 + (Math.floor(index / columns) % 5)) + 0.03),
  );
}

interface Options {
  readonly direction?: 'forward' | 'reverse' | 'bidirectional';
  /** Names of optional inputs to give, of B, sequence_lens, initial_h, initial_c and P. */
  readonly optional?: readonly string[];
  readonly change?: (node: Node) => void;
  /** Which of Y, Y_h and Y_c the node has. */
  readonly outputs?: readonly (string | undefined)[];
}

function lstm({ direction = 'forward', optional = [], change, outputs = ['y', 'yh', 'yc'] }: Options): Model {
  const model = emptyModel();
  const { graph } = model;
  const directions = direction === 'bidirectional' ? 2 : 1;
  const x = addInput(graph, 'x', [time, batch, size]);
  const given: Record<string, Tensor> = {
    b: noiseTensor([directions, 8 * hidden], 5),
    lengths: Tensor.int32([batch], [6, 4, 2]),
    h: noiseTensor([directions, batch, hidden], 6),
    c: noiseTensor([directions, batch, hidden], 7),
    p: noiseTensor([directions, 3 * hidden], 8),
  };
  const inputs: (Value | undefined)[] = [
    x,
    graph.addInitializer('w', weightTensor([directions, 4 * hidden, size], 3)),
    graph.addInitializer('r', weightTensor([directions, 4 * hidden, hidden], 4)),
    ...Object.entries(given).map(([name, tensor]) =>
      optional.includes(name) ? graph.addInitializer(name, tensor) : undefined,
    ),
  ];
  while (inputs.at(-1) === undefined) inputs.pop();
  const attributes = { hidden_size: hidden, direction };
  const node = graph.add({ op: 'LSTM', name: 'lstm', inputs, outputs, attributes });
  change?.(node);
  for (const output of node.outputs) if (output) addOutput(graph, output);
  return model;
}

const isWeight = (weight: Weight) => weight.use.kind === 'recurrent';

function lowered(model: Model, text: string): Model {
  const copy = copyOf(model);
  const scheme = parseScheme(text);
  const [w, r] = findWeights(copy).filter(isWeight);
  for (const weight of [w, r]) expect(dynamic.refuses(weight, scheme)).toBeUndefined();
  lowerDynamicLstm(w.use.node, quantized(w, scheme, true), quantized(r, scheme, true));
  return finished(copy, dynamic.domains);
}

const feeds = { x: noiseTensor([time, batch, size], 9) };

/** Compares all results with those of the float LSTM whose weights are rounded: only activations differ. */
async function expectSame(model: Model, text: string): Promise<void> {
  const scheme = parseScheme(text);
  const rounded = withDequantized(model, (weight) => (isWeight(weight) ? scheme : undefined), true);
  const [expected, found] = [await run(rounded, feeds), await run(lowered(model, text), feeds)];
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const name of Object.keys(expected)) {
    expect(relativeError(expected[name], found[name]), `${text} ${name}`).toBeLessThan(2e-2);
    expect(decibels(expected[name].floats(), found[name].floats()), `${text} ${name}`).toBeGreaterThan(36);
  }
}

const schemes = [
  'int8:channel',
  'int8:tensor',
  'uint8:channel:sym',
  'uint8:tensor:asym',
  'int8:tensor:asym',
  'int8:channel:sym:scale16',
];

describe('dynamic: LSTM', () => {
  it.each(['forward', 'reverse', 'bidirectional'] as const)(
    '%s, bare and with every optional input',
    async (direction) => {
      for (const text of schemes) {
        await expectSame(lstm({ direction }), text);
        await expectSame(lstm({ direction, optional: ['b', 'lengths', 'h', 'c', 'p'] }), text);
      }
    },
  );

  it('keeps each optional input in its place', async () => {
    for (const name of ['b', 'lengths', 'h', 'c', 'p']) {
      const model = lstm({ optional: [name] });
      await expectSame(model, 'int8:channel');
      // The input matters: without it the result is another one.
      const [bare, given] = [await run(lstm({}), feeds), await run(model, feeds)];
      expect(relativeError(bare.y, given.y), name).toBeGreaterThan(5e-2);
    }
  });

  it('keeps attributes', async () => {
    const changes: Record<string, (node: Node) => void> = {
      clip: (node) => node.setFloat('clip', 0.3),
      input_forget: (node) => node.set('input_forget', 1),
      activations: (node) => node.set('activations', ['Sigmoid', 'Relu', 'Tanh']),
      layout: (node) => node.set('layout', 0),
    };
    for (const [name, change] of Object.entries(changes)) {
      const model = lstm({ change, optional: ['b'] });
      await expectSame(model, 'int8:channel');
      if (name === 'layout') continue;
      const [plain, changed] = [await run(lstm({ optional: ['b'] }), feeds), await run(model, feeds)];
      expect(relativeError(plain.y, changed.y), name).toBeGreaterThan(5e-2);
    }
  });

  it('keeps which results there are, and their names', async () => {
    for (const outputs of [['y'], [undefined, 'yh'], [undefined, undefined, 'yc'], ['y', undefined, 'yc']]) {
      const model = lstm({ outputs });
      await expectSame(model, 'int8:channel');
      const result = lowered(model, 'int8:channel');
      expect(result.graph.outputs.map((value) => value.name)).toEqual(outputs.filter((name) => name !== undefined));
      expect(result.graph.nodes.map((node) => node.name)).toEqual(['lstm']);
    }
  });

  it('leaves one operator to run, its float16 scales cast when the file is loaded', async () => {
    for (const text of schemes) {
      expect(await executedOperators(lowered(lstm({ optional: ['b'] }), text)), text).toEqual(['DynamicQuantizeLSTM']);
    }
  });
});

describe('dynamic refuses an LSTM', () => {
  const reasonFor = (model: Model, text: string) =>
    dynamic.refuses(findWeights(model).find(isWeight)!, parseScheme(text));

  it('with a zero point per channel, as ONNX Runtime does', () => {
    const reason = 'DynamicQuantizeLSTM expects one zero point: a symmetric scheme, or one scale per tensor';
    expect(reasonFor(lstm({}), 'uint8:channel:asym')).toBe(reason);
  });

  it('with batches first, and with a weight that others read', () => {
    expect(reasonFor(lstm({ change: (node) => node.set('layout', 1) }), 'int8')).toBe(
      'expected LSTM "lstm" with layout = 0, got 1',
    );
    const tied = lstm({});
    const weight = findWeights(tied).find(isWeight)!.value;
    tied.graph.add({ op: 'Shape', name: 'shape', inputs: [weight], outputs: ['shape'] });
    expect(reasonFor(tied, 'int8')).toBe('expected one reader, got LSTM "lstm" and 1 more');
  });

  it('whose two weights are not of one format', () => {
    const [w, r] = findWeights(lstm({})).filter(isWeight);
    const [signed, unsigned] = [quantized(w, parseScheme('int8')), quantized(r, parseScheme('uint8:sym'))];
    expect(() => lowerDynamicLstm(w.use.node, signed, unsigned)).toThrow(
      'LSTM "lstm": expected both weights in the same 8-bit format, got int8 and uint8',
    );
  });
});
