/** The settled part: runs behind it give what runs of the whole model give, whatever is kept, and stay in bounds. */
import { describe, expect, it } from 'vitest';
import { Builder, noiseSamples, samplesOf } from '../../test/support/static.ts';
import { readOnnx } from '../files/onnx/read.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { openRuntime } from '../runtime/node.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
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
    ['everything', undefined, [1, 1, 1, 1]],
    ['nothing, for want of room', 1, [1, 2, 3, 4]],
    // Codes of the first layer, 48 bytes; both values that cross later take 192 and 48.
    ['some of it', 100, [1, 1, 2, 3]],
  ])('keeping %s gives what the whole model gives, step by step', async (_, maxBytes, gemms) => {
    const { model, layers } = residual();
    const samples = numbered(samplesOf(noiseSamples(model, 3)));
    const { runtime: own, opened } = watched();
    const prefix = new Prefix(model, samples, { runtime: own, ...(maxBytes ? { maxBytes } : {}) });
    for (const [index, layer] of layers.entries()) {
      await prefix.advance(new Set(layers.slice(index).map((value) => value.producer!)));
      const [whole, part] = [await openValues(model, [layer], runtime, undefined), await prefix.open([layer])];
      expect(opened.at(-1)?.filter((op) => op === 'Gemm')).toHaveLength(gemms[index]);
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

  it('computes again what the runtime cannot hand over, and codes of a grid that moves', async () => {
    const b = new Builder();
    const x = b.input('x', [2, 8]);
    const [codes, scale, zeroPoint] = [0, 1, 2].map((index) => b.graph.addValue(`dynamic_${index}`));
    b.graph.add({ op: 'DynamicQuantizeLinear', inputs: [x], outputs: [codes, scale, zeroPoint] });
    const floats = b.add('DequantizeLinear', [codes, scale, zeroPoint]);
    const sequence = b.add('SequenceConstruct', [x, floats]);
    const layer = b.add('Gemm', [floats, b.weight([8, 8]), b.weight([8])]);
    const at = b.graph.addInitializer('at', Tensor.int64([], [1]));
    const end = b.add('Add', [layer, b.add('SequenceAt', [b.add('SequenceInsert', [sequence, layer]), at])]);
    const { model } = b.output(end);
    const prefix = new Prefix(model, numbered(samplesOf(noiseSamples(model, 2))), { runtime });
    await prefix.advance(new Set([layer.producer!]));
    const [whole, part] = [await openValues(model, [end], runtime, undefined), await prefix.open([end])];
    for await (const feeds of prefix.samples) {
      expect([...(await part.run(feeds))[end.name].floats()]).toEqual([...(await whole.run(feeds))[end.name].floats()]);
    }
    await whole.close();
    await part.close();
    // Without the sequence behind the layer, the floats are kept: the codes' scale is not the same for every sample.
    const alone = new Prefix(model, prefix.samples, { runtime });
    await alone.advance(new Set([layer.producer!, sequence.producer!]));
    const session = await alone.open([layer]);
    for await (const feeds of alone.samples) expect((await session.run(feeds))[layer.name].shape).toEqual([2, 8]);
    await session.close();
  });

  it('refuses feeds that are none of its samples', async () => {
    const { model, layers } = residual();
    const prefix = new Prefix(model, numbered(samplesOf(noiseSamples(model, 1))), { runtime });
    const session = await prefix.open([layers[0]]);
    await expect(session.run(noiseSamples(model, 1)[0])).rejects.toThrow('expected feeds of its samples');
    await session.close();
  });
});
