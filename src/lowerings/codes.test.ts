/** Scales of every type, and codes of every width, as ONNX Runtime unpacks them. */
import { describe, expect, it } from 'vitest';
import { emptyModel } from '../../test/support/before-after.ts';
import { addOutput, run } from '../../test/support/lowered.ts';
import { minifloatValues } from '../formats/minifloat.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { packedBytes, packedCodes, type StoredScales, scaleBytes, scaleOpset, scaleValue } from './codes.ts';
import { packedTrits, tritBytes, tritValue } from './levels.ts';
import { SharedConstants } from './weight.ts';

/** What is read back, and the bytes of initializers that are not shared. */
async function unpacked(
  opset: number,
  build: (graph: Graph, constants: SharedConstants) => Value,
): Promise<{ tensor: Tensor; bytes: number }> {
  const model = emptyModel(opset, 9);
  const { graph } = model;
  const value = build(graph, new SharedConstants(model));
  addOutput(graph, graph.add({ op: 'Identity', inputs: [value], outputs: ['copy'] }).output());
  graph.sort();
  const own = [...graph.initializers].filter(({ name }) => !name.startsWith('halftone/'));
  const bytes = own.reduce((sum, { tensor }) => sum + (tensor?.byteLength ?? 0), 0);
  return { tensor: (await run(model)).copy, bytes };
}

describe('scaleValue', () => {
  const powers = Float32Array.from({ length: 254 }, (_, index) => 2 ** (index - 126));
  const short = minifloatValues('float8e4m3fn').slice(1, 127);
  const rows = Float32Array.of(0.7, 3e-5);
  const multiples = Float32Array.from({ length: 2 * 254 }, (_, index) => {
    const multiple = (index % 254) - 127;
    return (multiple < 0 ? multiple : multiple + 1) * rows[Math.floor(index / 254)];
  });
  const cases: readonly (readonly [string, Omit<StoredScales, 'scheme'>])[] = [
    ['int4:g32:sym:scale32', { scales: Float32Array.of(1e-20, -0.3, 7), shape: [3, 1] }],
    ['int4:g32:sym:scale16', { scales: Float32Array.of(6.2e-5, -0.25, 65504).map(Math.fround), shape: [3] }],
    ['int4:g32:sym:scale-e8m0', { scales: powers, shape: [2, 127, 1] }],
    [
      'int4:g32:sym:scale-e4m3',
      {
        scales: short.map((multiple) => Math.fround(multiple * Math.fround(0.0123))),
        shape: [126],
        factors: Float32Array.of(0.0123),
      },
    ],
    ['int4:g32:sym:scale8', { scales: multiples, shape: [2, 254, 1], factors: rows, factorShape: [2, 1, 1] }],
  ];

  it.each(cases)('gives the scales of %s', async (text, stored) => {
    const scheme = parseScheme(text);
    const { tensor, bytes } = await unpacked(scaleOpset(scheme), (graph, constants) =>
      scaleValue(graph, constants, 'scale', { scheme, ...stored }),
    );
    const expected = scheme.scaleType === 'float16' ? Tensor.float16([3], stored.scales).floats() : stored.scales;
    expect(tensor.shape).toEqual(stored.shape);
    expect(tensor.floats()).toEqual(expected);
    expect(bytes).toBe(scaleBytes(scheme, stored.scales.length, stored.factors?.length ?? 0));
  });
});

describe('packedCodes', () => {
  const cases = [1, 2, 3, 4, 5, 6, 7, 8, 16].flatMap((bits) =>
    (['float32', 'int32'] as const).flatMap((type) => [24, 37].map((count) => [bits, type, count] as const)),
  );

  it.each(cases)('of %i bits as %s, %i of them', async (bits, type, count) => {
    const numbers = Array.from({ length: count }, (_, index) => (index * 40503) % 2 ** bits);
    const codes = bits > 8 ? Uint16Array.from(numbers) : Uint8Array.from(numbers);
    const { tensor, bytes } = await unpacked(11, (graph, constants) => {
      const value = packedCodes(graph, constants, 'w', codes, bits, [1, count], type);
      return graph.add({ op: 'Cast', inputs: [value], outputs: ['floats'], attributes: { to: 1 } }).output();
    });
    expect(tensor.shape).toEqual([1, count]);
    expect(Array.from(tensor.floats())).toEqual(numbers);
    expect(bytes).toBe(packedBytes(count, bits));
  });
});

describe('trits', () => {
  it('are digits of base 3, the first the lowest', () => {
    expect([...packedTrits(Int8Array.of(-1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 0, 1))]).toEqual([0, 242, 1 + 2 * 3]);
  });

  it('have no other codes', () => {
    expect(() => packedTrits(Int8Array.of(0, -2))).toThrow('ternary codes: expected −1, 0 and 1, got -2');
  });

  it.each([1, 5, 15, 243 * 5, 243 * 5 + 2])('come back, %i of them', async (count) => {
    const codes = Int8Array.from({ length: count }, (_, index) => {
      const byte = Math.floor(index / 5);
      return (Math.floor(byte / 3 ** (index % 5)) % 3) - 1;
    });
    const { tensor, bytes } = await unpacked(11, (graph, constants) =>
      tritValue(graph, constants, 'w', codes, [count, 1]),
    );
    expect(tensor.shape).toEqual([count, 1]);
    expect(Array.from(tensor.floats())).toEqual(Array.from(codes));
    expect(bytes).toBe(tritBytes(count));
  });
});
