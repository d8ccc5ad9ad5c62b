/** What the judge makes of errors: closed forms, outputs and samples that hold nothing, and samples unlike all others. */
import { expect, test } from 'vitest';
import { Builder, samplesOf } from '../../test/support/static.ts';
import type { Value } from '../graph/value.ts';
import { openRuntime } from '../runtime/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { createJudge } from './judge.ts';

const runtime = await openRuntime();

const model = (...outputs: ((b: Builder, x: Value) => Value)[]) => {
  const b = new Builder();
  const x = b.input('x', [1, 2]);
  return b.output(...outputs.map((output) => output(b, x))).model;
};
const times = (factor: number) => (b: Builder, x: Value) => b.add('Mul', [x, b.floats([], [factor])]);
const feeds = (...values: readonly [number, number][]) =>
  samplesOf(values.map((pair) => ({ x: Tensor.float32([1, 2], pair) })));
const sqnrOf = async (float: ReturnType<typeof model>, other: ReturnType<typeof model>, runs = feeds([3, 4], [1, 2])) =>
  (await createJudge(float, runs, runtime)(other)).sqnr;

test('an error of a tenth is 20 dB, whatever the size of samples', async () => {
  expect(await sqnrOf(model(times(1)), model(times(1.1)))).toBeCloseTo(20, 4);
});

test('outputs count the same by their squares: of 0.1 and 0.3 as √0.05', async () => {
  const [float, other] = [model(times(1), times(1000)), model(times(1.1), times(1300))];
  expect(await sqnrOf(float, other)).toBeCloseTo(-10 * Math.log10((0.01 + 0.09) / 2), 4);
});

test('one sample of many that is far off counts by its error, not by its square', async () => {
  const clipped = (b: Builder, x: Value) =>
    times(1.1)(b, b.add('Clip', [x, b.floats([], [-10 / 1.1]), b.floats([], [10 / 1.1])]));
  const runs = feeds(...Array.from({ length: 9 }, () => [3, 4] as [number, number]), [0, 100]);
  expect(await sqnrOf(model(times(1)), model(clipped), runs)).toBeCloseTo(-20 * Math.log10((9 * 0.1 + 0.9) / 10), 4);
});

test('samples that are nearly silent do not decide, but count', async () => {
  const noisy = (b: Builder, x: Value) => b.add('Add', [x, b.floats([], [0.5])]);
  const float = (b: Builder, x: Value) => b.add('Add', [x, b.floats([], [0])]);
  const noise = Math.sqrt(0.5);
  for (const quiet of [0, 1e-6]) {
    const expected = (noise / 5 + noise / Math.sqrt(0.01 * (25 / 2))) / 2;
    expect(await sqnrOf(model(float), model(noisy), feeds([3, 4], [quiet, 0]))).toBeCloseTo(
      -20 * Math.log10(expected),
      4,
    );
  }
});

test('samples that the float model makes nothing of are left out', async () => {
  expect(await sqnrOf(model(times(1)), model(times(1.1)), feeds([3, 4], [Number.NaN, Number.NaN]))).toBeCloseTo(20, 4);
  expect(await sqnrOf(model(times(1)), model(times(1.1)), feeds([Number.NaN, Number.NaN]))).toBeNaN();
});

test('results that are not finite are worse than any others', async () => {
  expect(await sqnrOf(model(times(1)), model(times(Number.POSITIVE_INFINITY)))).toBe(Number.NEGATIVE_INFINITY);
});
