/** Grids are found where values lie on one, and graphs that read pixels give what they gave. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { difference, run } from '../../test/support/before-after.ts';
import { Builder } from '../../test/support/static.ts';
import { createRandom } from '../base/random.ts';
import type { AttributeInput } from '../graph/attribute.ts';
import type { Model } from '../graph/model.ts';
import { cloneModel } from '../pipeline/prepare.ts';
import { Tensor } from '../tensor/tensor.ts';
import { griddedInputs, gridInterval, gridOf, readOnGrid } from './input-grid.ts';

/** What torchvision subtracts and divides by. */
const [means, deviations] = [
  [0.485, 0.456, 0.406],
  [0.229, 0.224, 0.225],
];
const normalized = (pixel: number, channel: number) =>
  Math.fround((pixel / 255 - means[channel]) / deviations[channel]);
const pixels = Array.from({ length: 256 }, (_, pixel) => pixel);

describe('gridOf', () => {
  test.each([0, 1, 2])('finds the steps of pixels, normalized as channel %i of torchvision', (channel) => {
    const grid = gridOf(pixels.map((pixel) => normalized(pixel, channel)));
    expect(grid?.step).toBeCloseTo(1 / 255 / deviations[channel], 6);
    expect(grid?.zero).toBeCloseTo(255 * means[channel] - 128, 3);
  });

  test('brings every pixel to a whole number from −128 to 127', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 0, max: 255 }), { minLength: 130 }),
        fc.double({ min: 1e-3, max: 1e3, noNaN: true }),
        fc.double({ min: 1, max: 254, noNaN: true }),
        (some, step, zero) => {
          const grid = gridOf(some.map((pixel) => Math.fround((pixel - zero) * step)));
          // More than half of all pixels hold two neighbours, which tell the step.
          if (!grid) throw new Error('no grid');
          for (const pixel of some) {
            const place = Math.fround((pixel - zero) * step) / grid.step + grid.zero;
            expect(Math.abs(place - Math.round(place))).toBeLessThan(0.02);
            expect(Math.round(place)).toBeGreaterThanOrEqual(gridInterval.min);
            expect(Math.round(place)).toBeLessThanOrEqual(gridInterval.max);
          }
        },
      ),
    );
  });

  test('leaves as many steps on either side where samples did not reach the ends', () => {
    const grid = gridOf(pixels.slice(40, 200));
    expect(grid?.step).toBe(1);
    expect(40 + (grid?.zero ?? 0)).toBe(-80);
  });

  const random = createRandom(1);
  test.each([
    ['numbers anywhere', pixels.map(() => random())],
    ['more than 256 steps', Array.from({ length: 300 }, (_, index) => index)],
    ['few numbers', pixels.slice(0, 20)],
    ['a coarse grid', pixels.slice(0, 100)],
    ['steps of two sizes', pixels.map((pixel) => (pixel < 128 ? pixel : pixel * 1.1))],
    ['pixels that are all far above zero', pixels.map((pixel) => pixel + 300)],
    ['one number', [3]],
    ['none', []],
    ['something infinite', [...pixels, Number.POSITIVE_INFINITY]],
  ])('finds none in %s', (_, values) => expect(gridOf(values)).toBeUndefined());
});

function picture(channels: number, size: number): Tensor {
  const random = createRandom(7);
  const values = Array.from({ length: channels * size * size }, (_, index) =>
    normalized(Math.floor(256 * random()), Math.floor(index / (size * size)) % 3),
  );
  return Tensor.float32([1, channels, size, size], values);
}

const grids = (channels: number) =>
  Array.from({ length: channels }, (_, channel) => gridOf(pixels.map((pixel) => normalized(pixel, channel % 3)))!);

function first(build: (b: Builder) => void): Model {
  const b = new Builder();
  build(b);
  return b.model;
}

describe('readOnGrid', () => {
  const conv = (channels: number, attributes: Record<string, AttributeInput>, hasBias = true) =>
    first((b) => {
      const x = b.input('x', [1, channels, 8, 8]);
      const weight = b.weight([6, channels / Number(attributes.group ?? 1), 3, 3]);
      b.output(b.add('Conv', hasBias ? [x, weight, b.weight([6])] : [x, weight], attributes));
    });
  test.each<[string, number, Model]>([
    ['with padding', 3, conv(3, { pads: [1, 1, 1, 1] })],
    ['with uneven padding and strides', 3, conv(3, { pads: [0, 1, 2, 1], strides: [2, 2] })],
    ['without padding', 3, conv(3, {})],
    ['with auto_pad VALID', 3, conv(3, { auto_pad: 'VALID' })],
    ['without bias', 3, conv(3, { pads: [1, 1, 1, 1] }, false)],
    ['in groups', 6, conv(6, { group: 3, pads: [1, 1, 1, 1] })],
  ])('a convolution %s gives what it gave, and reads whole numbers', async (_, channels, model) => {
    const copy = cloneModel(model);
    const [{ input, channels: found }] = griddedInputs(copy.graph);
    expect(found).toBe(channels);
    const [name] = readOnGrid(input, grids(channels));
    const feeds = { x: picture(channels, 8) };
    expect(difference(await run(model, feeds), await run(copy, feeds))).toBeLessThan(1e-5);
    const read = copy.graph.nodes.flatMap((node) => node.outputs).find((value) => value?.name === name)!;
    copy.graph.outputs.splice(0, 1, read);
    const values = Object.values(await run(copy, feeds))[0].floats();
    const isPadded = values.length > channels * 64;
    const inside = values.filter((value) => Math.abs(value - Math.round(value)) < 1e-3).length;
    expect(inside).toBeGreaterThanOrEqual(channels * 64);
    expect(isPadded || inside === values.length).toBe(true);
  });

  test('two convolutions of like padding share the pixels', () => {
    const model = first((b) => {
      const x = b.input('x', [1, 3, 8, 8]);
      b.output(b.conv(x, 3, 4), b.conv(x, 3, 4), b.conv(x, 3, 4, [1, 1]));
    });
    const [{ input }] = griddedInputs(model.graph);
    expect(readOnGrid(input, grids(3))).toHaveLength(2);
  });

  test.each<[string, (b: Builder) => void]>([
    ['that something else reads', (b) => b.output(b.add('Relu', [b.input('x', [1, 3, 8, 8])]))],
    [
      'with a weight that is computed',
      (b) => b.output(b.add('Conv', [b.input('x', [1, 3, 8, 8]), b.add('Relu', [b.weight([4, 3, 3, 3])])])),
    ],
    [
      'whose layers share a weight',
      (b) => {
        const [x, weight] = [b.input('x', [1, 3, 8, 8]), b.weight([4, 3, 3, 3])];
        b.output(b.add('Conv', [x, weight]), b.add('Conv', [x, weight]));
      },
    ],
    [
      'with padding that depends on its size',
      (b) => b.output(b.add('Conv', [b.input('x', [1, 3, 8, 8]), b.weight([4, 3, 3, 3])], { auto_pad: 'SAME_UPPER' })),
    ],
    [
      'that something else reads beside a layer',
      (b) => {
        const x = b.input('x', [1, 3, 8, 8]);
        b.output(b.conv(x, 3, 4), b.add('Sigmoid', [x]));
      },
    ],
  ])('an input %s is left', (_, build) => expect(griddedInputs(first(build).graph)).toEqual([]));
});
