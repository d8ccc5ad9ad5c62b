/** The settled part: runs behind it give what runs of the whole model give, whatever is kept, and stay in bounds. */
import { describe, expect, it } from 'vitest';
import { Builder, noiseSamples, samplesOf } from '../../test/support/static.ts';
import { readOnnx } from '../files/onnx/read.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { numbered, Prefix } from './prefix.ts';
import { openValues } from './runnable.ts';

const runtime = await openRuntime('onnxruntime-node');

/** Four layers, a shortcut around the middle ones, and codes between the first and the second. */
function residual(): { model: Model; layers: Value[] } {
  const b = new Builder();
  const layer = (x: Value) => b.add('Gemm', [x, b.weight([8, 8]), b.weight([8])]);
  const first = layer(b.input('x', [2, 8]));
  const scale = b.floats([], [0.05]);
  const codes = b.add('QuantizeLinear', [b.add('Relu', [first]), scale]);
  const shared = b.add('DequantizeLinear', [codes, scale]);
  const second = layer(shared);
  const third = layer(b.add('Relu', [second]));
  const fourth = layer(b.add('Add', [third, shared]));
  return { model: b.output(fourth).model, layers: [first, second, third, fourth] };
}

/** The runtime, and the operators of what it was given to open. */
function watched(): { runtime: Runtime; opened: string[][] } {
  const opened: string[][] = [];
  const open: Runtime['open'] = (bytes, options) => {
    opened.push(readOnnx(bytes).graph.nodes.map(({ op }) => op));
    return runtime.open(bytes, options);
  };
  return { runtime: { ...runtime, open }, opened };
}

describe('a prefix', () => {
  it.each([
    ['everything', undefined],
    ['nothing, for want of room', 1],
    ['some of it', 250],
  ])('keeping %s gives what the whole model gives, step by step', async (_, maxBytes) => {
    const { model, layers } = residual();
    const samples = numbered(samplesOf(noiseSamples(model, 3)));
    const prefix = new Prefix(model, samples, { runtime, ...(maxBytes ? { maxBytes } : {}) });
    for (const [index, layer] of layers.entries()) {
      await prefix.advance(new Set(layers.slice(index).map((value) => value.producer!)));
      const [whole, part] = [await openValues(model, [layer], runtime, undefined), await prefix.open([layer])];
      for await (const feeds of samples) {
        const [a, b] = [(await whole.run(feeds))[layer.name], (await part.run(feeds))[layer.name]];
        expect([...b.floats()]).toEqual([...a.floats()]);
      }
      await whole.close();
      await part.close();
    }
  });

  it('begins where changes begin: what lies before is not opened again, and changes are seen', async () => {
    const { model, layers } = residual();
    const samples = numbered(samplesOf(noiseSamples(model, 3)));
    const { runtime: own, opened } = watched();
    const prefix = new Prefix(model, samples, { runtime: own });
    const [, , third, fourth] = layers;
    await prefix.advance(new Set([third.producer!, fourth.producer!]));
    expect(opened.splice(0)).toEqual([['Gemm', 'Relu', 'QuantizeLinear', 'DequantizeLinear', 'Gemm', 'Relu']]);
    const part = await prefix.open([fourth]);
    expect(opened).toEqual([['DequantizeLinear', 'Gemm', 'Add', 'Gemm']]);
    const before: number[] = [];
    for await (const feeds of samples) before.push((await part.run(feeds))[fourth.name].floats()[0]);
    await part.close();
    const bias = third.producer?.inputs[2];
    if (!bias?.tensor) throw new Error('expected a bias');
    bias.tensor = new Builder().weight([8], 5).tensor;
    const changed = await prefix.open([fourth]);
    const reference = await openValues(model, [fourth], runtime, undefined);
    let index = 0;
    for await (const feeds of samples) {
      const found = (await changed.run(feeds))[fourth.name].floats();
      expect([...found]).toEqual([...(await reference.run(feeds))[fourth.name].floats()]);
      expect(found[0]).not.toBe(before[index++]);
    }
    await changed.close();
    await reference.close();
  });

  it('refuses feeds that are none of its samples', async () => {
    const { model, layers } = residual();
    const prefix = new Prefix(model, numbered(samplesOf(noiseSamples(model, 1))), { runtime });
    const session = await prefix.open([layers[0]]);
    await expect(session.run(noiseSamples(model, 1)[0])).rejects.toThrow('expected feeds of its samples');
    await session.close();
  });
});
