/** Gradients of convolutions, against differences, over shapes and attributes. */
import fc from 'fast-check';
import { describe, test } from 'vitest';
import { checkOperator } from '../../../test/support/gradients.ts';
import type { AttributeInput } from '../../graph/attribute.ts';

type Attributes = Readonly<Record<string, AttributeInput>>;

describe('Conv', () => {
  test.each<[string, number[], number[], Attributes]>([
    ['3×3', [2, 3, 6, 5], [4, 3, 3, 3], { pads: [1, 1, 1, 1] }],
    ['without padding', [2, 3, 6, 5], [4, 3, 3, 2], {}],
    ['much padding', [1, 2, 3, 3], [2, 2, 3, 3], { pads: [3, 2, 3, 4] }],
    ['1×1', [2, 3, 4, 5], [4, 3, 1, 1], {}],
    ['1×1, stride', [2, 3, 5, 6], [4, 3, 1, 1], { strides: [2, 2] }],
    ['1×1, groups', [2, 4, 3, 3], [6, 2, 1, 1], { group: 2 }],
    ['stride 2', [2, 3, 8, 8], [4, 3, 3, 3], { pads: [1, 1, 1, 1], strides: [2, 2] }],
    ['stride 2 with a rest', [2, 3, 8, 7], [4, 3, 3, 3], { strides: [2, 3] }],
    ['uneven padding', [1, 2, 5, 5], [2, 2, 3, 3], { pads: [0, 1, 2, 0] }],
    ['dilations', [2, 2, 9, 8], [3, 2, 3, 3], { dilations: [2, 3], pads: [2, 1, 0, 1] }],
    ['groups', [2, 4, 5, 5], [6, 2, 3, 3], { group: 2, pads: [1, 1, 1, 1] }],
    ['depthwise', [2, 4, 5, 5], [4, 1, 3, 3], { group: 4, pads: [1, 1, 1, 1] }],
    ['depthwise, stride', [2, 4, 7, 6], [4, 1, 3, 3], { group: 4, pads: [1, 1, 1, 1], strides: [2, 2] }],
    ['depthwise with a multiplier', [2, 3, 5, 5], [6, 1, 3, 3], { group: 3, strides: [2, 1] }],
    ['1×1, many places', [2, 2, 11, 10], [3, 2, 1, 1], {}],
    ['depthwise, many places', [1, 2, 11, 10], [2, 1, 3, 3], { group: 2, pads: [1, 1, 1, 1] }],
    [
      'groups, stride, dilations',
      [2, 4, 9, 8],
      [6, 2, 3, 2],
      { group: 2, strides: [2, 3], dilations: [2, 1], pads: [2, 1, 1, 0] },
    ],
    ['SAME_UPPER', [1, 2, 6, 7], [3, 2, 3, 4], { auto_pad: 'SAME_UPPER', strides: [2, 2] }],
    ['SAME_LOWER', [1, 2, 6, 7], [3, 2, 3, 4], { auto_pad: 'SAME_LOWER', strides: [2, 2] }],
    ['VALID', [1, 2, 6, 7], [3, 2, 3, 4], { auto_pad: 'VALID' }],
    ['1d', [2, 3, 9], [4, 3, 3], { pads: [1, 1], strides: [2] }],
    ['1d, groups', [2, 4, 9], [4, 2, 3], { group: 2, dilations: [2] }],
    ['3d', [1, 2, 4, 4, 3], [2, 2, 2, 2, 2], {}],
  ])('%s', async (_, x, w, attributes) => {
    await checkOperator('Conv', [x, w, [w[0]]], attributes);
  });
});

/** Any window that fits, over one, two or three axes. */
const windows = fc
  .record({
    rank: fc.integer({ min: 1, max: 3 }),
    batch: fc.integer({ min: 1, max: 3 }),
    group: fc.integer({ min: 1, max: 3 }),
    channels: fc.integer({ min: 1, max: 2 }),
    features: fc.integer({ min: 1, max: 2 }),
    axes: fc.array(
      fc.record({
        size: fc.integer({ min: 1, max: 6 }),
        kernel: fc.integer({ min: 1, max: 3 }),
        stride: fc.integer({ min: 1, max: 3 }),
        dilation: fc.integer({ min: 1, max: 2 }),
        before: fc.integer({ min: 0, max: 2 }),
        after: fc.integer({ min: 0, max: 2 }),
      }),
      { minLength: 3, maxLength: 3 },
    ),
  })
  .map(({ axes, rank, ...rest }) => ({ ...rest, axes: axes.slice(0, rank) }))
  .filter(({ axes }) =>
    axes.every(({ size, kernel, dilation, before, after }) => size + before + after > (kernel - 1) * dilation),
  );

test('Conv of any window', async () => {
  await fc.assert(
    fc.asyncProperty(windows, async ({ batch, group, channels, features, axes }) => {
      const x = [batch, group * channels, ...axes.map(({ size }) => size)];
      const w = [group * features, channels, ...axes.map(({ kernel }) => kernel)];
      const attributes = {
        group,
        strides: axes.map(({ stride }) => stride),
        dilations: axes.map(({ dilation }) => dilation),
        pads: [...axes.map(({ before }) => before), ...axes.map(({ after }) => after)],
      };
      await checkOperator('Conv', [x, w, [w[0]]], attributes, { step: 0.25, elements: 4 });
    }),
    { numRuns: 40, seed: 1 },
  );
});

describe('ConvTranspose', () => {
  test.each<[string, number[], number[], Attributes]>([
    ['3×3', [2, 3, 4, 5], [3, 4, 3, 3], { pads: [1, 1, 1, 1] }],
    ['stride 2', [2, 3, 4, 5], [3, 2, 2, 2], { strides: [2, 2] }],
    ['added at the end', [1, 3, 4, 5], [3, 2, 3, 3], { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 1] }],
    ['groups, dilations', [2, 4, 4, 4], [4, 3, 3, 2], { group: 2, dilations: [2, 1] }],
    ['output shape', [1, 2, 4, 4], [2, 2, 3, 3], { strides: [2, 2], output_shape: [8, 8] }],
    ['SAME_UPPER', [1, 2, 4, 4], [2, 2, 3, 3], { strides: [2, 2], auto_pad: 'SAME_UPPER' }],
    ['1d', [2, 3, 5], [3, 2, 4], { strides: [3], pads: [1, 0] }],
  ])('%s', async (_, x, w, attributes) => {
    const group = Number(attributes.group ?? 1);
    await checkOperator('ConvTranspose', [x, w, [w[1] * group]], attributes);
  });
});
