/** Moments say what an error of a weight does: held against ONNX Runtime with the weight and with the weight disturbed. */
import { describe, expect, test } from 'vitest';
import { noise, run } from '../../test/support/lowered.ts';
import { Builder, noiseSamples, samplesOf } from '../../test/support/static.ts';
import type { AttributeInput } from '../graph/attribute.ts';
import type { Model } from '../graph/model.ts';
import { findWeights, type Weight } from '../lowerings/weight.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import { Tensor } from '../tensor/tensor.ts';
import { collectMoments, type Moments } from './moments.ts';

const runtime = await openRuntime();
const everything = { rowsPerSample: Number.POSITIVE_INFINITY };

async function momentsOf(model: Model, weight: Weight, feeds: readonly Feeds[]): Promise<Moments[]> {
  const targets = [{ weight, node: weight.use.node }];
  const found = await collectMoments(model, targets, samplesOf(feeds), runtime, everything);
  return found.get(weight.value.name) ?? [];
}

/** Σ over groups of count · tr(ΔW·M·ΔWᵀ). */
function foretold(weight: Weight, error: Float32Array, moments: readonly Moments[]): number {
  const { view } = weight.use;
  const { rows, columns } = view;
  const matrix = toMatrix(error, view);
  let power = 0;
  for (let row = 0; row < rows; row++) {
    const { moment, count } = moments[Math.floor((row * moments.length) / rows)];
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++) {
        power += count * matrix[row * columns + i] * moment[i * columns + j] * matrix[row * columns + j];
      }
    }
  }
  return power;
}

/** Σ of squared differences of the output, over all samples, when `error` is added to the weight. */
async function measured(model: Model, weight: Weight, error: Float32Array, feeds: readonly Feeds[]): Promise<number> {
  const results = async () => Promise.all(feeds.map((feed) => run(model, feed)));
  const before = await results();
  const { value, tensor } = weight;
  value.tensor = Tensor.float32(
    tensor.shape,
    tensor.floats().map((x, index) => x + error[index]),
  );
  const after = await results();
  value.tensor = tensor;
  let power = 0;
  for (const [index, result] of before.entries()) {
    for (const name of Object.keys(result)) {
      const other = after[index][name].floats();
      result[name].floats().forEach((x, i) => {
        power += (x - other[i]) ** 2;
      });
    }
  }
  return power;
}

async function expectForetold(b: Builder, groups: number, feeds: readonly Feeds[] = noiseSamples(b.model, 3)) {
  const [weight] = findWeights(b.model).filter(({ use }) => use.kind !== 'other');
  const moments = await momentsOf(b.model, weight, feeds);
  expect(moments).toHaveLength(groups);
  for (const { moment, mean } of moments) {
    expect([moment.length, mean.length]).toEqual([weight.use.view.columns ** 2, weight.use.view.columns]);
  }
  const error = noise(weight.tensor.size, 77);
  const expected = await measured(b.model, weight, error, feeds);
  expect(expected).toBeGreaterThan(1);
  expect(foretold(weight, error, moments) / expected).toBeCloseTo(1, 4);
}

type Attributes = Record<string, AttributeInput>;

function layer(
  op: string,
  shape: number[],
  weight: number[],
  attributes: Attributes = {},
  weightFirst = false,
): Builder {
  const b = new Builder();
  const x = b.input('x', shape);
  const w = b.weight(weight);
  return b.output(b.add(op, weightFirst ? [w, x] : [x, w], attributes));
}

describe('the noise of a result is what moments foretell', () => {
  test.each<[string, number[], number[], number?, boolean?]>([
    ['of rows', [5, 8], [8, 6]],
    ['of a batch', [2, 5, 8], [8, 6]],
    ['of a batch of batches, many columns', [2, 3, 5, 100], [100, 6]],
    ['of a vector', [8], [8, 6]],
    ['with a batch of matrices', [2, 3, 5, 8], [3, 8, 6], 3],
    ['with a batch of matrices and one factor', [5, 8], [3, 8, 6], 3],
    ['with matrices that broadcast', [1, 3, 5, 8], [2, 1, 8, 6], 2],
    ['with the weight on the left', [8, 5], [6, 8], 1, true],
    ['with the weight on the left of a batch', [4, 8, 5], [6, 8], 1, true],
    ['with weights on the left of a vector', [8], [3, 6, 8], 3, true],
  ])('MatMul %s', (_, shape, weight, groups = 1, first = false) =>
    expectForetold(layer('MatMul', shape, weight, {}, first), groups),
  );

  test.each<[Attributes, number[], number[], boolean?]>([
    [{}, [5, 8], [8, 6]],
    [{ transB: 1 }, [5, 8], [6, 8]],
    [{ transA: 1 }, [8, 5], [8, 6]],
    [{}, [8, 5], [6, 8], true],
    [{ transA: 1, transB: 1 }, [5, 8], [8, 6], true],
  ])('Gemm %j', (attributes, shape, weight, first = false) =>
    expectForetold(layer('Gemm', shape, weight, attributes, first), 1),
  );

  test.each<[Attributes, number[], number[], number?]>([
    [{}, [2, 4, 7, 6], [5, 4, 3, 3]],
    [{ pads: [1, 0, 2, 3], strides: [2, 1], dilations: [1, 2] }, [2, 4, 9, 8], [5, 4, 3, 2]],
    [{ group: 2, pads: [1, 1, 1, 1] }, [2, 6, 5, 5], [4, 3, 3, 3], 2],
    [{ group: 2, pads: [1, 1, 1, 1] }, [2, 16, 5, 5], [4, 8, 3, 3], 2],
    [{ group: 6, pads: [2, 2, 2, 2] }, [2, 6, 6, 6], [12, 1, 5, 5], 6],
    [{ auto_pad: 'SAME_UPPER', strides: [2, 2] }, [1, 3, 8, 7], [5, 3, 3, 3]],
    [{ auto_pad: 'SAME_LOWER', strides: [2, 3] }, [1, 3, 8, 7], [5, 3, 3, 3]],
    [{ auto_pad: 'VALID' }, [1, 3, 8, 7], [5, 3, 3, 3]],
    [{ pads: [2, 1], strides: [2], dilations: [3] }, [3, 4, 20], [5, 4, 4]],
    [{ pads: [1, 0, 1, 1, 0, 1], strides: [1, 2, 1] }, [1, 2, 4, 5, 6], [3, 2, 3, 2, 3]],
  ])('Conv %j of %j', (attributes, shape, weight, groups = 1) =>
    expectForetold(layer('Conv', shape, weight, attributes), groups),
  );

  test.each<[Attributes, number[], number[]]>([
    [{}, [2, 4, 5, 6], [4, 3, 3, 2]],
    [{ strides: [2, 2] }, [2, 4, 5, 6], [4, 3, 2, 2]],
    [{ strides: [2, 3], pads: [1, 0, 2, 1], dilations: [2, 1], output_padding: [1, 2] }, [2, 4, 5, 6], [4, 3, 3, 4]],
    [{ strides: [2, 2], group: 2, pads: [1, 1, 1, 1] }, [2, 4, 5, 6], [4, 3, 4, 4]],
    [{ strides: [2, 2], group: 4 }, [2, 4, 5, 6], [4, 1, 3, 3]],
    [{ strides: [2, 2], auto_pad: 'SAME_UPPER' }, [1, 4, 5, 6], [4, 3, 3, 3]],
    [{ strides: [2, 2], auto_pad: 'SAME_LOWER' }, [1, 4, 5, 6], [4, 3, 3, 3]],
    [{ strides: [2, 2], output_shape: [10, 12] }, [1, 4, 5, 6], [4, 3, 3, 3]],
    [{ strides: [3], pads: [2, 1] }, [2, 4, 9], [4, 3, 5]],
  ])('ConvTranspose %j of %j', (attributes, shape, weight) =>
    expectForetold(layer('ConvTranspose', shape, weight, attributes), 1),
  );
});

/** h and x of every step as the formulas of ONNX say, which the last result must confirm. */
function unrolled(op: 'LSTM' | 'GRU', x: number[][], [W, R, B]: Float32Array[], first: number[]) {
  const size = first.length;
  const sigmoid = (value: number) => 1 / (1 + Math.exp(-value));
  const product = (matrix: Float32Array, row: number, vector: number[]) =>
    vector.reduce((sum, value, column) => sum + matrix[row * vector.length + column] * value, 0);
  let h = first;
  let c = first.map(() => 0);
  const before: number[][] = [];
  for (const step of x) {
    before.push(h);
    const parts = (gate: number, i: number) => {
      const row = gate * size + i;
      const gates = op === 'LSTM' ? 4 : 3;
      return [product(W, row, step) + B[row], product(R, row, h) + B[gates * size + row]];
    };
    const gate = (number: number, i: number) => parts(number, i).reduce((a, b) => a + b);
    if (op === 'LSTM') {
      c = c.map((cell, i) => sigmoid(gate(2, i)) * cell + sigmoid(gate(0, i)) * Math.tanh(gate(3, i)));
      h = c.map((cell, i) => sigmoid(gate(1, i)) * Math.tanh(cell));
    } else {
      h = h.map((state, i) => {
        const [input, recurrent] = parts(2, i);
        const z = sigmoid(gate(0, i));
        return (1 - z) * Math.tanh(input + sigmoid(gate(1, i)) * recurrent) + z * state;
      });
    }
  }
  return { before, last: h };
}

function meanProduct(rows: readonly number[][]): number[] {
  const size = rows[0].length;
  return Array.from({ length: size * size }, (_, index) => {
    const [i, j] = [Math.floor(index / size), index % size];
    return rows.reduce((sum, row) => sum + row[i] * row[j], 0) / rows.length;
  });
}

const expectClose = (found: Float32Array, expected: readonly number[]) => {
  expect(found).toHaveLength(expected.length);
  for (const [index, value] of expected.entries()) expect(found[index]).toBeCloseTo(value, 5);
};

describe('recurrent layers', () => {
  const [steps, batch, inputs, size] = [7, 3, 5, 4];

  test.each<['LSTM' | 'GRU', string, boolean]>([
    ['LSTM', 'forward', true],
    ['LSTM', 'reverse', false],
    ['LSTM', 'bidirectional', true],
    ['LSTM', 'bidirectional', false],
    ['GRU', 'bidirectional', true],
    ['GRU', 'forward', false],
  ])('%s %s: inputs of W, states of R (lengths and first states: %s)', async (op, direction, hasMore) => {
    const gates = op === 'LSTM' ? 4 : 3;
    const directions = direction === 'bidirectional' ? 2 : 1;
    const b = new Builder();
    const x = b.input('x', [steps, batch, inputs]);
    const W = b.weight([directions, gates * size, inputs]);
    const R = b.weight([directions, gates * size, size]);
    const B = b.weight([directions, 2 * gates * size]);
    const lengths = [7, 4, 6];
    const given = hasMore ? b.graph.addInitializer('lengths', Tensor.int32([batch], lengths)) : undefined;
    const initial = hasMore ? b.weight([directions, batch, size]) : undefined;
    const attributes = { hidden_size: size, direction, ...(op === 'GRU' ? { linear_before_reset: 1 } : {}) };
    const node = b.graph.add({ op, inputs: [x, W, R, B, given, initial], outputs: [undefined, 'last'], attributes });
    b.output(node.output(1));

    const feeds = noiseSamples(b.model, 2);
    const weights = findWeights(b.model).filter(({ value }) => value === W || value === R);
    const targets = weights.map((weight) => ({ weight, node }));
    const found = await collectMoments(b.model, targets, samplesOf(feeds), runtime, everything);
    expect(node.outputs[0]).toBeUndefined();

    const seen: number[][] = [];
    for (let d = 0; d < directions; d++) {
      const isReversed = direction === 'reverse' || d === 1;
      const states: number[][] = [];
      for (const feed of feeds) {
        const values = feed.x.floats();
        const { last } = await run(b.model, feed);
        for (let item = 0; item < batch; item++) {
          const rows = Array.from({ length: hasMore ? lengths[item] : steps }, (_, t) => [
            ...values.subarray((t * batch + item) * inputs, (t * batch + item + 1) * inputs),
          ]);
          const at = (d * batch + item) * size;
          const own = [W, R, B].map(({ tensor }) => {
            const all = tensor!.floats();
            return all.subarray((d * all.length) / directions, ((d + 1) * all.length) / directions);
          });
          const first = initial
            ? [...initial.tensor!.floats().subarray(at, at + size)]
            : new Array<number>(size).fill(0);
          const made = unrolled(op, isReversed ? rows.toReversed() : rows, own, first);
          expectClose(last.floats().subarray(at, at + size), made.last);
          states.push(...made.before);
          if (d === 0) seen.push(...rows);
        }
      }
      const { moment, count } = found.get(R.name)![d];
      expect(count).toBe(states.length);
      expectClose(moment, meanProduct(states));
    }
    expect(found.get(R.name)).toHaveLength(directions);
    expect(found.get(W.name)).toHaveLength(1);
    expectClose(found.get(W.name)![0].moment, meanProduct(seen));
  });
});
