/** Which channels are free, on small graphs and real models, and that scaling them by any factors changes no output. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { asset, haveAssets } from '../../test/onnx/assets.ts';
import { addIf, chooseYes, difference, noise, run } from '../../test/support/before-after.ts';
import { Builder } from '../../test/support/static.ts';
import { createRandom } from '../base/random.ts';
import { checkModel } from '../graph/check.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { readModel } from '../node.ts';
import { cloneModel, prepare } from '../pipeline/prepare.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { sizeOf, Tensor } from '../tensor/tensor.ts';
import { findGroups } from './groups.ts';
import { namesOf, scaleGroup } from './scale.ts';

const asWritten = { optimization: 'disabled' } as const;

/** Scales all groups by random factors between 1/8 and 8, or by such powers of two. Returns how many there were. */
function scaleAll(model: Model, powersOfTwo: boolean): number {
  const random = createRandom(1);
  const power = powersOfTwo ? () => 2 ** Math.floor(7 * random() - 3) : () => 8 ** (2 * random() - 1);
  const { groups } = findGroups(model.graph);
  for (const group of groups) scaleGroup(group, Float64Array.from({ length: group.channels }, power));
  model.graph.sort();
  checkModel(model);
  return groups.length;
}

/**
 * Scales a copy, and holds what it computes against the model. Returns how many groups there were. Powers of two change no
 * digit of a float, so there everything must be the same to the bit.
 */
async function expectExact(model: Model, feeds: Feeds, powersOfTwo = false): Promise<number> {
  model.graph.sort();
  const scaled = cloneModel(model);
  const count = scaleAll(scaled, powersOfTwo);
  const gap = difference(await run(model, feeds, asWritten), await run(scaled, feeds, asWritten));
  if (powersOfTwo) expect(gap).toBe(0);
  else expect(gap).toBeLessThan(1e-5);
  return count;
}

const feedsOf = (model: Model, seed = 5): Feeds =>
  Object.fromEntries(
    model.graph.inputs
      .filter(({ type }) => type?.dtype === 'float32')
      .map(({ name, type }, index) => [name, noise(type!.shape as number[], seed + index)]),
  );

/** One group between two convolutions, with `body` between them. */
const between = (body: (b: Builder, x: Value) => Value, channels = 6) => {
  const b = new Builder();
  const x = b.input('x', [2, 3, 7, 5]);
  return b.output(b.conv(body(b, b.conv(x, 3, channels)), channels, 4)).model;
};

describe('channels go on through', () => {
  const six = Array.from({ length: 6 }, (_, index) => index + 1);
  const bodies: Record<string, (b: Builder, x: Value) => Value> = {
    nothing: (_, x) => x,
    Relu: (b, x) => b.add('Relu', [x]),
    LeakyRelu: (b, x) => b.add('LeakyRelu', [x], { alpha: { type: 'float', value: 0.2 } }),
    PRelu: (b, x) => b.add('PRelu', [x, b.weight([6, 1, 1])]),
    'Clip from 0': (b, x) => b.add('Clip', [x, b.floats([], [0]), b.floats([], [0.6])]),
    'Clip on both sides': (b, x) => b.add('Clip', [x, b.floats([], [-0.3]), b.floats([], [0.6])]),
    'Clip above': (b, x) => b.add('Clip', [x, undefined, b.floats([], [0.6])]),
    MaxPool: (b, x) => b.add('MaxPool', [x], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }),
    AveragePool: (b, x) => b.add('AveragePool', [x], { kernel_shape: [2, 2], pads: [1, 0, 1, 0] }),
    'Add of a constant': (b, x) => b.add('Add', [b.weight([1, 6, 1, 1]), x]),
    'Sub from a constant': (b, x) => b.add('Sub', [b.weight([6, 7, 5]), x]),
    'Mul by one number': (b, x) => b.add('Mul', [x, b.floats([1], [3])]),
    'Div by one number': (b, x) => b.add('Div', [x, b.floats([], [3])]),
    'Mul by an activation': (b, x) =>
      b.add('Mul', [b.add('Sigmoid', [b.conv(b.graph.inputs[0], 3, 6)]), b.add('Relu', [x])]),
    Transpose: (b, x) => b.add('Transpose', [b.add('Transpose', [x], { perm: [0, 2, 1, 3] })], { perm: [0, 2, 1, 3] }),
    'Pad with zeros': (b, x) => b.add('Pad', [x, b.ints(0, 0, 1, 0, 0, 0, 0, 2)]),
    'Slice of space': (b, x) => b.add('Slice', [x, b.ints(1), b.ints(4), b.ints(2)]),
    Resize: (b, x) => b.add('Resize', [x, undefined, b.floats([4], [1, 1, 2, 2])], { mode: 'nearest' }),
    'Unsqueeze and Squeeze': (b, x) => b.add('Squeeze', [b.add('Unsqueeze', [x, b.ints(1)]), b.ints(1)]),
    'BatchNormalization, which makes its own': (b, x) =>
      b.add('BatchNormalization', [x, b.weight([6]), b.weight([6]), b.weight([6]), b.floats([6], six)]),
    'Mul by a number a channel': (b, x) => b.add('Mul', [x, b.weight([6, 1, 1])]),
    'Split and Concat': (b, x) => {
      const [first, second] = b.many('Split', [x, b.ints(2, 4)], 2, { axis: 1 });
      return b.add('Concat', [second, b.add('Relu', [first])], { axis: 1 });
    },
    'Slice of channels and Pad': (b, x) =>
      b.add('Pad', [b.add('Slice', [x, b.ints(1), b.ints(5), b.ints(1)]), b.ints(0, 1, 0, 0, 0, 1, 0, 0)]),
  };
  test.each(Object.entries(bodies))('%s', async (_, body) => {
    const model = between(body);
    expect(await expectExact(model, feedsOf(model))).toBeGreaterThanOrEqual(1);
  });

  test('a residual connection, and several readers', async () => {
    const b = new Builder();
    const x = b.conv(b.input('x', [1, 3, 6, 6]), 3, 8);
    const y = b.add('Relu', [b.add('Add', [x, b.conv(b.add('Relu', [b.conv(x, 8, 4)]), 4, 8)])]);
    const z = b.add('Concat', [b.conv(y, 8, 2), b.conv(y, 8, 3, [1, 1])], { axis: 1 });
    const model = b.output(b.conv(z, 5, 2)).model;
    const { groups } = findGroups(model.graph);
    expect(groups.map(({ producers, consumers }) => [namesOf(producers).length, namesOf(consumers).length])).toEqual([
      [2, 3],
      [1, 1],
      [2, 1],
    ]);
    expect(await expectExact(model, feedsOf(model))).toBe(3);
  });

  test('depthwise, grouped and transposed convolutions', async () => {
    const b = new Builder();
    const x = b.add('Relu', [b.conv(b.input('x', [1, 4, 6, 6]), 4, 8)]);
    const y = b.add('Relu', [b.conv(b.conv(x, 8, 16, [3, 3], 8), 16, 8, [3, 3], 2)]);
    const z = b.add('ConvTranspose', [y, b.weight([8, 3, 2, 2]), b.weight([6])], { group: 2, strides: [2, 2] });
    const model = b.output(b.conv(z, 6, 2)).model;
    expect(await expectExact(model, feedsOf(model))).toBe(4);
  });

  test.each(['Flatten', 'Reshape', 'GlobalAveragePool and Reshape', 'ReduceMean'])('%s to a matrix', async (way) => {
    const b = new Builder();
    const x = b.add('Relu', [b.conv(b.input('x', [2, 3, 4, 5]), 3, 6)]);
    const flat = () => {
      if (way === 'Flatten') return b.add('Flatten', [x]);
      if (way === 'Reshape') return b.add('Reshape', [x, b.ints(0, -1)]);
      if (way === 'ReduceMean') return b.add('ReduceMean', [x], { axes: [2, 3], keepdims: 0 });
      return b.add('Reshape', [b.add('GlobalAveragePool', [x]), b.ints(-1, 6)]);
    };
    const value = flat();
    const columns = way === 'Flatten' || way === 'Reshape' ? 120 : 6;
    const hidden = b.add('Relu', [b.add('Gemm', [value, b.weight([9, columns]), b.weight([9])], { transB: 1 })]);
    const model = b.output(b.add('Add', [b.add('MatMul', [hidden, b.weight([9, 4])]), b.weight([4])])).model;
    expect(await expectExact(model, feedsOf(model))).toBe(2);
  });

  test('a normalization, in one node and in its parts, to several readers', async () => {
    const b = new Builder();
    const x = b.input('x', [2, 5, 8]);
    const norm = b.add('LayerNormalization', [x, b.weight([8]), b.weight([8])]);
    const a = b.add('Add', [b.weight([6]), b.add('MatMul', [norm, b.weight([8, 6])])]);
    const c = b.add('MatMul', [norm, b.weight([8, 6])]);
    const gated = b.add('Mul', [b.add('Mul', [a, b.add('Sigmoid', [a])]), c]);
    const y = b.add('Add', [x, b.add('MatMul', [gated, b.weight([6, 8])])]);
    const mean = b.add('ReduceMean', [b.add('Mul', [y, y])], { axes: [-1] });
    const rms = b.add('Sqrt', [b.add('Add', [mean, b.floats([], [0.1])])]);
    const parts = b.add('Add', [b.add('Mul', [b.add('Div', [y, rms]), b.weight([8])]), b.weight([8])]);
    const model = b.output(b.add('MatMul', [parts, b.weight([8, 3])])).model;
    expect(await expectExact(model, feedsOf(model))).toBe(3);
  });
});

describe('channels are pinned by', () => {
  const bodies: Record<string, (b: Builder, x: Value) => Value> = {
    Sigmoid: (b, x) => b.add('Sigmoid', [x]),
    HardSwish: (b, x) => b.add('HardSwish', [x]),
    'a sum with what has other channels': (b, x) => b.add('Add', [x, b.conv(b.graph.inputs[0], 3, 1)]),
    'a product with itself': (b, x) => b.add('Mul', [x, x]),
    'being an output': (b, x) => {
      b.output(x);
      return x;
    },
    'a second reader that is not linear': (b, x) => {
      b.output(b.add('Exp', [x]));
      return x;
    },
    'a clip that begins above zero': (b, x) => b.add('Clip', [x, b.floats([], [0.1]), b.floats([], [0.6])]),
    'padding with a number': (b, x) => b.add('Pad', [x, b.ints(0, 0, 1, 0, 0, 0, 0, 0), b.floats([], [1])]),
  };
  test.each(Object.entries(bodies))('%s', async (name, body) => {
    const model = between(body, 6);
    const { groups, refused } = findGroups(model.graph);
    const first = model.graph.nodes[0];
    expect(
      groups.some(({ producers }) => producers.some(({ node }) => node === first)),
      name,
    ).toBe(false);
    expect(refused.find(({ node }) => node === first.name)?.reason).toMatch(/\w/);
    expect(await expectExact(model, feedsOf(model))).toBe(0);
  });

  test('subgraphs that read them, shared weights, weights of other types', async () => {
    const b = new Builder();
    const x = b.conv(b.input('x', [1, 3, 4, 4]), 3, 6);
    b.graph.outputs.push(b.conv(x, 6, 2));
    b.graph.outputs.push(
      addIf(b.model, (graph, name) => graph.add({ op: 'Relu', inputs: [x], outputs: [name] }).output()),
    );
    expect(findGroups(b.graph).groups).toEqual([]);
    expect(await expectExact(b.model, { ...feedsOf(b.model), ...chooseYes })).toBe(0);

    const tied = new Builder();
    const weight = tied.weight([4, 4]);
    const first = tied.add('Relu', [tied.add('MatMul', [tied.input('x', [2, 4]), weight])]);
    tied.output(tied.add('MatMul', [first, weight]));
    expect(findGroups(tied.graph).groups).toEqual([]);
  });
});

test('random chains of layers stay what they were', async () => {
  const step = fc.record({
    kind: fc.constantFrom('conv', 'depthwise', 'grouped', 'pool', 'residual', 'concat'),
    act: fc.constantFrom('Relu', 'LeakyRelu', 'Clip', 'none', 'Sigmoid'),
    size: fc.constantFrom(2, 4, 8),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 6 }), async (steps) => {
      const b = new Builder();
      let x = b.input('x', [2, 4, 5, 5]);
      let channels = 4;
      for (const { kind, act, size } of steps) {
        const before = x;
        if (kind === 'pool') x = b.add('MaxPool', [x], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
        else if (kind === 'depthwise') x = b.conv(x, channels, channels, [3, 3], channels);
        else if (kind === 'grouped') x = b.conv(x, channels, size, [1, 1], 2);
        else if (kind === 'residual') x = b.add('Add', [x, b.conv(x, channels, channels)]);
        else x = b.conv(x, channels, size);
        if (kind === 'grouped' || kind === 'conv' || kind === 'concat') channels = size;
        if (act === 'Clip') x = b.add('Clip', [x, b.floats([], [0]), b.floats([], [0.4])]);
        else if (act !== 'none') x = b.add(act, [x]);
        if (kind === 'concat') {
          x = b.add('Concat', [x, before], { axis: 1 });
          channels = (x.producer!.inputs[1] === before ? channels : 0) + sizeOfChannels(before);
        }
        counts.set(x, channels);
      }
      const model = b.output(x).model;
      await expectExact(model, feedsOf(model), true);
    }),
    { numRuns: 60, seed: 3 },
  );
}, 30_000);

const counts = new Map<Value, number>();
const sizeOfChannels = (value: Value) => counts.get(value) ?? 4;

describe.skipIf(!haveAssets)('real models', () => {
  const cases: { name: string; feeds: Feeds; groups: number }[] = [
    { name: 'mobilenet-v2', groups: 40, feeds: { input: noise([1, 3, 224, 224]) } },
    { name: 'resnet20-cifar10', groups: 10, feeds: { input: noise([1, 3, 32, 32]) } },
    { name: 'squeezenet1.1', groups: 17, feeds: { data: noise([1, 3, 224, 224]) } },
    { name: 'shakespeare-gpt', groups: 12, feeds: { input_ids: tokens(64, 65) } },
    { name: 'stories260K', groups: 20, feeds: { input_ids: tokens(64, 512) } },
  ];
  test.each(cases)(
    '$name computes the same',
    async ({ name, feeds, groups }: { name: string; feeds: Feeds; groups: number }) => {
      const runtime = await openRuntime();
      const { model } = await prepare(readModel(asset(`models/${name}.onnx`)), runtime);
      expect(await expectExact(model, feeds)).toBeGreaterThanOrEqual(groups);
    },
    30_000,
  );
});

function tokens(count: number, vocabulary: number): Tensor {
  const random = createRandom(2);
  return Tensor.int64(
    [1, count],
    Array.from({ length: sizeOf([count]) }, () => Math.floor(random() * vocabulary)),
  );
}
