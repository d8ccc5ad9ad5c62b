/** Calibration: the numbers that were there, the same whatever memory allows, one batch at a time. */
import { describe, expect, test } from 'vitest';
import { run } from '../../test/support/lowered.ts';
import { Builder, noiseSamples, samplesOf } from '../../test/support/static.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import { type MomentsState, type StatisticState, statisticOf } from '../statistics/index.ts';
import { Tensor } from '../tensor/tensor.ts';
import { calibrate, channelLayout, groupStatistic, type Need } from './calibrate.ts';

const runtime = await openRuntime();

function network() {
  const b = new Builder();
  const x = b.input('x', [1, 4, 6, 6]);
  const a = b.conv(x, 4, 8);
  const c = b.add('Relu', [a]);
  return b.output(b.conv(c, 8, 3));
}

const { model, graph } = network();
const feeds = noiseSamples(model, 7);
const needs: Need[] = [
  { tensor: 'x', statistic: 'min-max' },
  { tensor: 'conv', statistic: 'min-max' },
  { tensor: 'conv', statistic: 'moments', channelAxis: 1 },
  { tensor: 'relu', statistic: 'histogram' },
  { tensor: 'conv_1', statistic: 'moving-average' },
];

/** What the values themselves say: everything in memory, one accumulator. */
async function expected(need: Need): Promise<StatisticState> {
  const accumulator = statisticOf(need.statistic).create();
  const watched = network();
  const value = watched.graph.nodes.flatMap((node) => node.outputs).find((output) => output?.name === need.tensor);
  if (value && !value.isGraphOutput) watched.output(value);
  for (const feed of feeds) {
    const tensor = need.tensor === 'x' ? feed.x : (await run(watched.model, feed))[need.tensor];
    const layout = need.channelAxis === undefined ? undefined : channelLayout(tensor, need.channelAxis);
    accumulator.observe(tensor.floats(), layout);
  }
  return accumulator.state();
}

describe('statistics', () => {
  test('are those of the values', async () => {
    const found = await calibrate(model, samplesOf(feeds), needs, runtime);
    for (const need of needs) expect(found.get(need.tensor)?.get(need.statistic)).toEqual(await expected(need));
  });

  test('do not depend on memory: a slice of a few bytes gives the same', async () => {
    const [all, sliced] = await Promise.all(
      [2 ** 30, 1].map((maxBytes) => calibrate(model, samplesOf(feeds), needs, runtime, { maxBytes })),
    );
    expect(sliced).toEqual(all);
  });

  test('with little memory, few values are exposed at once', async () => {
    const opened: number[] = [];
    const counting: Runtime = {
      ...runtime,
      async open(bytes, options) {
        const session = await runtime.open(bytes, options);
        opened.push(session.outputs.length);
        return session;
      },
    };
    await calibrate(model, samplesOf(feeds), needs, counting, { maxBytes: 1 });
    // The first session only asks for shapes.
    expect(opened.slice(1)).toEqual([1, 1, 1]);
  });

  test('of the first samples only, where a need says so', async () => {
    const need: Need = { tensor: 'conv', statistic: 'moments', channelAxis: 1, samples: 2 };
    const [few] = [await calibrate(model, samplesOf(feeds), [need], runtime)];
    const [same] = [await calibrate(model, samplesOf(feeds.slice(0, 2)), [{ ...need }], runtime)];
    expect(few.get('conv')).toEqual(same.get('conv'));
  });

  test('a tensor that is needed twice is watched once, as the first need says', async () => {
    const twice: Need[] = [
      { tensor: 'conv', statistic: 'moments', channelAxis: 1 },
      { tensor: 'conv', statistic: 'moments', channelAxis: -1 },
    ];
    const state = (await calibrate(model, samplesOf(feeds), twice, runtime))
      .get('conv')
      ?.get('moments') as MomentsState;
    expect(state.mean).toHaveLength(8);
  });

  test('of values that are not there are left out', async () => {
    const found = await calibrate(model, samplesOf(feeds), [{ tensor: 'nowhere', statistic: 'min-max' }], runtime);
    expect([...found]).toEqual([]);
  });
});

test('batches: one is read at a time, and the next only when its activations are gone', async () => {
  let alive = 0;
  let most = 0;
  const samples = {
    ...samplesOf(feeds),
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      for (const feed of feeds) {
        most = Math.max(most, ++alive);
        try {
          yield feed;
        } finally {
          alive--;
        }
      }
    },
  };
  await calibrate(model, samples, needs, runtime);
  expect(most).toBe(1);
});

test('progress counts samples, and an abort stops between two', async () => {
  const seen: [number, number | undefined][] = [];
  await calibrate(model, samplesOf(feeds), needs, runtime, { onProgress: (...event) => seen.push(event) });
  expect(seen).toEqual(feeds.map((_, index) => [index + 1, feeds.length]));
  const controller = new AbortController();
  const reason = new Error('stop');
  let done = 0;
  const onProgress = () => {
    if (++done === 2) controller.abort(reason);
  };
  await expect(
    calibrate(model, samplesOf(feeds), needs, runtime, { onProgress, signal: controller.signal }),
  ).rejects.toBe(reason);
  expect(done).toBe(2);
});

test('a sample that does not fit is refused', async () => {
  const wrong = samplesOf([{ x: Tensor.float32([1, 3, 6, 6], new Float32Array(108)) }]);
  await expect(calibrate(model, wrong, needs, runtime)).rejects.toMatchObject({ code: 'runtime' });
  await expect(calibrate(model, samplesOf([{}]), needs, runtime)).rejects.toMatchObject({ code: 'missing-data' });
});

test('groups: the statistic of several tensors is that of all their values', async () => {
  const minMax = (tensor: string): Need => ({ tensor, statistic: 'min-max' });
  const found = await calibrate(model, samplesOf(feeds), [minMax('x'), minMax('conv'), minMax('conv_1')], runtime);
  const of = (...tensors: string[]) => groupStatistic(found, tensors, 'min-max') as { min: number; max: number };
  const parts = ['x', 'conv', 'conv_1'].map((name) => of(name));
  expect(of('x', 'conv', 'conv_1')).toMatchObject({
    min: Math.min(...parts.map(({ min }) => min)),
    max: Math.max(...parts.map(({ max }) => max)),
  });
  expect(groupStatistic(found, ['nowhere'], 'min-max')).toBeUndefined();
  expect(graph.inputs).toHaveLength(1);
});

test('channels are counted from either end', () => {
  const tensor = Tensor.float32([2, 3, 4], new Float32Array(24));
  expect(channelLayout(tensor, 1)).toEqual({ outer: 2, channels: 3, inner: 4 });
  expect(channelLayout(tensor, -1)).toEqual({ outer: 6, channels: 4, inner: 1 });
  expect(channelLayout(tensor, 0)).toEqual({ outer: 1, channels: 2, inner: 12 });
});
