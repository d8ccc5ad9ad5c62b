/** Straight-through gradients of quantization, against their closed form. */
import { describe, expect, test } from 'vitest';
import { addInput, addNode, emptyModel, run } from '../../../test/support/before-after.ts';
import { gaussian } from '../../../test/support/gradients.ts';
import { roundHalfToEven } from '../../base/round.ts';
import { checkModel } from '../../graph/check.ts';
import type { DType } from '../../tensor/dtype.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { addGradients } from '../index.ts';

interface Case {
  readonly codes: DType;
  readonly lowest: number;
  readonly highest: number;
  readonly scales: readonly number[];
  readonly zeroPoints?: readonly number[];
  readonly axis?: number;
}

const cases: Case[] = [
  { codes: 'uint8', lowest: 0, highest: 255, scales: [0.01], zeroPoints: [100] },
  { codes: 'int8', lowest: -128, highest: 127, scales: [0.008] },
  {
    codes: 'int8',
    lowest: -128,
    highest: 127,
    scales: [0.01, 0.02, 0.004, 0.001],
    zeroPoints: [0, 3, -5, 100],
    axis: 1,
  },
  { codes: 'int8', lowest: -128, highest: 127, scales: [0.01, 0.005, 0.002], axis: 0 },
];

describe('QuantizeLinear and DequantizeLinear', () => {
  test.each(cases)('$codes, scales $scales', async ({ codes, lowest, highest, scales, zeroPoints, axis = 1 }) => {
    const shape = [3, 4, 5];
    const model = emptyModel(21);
    const x = addInput(model, 'x', shape);
    const seed = addInput(model, 'seed', shape);
    const lengths = scales.length === 1 ? [] : [scales.length];
    const scale = addInput(model, 'scale', lengths);
    const zeroPoint =
      zeroPoints && model.graph.addInitializer('z', new Tensor(codes, lengths, Uint8Array.from(zeroPoints)));
    const attributes = { axis, ...(zeroPoints ? {} : { output_dtype: codes === 'int8' ? 3 : 2 }) };
    const quantized = addNode(model, 'QuantizeLinear', [x, scale, zeroPoint], attributes, 'q');
    const y = addNode(model, 'DequantizeLinear', [quantized, scale, zeroPoint], { axis });
    const shapes = new Map([x, quantized, y].map(({ name }) => [name, shape]));
    const gradients = addGradients({ model, output: y, seed, inputs: [x, scale], shapes });
    model.graph.outputs.push(...gradients.values());
    checkModel(model);
    const feeds = { x: gaussian(shape), seed: gaussian(shape, 2), scale: Tensor.float32(lengths, scales) };
    const results = await run(model, feeds);

    const [values, given] = [feeds.x.floats(), feeds.seed.floats()];
    const byScale = scales.map(() => 0);
    const byX = values.map((value, index) => {
      const channel = scales.length === 1 ? 0 : axis === 0 ? Math.floor(index / 20) : Math.floor(index / 5) % 4;
      const [s, z] = [Math.fround(scales[channel]), zeroPoints?.[channel] ?? 0];
      const code = roundHalfToEven(value / s) + z;
      const inside = code >= lowest && code <= highest;
      const clamped = Math.min(Math.max(code, lowest), highest);
      byScale[channel] += given[index] * (clamped - z - (inside ? value / s : 0));
      return inside ? given[index] : 0;
    });
    expect(byX.filter((slope) => slope === 0).length).toBeGreaterThan(2);
    results[gradients.get(x)!.name].floats().forEach((slope, index) => {
      expect(slope).toBeCloseTo(byX[index], 5);
    });
    results[gradients.get(scale)!.name].floats().forEach((slope, index) => {
      expect(slope / byScale[index]).toBeCloseTo(1, 3);
    });
  });

  test('the scale of stored codes', async () => {
    const model = emptyModel(13);
    const codes = model.graph.addInitializer(
      'codes',
      new Tensor('int8', [2, 3], Uint8Array.from([1, 2, 3, 255, 0, 5])),
    );
    const scale = addInput(model, 'scale', [2]);
    const y = addNode(model, 'DequantizeLinear', [codes, scale], { axis: 0 });
    const seed = model.graph.addInitializer('seed', Tensor.float32([2, 3], [1, 1, 1, 2, 1, 1]));
    const shapes = new Map([['y', [2, 3]]]);
    const gradient = addGradients({ model, output: y, seed, inputs: [scale], shapes }).get(scale)!;
    model.graph.outputs.push(gradient);
    const results = await run(model, { scale: Tensor.float32([2], [0.5, 0.25]) });
    expect(Array.from(results[gradient.name].floats())).toEqual([6, 3]);
  });
});
