/** Every operator whose form changed, alone: ONNX Runtime computes the same in the old operator set and in later ones. */
import { describe, expect, test } from 'vitest';
import {
  addInput,
  addNode,
  copyOf,
  difference,
  emptyModel,
  noise,
  operators,
  run,
} from '../../test/support/before-after.ts';
import { isHalftoneError } from '../base/errors.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import { checkModel } from '../graph/check.ts';
import { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';
import { irVersionFor, upgradeOpset } from './upgrade-opset.ts';

type Attributes = Parameters<typeof addNode>[3];

interface Case {
  readonly name: string;
  readonly opset: number;
  readonly op: string;
  /** Fed by name, or constants; undefined for an omitted input. */
  readonly inputs: readonly (Tensor | { readonly constant: Tensor } | undefined)[];
  readonly attributes?: Attributes;
  readonly outputs?: number;
  /** Do not declare the rank of inputs. */
  readonly unknownRank?: boolean;
  /** Where ONNX Runtime 1.30 lacks the newest version. */
  readonly targets?: readonly number[];
  /** Relative; by default the outputs must be the same bits. */
  readonly tolerance?: number;
}

function build(one: Case): { model: Model; feeds: Feeds } {
  const model = emptyModel(one.opset, irVersionFor(one.opset));
  const feeds: Record<string, Tensor> = {};
  const inputs = one.inputs.map((input, index): Value | undefined => {
    if (!input) return undefined;
    if ('constant' in input) return model.graph.addInitializer(`c${index}`, input.constant);
    feeds[`x${index}`] = input;
    return addInput(model, `x${index}`, one.unknownRank ? undefined : input.shape, input.dtype);
  });
  // IR 3 has no constants beside the inputs.
  if (model.irVersion < 4) model.irVersion = 4;
  const outputs = Array.from({ length: one.outputs ?? 1 }, (_, index) => `y${index}`);
  const node = model.graph.add({ op: one.op, name: 'n', inputs, outputs, attributes: one.attributes ?? {} });
  model.graph.outputs.push(...node.outputs.filter((output) => output !== undefined));
  return { model, feeds };
}

const real = (value: number) => ({ type: 'float', value }) as const;
const reals = (...value: number[]) => ({ type: 'floats', value }) as const;
const constant = (tensor: Tensor) => ({ constant: tensor });
const ints = (...values: number[]) => constant(Tensor.int64([values.length], values));
const x234 = noise([2, 3, 4]);
const image = noise([1, 2, 5, 6]);

const softmaxCases = ['Softmax', 'LogSoftmax', 'Hardmax'].flatMap((op): Case[] => [
  { name: 'default axis, rank 2', opset: 11, op, inputs: [noise([3, 5])] },
  { name: 'default axis, rank 3', opset: 9, op, inputs: [x234] },
  { name: 'default axis, unknown rank', opset: 11, op, inputs: [x234], unknownRank: true },
  { name: 'axis 0', opset: 11, op, inputs: [x234], attributes: { axis: 0 } },
  { name: 'axis 2, unknown rank', opset: 11, op, inputs: [x234], attributes: { axis: 2 }, unknownRank: true },
  { name: 'axis -1, unknown rank', opset: 11, op, inputs: [x234], attributes: { axis: -1 }, unknownRank: true },
  { name: 'axis -2', opset: 11, op, inputs: [x234], attributes: { axis: -2 } },
  { name: 'axis -2, unknown rank', opset: 11, op, inputs: [x234], attributes: { axis: -2 }, unknownRank: true },
  { name: 'only channels are wide', opset: 7, op, inputs: [noise([2, 7, 1, 1])] },
]);

const resizeCases: Case[] = [7, 9].flatMap((opset) =>
  (['nearest', 'linear'] as const).flatMap((mode) =>
    [
      [1, 1, 2, 3],
      [1, 1, 1.5, 2.3],
    ].map((scales): Case => {
      const given = Tensor.float32([4], scales);
      return {
        name: `${mode} ${scales}`,
        opset,
        op: 'Upsample',
        inputs: opset === 7 ? [image] : [image, constant(given)],
        attributes: opset === 7 ? { mode, scales: reals(...scales) } : { mode },
      };
    }),
  ),
);
for (const mode of ['nearest', 'linear']) {
  for (const scales of [
    [1, 1, 2, 3],
    [1, 1, 1.7, 1.3],
    [1, 1, 0.5, 0.4],
    [1, 1, 0.6, 2.5],
  ]) {
    const given = Tensor.float32([4], scales);
    const common = { opset: 10, op: 'Resize', attributes: { mode } };
    resizeCases.push({ ...common, name: `${mode} ${scales}`, inputs: [image, constant(given)] });
    resizeCases.push({ ...common, name: `${mode} ${scales}, computed`, inputs: [image, given] });
  }
}
for (const scales of [
  [1, 1, 1.7, 0.6],
  [1, 1, 2, 3],
]) {
  resizeCases.push({
    name: `tf_half_pixel_for_nn ${scales}`,
    opset: 11,
    op: 'Resize',
    inputs: [image, constant(Tensor.float32([0], [])), constant(Tensor.float32([4], scales))],
    attributes: { mode: 'nearest', coordinate_transformation_mode: 'tf_half_pixel_for_nn', nearest_mode: 'floor' },
  });
}
for (const coordinate_transformation_mode of ['half_pixel', 'align_corners', 'pytorch_half_pixel', 'asymmetric']) {
  const empty = constant(Tensor.float32([0], []));
  for (const mode of ['nearest', 'linear', 'cubic']) {
    const attributes = { mode, coordinate_transformation_mode };
    const common = { opset: 11, op: 'Resize', attributes };
    const scales = constant(Tensor.float32([4], [1, 1, 1.7, 0.6]));
    resizeCases.push({ ...common, name: `${mode} ${coordinate_transformation_mode}`, inputs: [image, empty, scales] });
    resizeCases.push({
      ...common,
      name: `${mode} ${coordinate_transformation_mode}, sizes`,
      inputs: [image, empty, empty, ints(1, 2, 9, 4)],
    });
  }
}

const reduceCases = [
  'ReduceL1',
  'ReduceL2',
  'ReduceLogSum',
  'ReduceLogSumExp',
  'ReduceMax',
  'ReduceMean',
  'ReduceMin',
  'ReduceProd',
  'ReduceSum',
  'ReduceSumSquare',
].flatMap((op): Case[] => [
  { name: 'one axis', opset: 11, op, inputs: [x234], attributes: { axes: [1] } },
  { name: 'two axes, not kept', opset: 7, op, inputs: [x234], attributes: { axes: [0, 2], keepdims: 0 } },
  { name: 'negative axis', opset: 12, op, inputs: [x234], attributes: { axes: [-1], keepdims: 0 } },
  { name: 'no axes', opset: 11, op, inputs: [x234] },
  { name: 'an empty list of axes', opset: 11, op, inputs: [x234], attributes: { axes: [] } },
]);

const normParameters = [noise([3], 2), noise([3], 3), noise([3], 4), Tensor.float32([3], [0.5, 1, 2])].map(constant);
const sequence = noise([5, 2, 3]);

const cases: readonly Case[] = [
  ...softmaxCases,
  ...resizeCases,
  ...reduceCases,
  { name: 'spatial', opset: 7, op: 'BatchNormalization', inputs: [noise([2, 3, 4, 4]), ...normParameters] },
  {
    name: 'epsilon and momentum',
    opset: 9,
    op: 'BatchNormalization',
    inputs: [noise([2, 3, 4, 4]), ...normParameters],
    attributes: { epsilon: real(0.01), momentum: real(0.5) },
  },
  { name: 'both', opset: 7, op: 'Clip', inputs: [x234], attributes: { min: real(-0.25), max: real(0.5) } },
  { name: 'min alone', opset: 10, op: 'Clip', inputs: [x234], attributes: { min: real(0) } },
  { name: 'max alone', opset: 10, op: 'Clip', inputs: [x234], attributes: { max: real(0) } },
  { name: 'neither', opset: 10, op: 'Clip', inputs: [x234] },
  { name: 'split', opset: 11, op: 'Split', inputs: [x234], attributes: { axis: 2, split: [1, 3] }, outputs: 2 },
  { name: 'halves', opset: 7, op: 'Split', inputs: [x234], attributes: { axis: 2 }, outputs: 2 },
  {
    name: 'halves, split input',
    opset: 13,
    op: 'Split',
    inputs: [x234, ints(2, 1)],
    attributes: { axis: 1 },
    outputs: 2,
  },
  { name: 'equal thirds', opset: 13, op: 'Split', inputs: [x234], attributes: { axis: 1 }, outputs: 3 },
  { name: 'axes', opset: 11, op: 'Squeeze', inputs: [noise([1, 3, 1, 2])], attributes: { axes: [0, -2] } },
  { name: 'all', opset: 7, op: 'Squeeze', inputs: [noise([1, 3, 1, 2])] },
  { name: 'axes', opset: 11, op: 'Unsqueeze', inputs: [x234], attributes: { axes: [0, 4] } },
  { name: 'starts and ends', opset: 7, op: 'Slice', inputs: [x234], attributes: { starts: [1, 1], ends: [2, 3] } },
  {
    name: 'axes, negative, open end',
    opset: 9,
    op: 'Slice',
    inputs: [x234],
    attributes: { axes: [2, 1], starts: [-3, 0], ends: { type: 'ints', value: [2n ** 63n - 1n, -1n] } },
  },
  {
    name: 'steps',
    opset: 10,
    op: 'Slice',
    inputs: [x234, ints(3, 0), ints(-5, 2), ints(2, 1), ints(-2, 1)],
  },
  { name: 'k', opset: 7, op: 'TopK', inputs: [noise([3, 7])], attributes: { k: 3 }, outputs: 2 },
  { name: 'k and axis', opset: 7, op: 'TopK', inputs: [noise([7, 3])], attributes: { k: 2, axis: 0 }, outputs: 2 },
  { name: 'computed k', opset: 10, op: 'TopK', inputs: [noise([3, 7]), Tensor.int64([1], [4])], outputs: 2 },
  { name: 'ratio', opset: 7, op: 'Dropout', inputs: [x234], attributes: { ratio: real(0.3) } },
  { name: 'ratio', opset: 10, op: 'Dropout', inputs: [x234], attributes: { ratio: real(0.3) } },
  ...['constant', 'reflect', 'edge'].map(
    (mode): Case => ({
      name: mode,
      opset: 7,
      op: 'Pad',
      inputs: [image],
      attributes: { mode, pads: [0, 0, 1, 2, 0, 0, 3, 1] },
    }),
  ),
  {
    name: 'value, double',
    opset: 10,
    op: 'Pad',
    inputs: [new Tensor('float64', [2], bytesOf(Float64Array.of(1, 2)))],
    attributes: { pads: [1, 0], value: real(0.75) },
  },
  { name: 'value', opset: 10, op: 'Pad', inputs: [x234], attributes: { pads: [1, 0, 0, 0, 2, 0], value: real(0.75) } },
  { name: 'negative', opset: 10, op: 'Pad', inputs: [x234], attributes: { pads: [0, -1, 0, 0, 0, -2] } },
  {
    name: 'elements',
    opset: 9,
    op: 'Scatter',
    inputs: [x234, Tensor.int64([1, 1, 2], [1, 0]), noise([1, 1, 2], 5)],
    attributes: { axis: 1 },
  },
  {
    name: 'three inputs',
    opset: 7,
    op: 'Gemm',
    inputs: [noise([2, 3]), noise([3, 4]), noise([4])],
    attributes: { alpha: real(0.5) },
  },
  {
    name: 'SAME_UPPER, odd',
    opset: 7,
    op: 'ConvTranspose',
    inputs: [image, noise([2, 3, 2, 2])],
    attributes: { auto_pad: 'SAME_UPPER', strides: [1, 1] },
  },
  {
    name: 'SAME_LOWER, odd',
    opset: 7,
    op: 'ConvTranspose',
    inputs: [image, noise([2, 3, 2, 2])],
    attributes: { auto_pad: 'SAME_LOWER', strides: [1, 1] },
  },
  {
    name: 'pads counted',
    opset: 7,
    op: 'AveragePool',
    inputs: [image],
    attributes: { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 },
    tolerance: 1e-6,
  },
  {
    name: 'ceil_mode',
    opset: 10,
    op: 'AveragePool',
    inputs: [image],
    attributes: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 },
    tolerance: 1e-6,
  },
  {
    name: 'ceil_mode and pads',
    opset: 11,
    op: 'AveragePool',
    inputs: [image],
    attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], ceil_mode: 1 },
    tolerance: 1e-6,
  },
  {
    name: 'ceil_mode and pads counted',
    opset: 11,
    op: 'AveragePool',
    inputs: [image],
    attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], ceil_mode: 1, count_include_pad: 1 },
    tolerance: 1e-6,
  },
  {
    name: 'SAME_UPPER',
    opset: 7,
    op: 'MaxPool',
    inputs: [image],
    attributes: { kernel_shape: [2, 2], strides: [2, 2], auto_pad: 'SAME_UPPER' },
  },
  {
    name: 'ceil_mode',
    opset: 10,
    op: 'MaxPool',
    inputs: [image],
    attributes: { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 },
    outputs: 2,
  },
  {
    name: 'p 3',
    opset: 11,
    op: 'LpPool',
    inputs: [image],
    attributes: { kernel_shape: [2, 2], p: 3 },
    tolerance: 1e-6,
  },
  ...['bilinear', 'bicubic', 'nearest', undefined].map(
    (mode): Case => ({
      name: mode ?? 'default mode',
      opset: 16,
      op: 'GridSample',
      inputs: [image, noise([1, 3, 4, 2], 9)],
      attributes: mode ? { mode } : {},
    }),
  ),
  { name: 'default axis', opset: 17, op: 'DFT', inputs: [noise([2, 8, 3, 1])], tolerance: 1e-6 },
  {
    name: 'axis 2, inverse',
    opset: 17,
    op: 'DFT',
    inputs: [noise([2, 8, 6, 2])],
    attributes: { axis: 2, inverse: 1 },
    tolerance: 1e-6,
  },
  {
    name: 'constant scale',
    opset: 18,
    op: 'GroupNormalization',
    inputs: [noise([2, 6, 5]), constant(noise([3], 2)), constant(noise([3], 3))],
    attributes: { num_groups: 3 },
    tolerance: 1e-6,
  },
  {
    name: 'unknown rank',
    opset: 18,
    op: 'GroupNormalization',
    inputs: [noise([2, 6, 5]), noise([3], 2), noise([3], 3)],
    attributes: { num_groups: 3 },
    unknownRank: true,
    tolerance: 1e-6,
  },
  {
    name: 'without half pixel',
    opset: 10,
    op: 'RoiAlign',
    inputs: [image, Tensor.float32([2, 4], [0, 0, 3, 3, 1, 1, 5, 4]), Tensor.int64([2], [0, 0])],
    attributes: { output_height: 2, output_width: 2, sampling_ratio: 2 },
    targets: [11, 16, 21],
  },
  ...(['LSTM', 'GRU', 'RNN'] as const).map((op): Case => {
    const gates = { LSTM: 4, GRU: 3, RNN: 1 }[op];
    return {
      name: 'two directions',
      opset: 7,
      op,
      inputs: [sequence, noise([2, gates * 4, 3], 2), noise([2, gates * 4, 4], 3), noise([2, gates * 8], 4)],
      attributes: { hidden_size: 4, direction: 'bidirectional' },
      outputs: op === 'LSTM' ? 3 : 2,
    };
  }),
  { name: 'axis', opset: 7, op: 'ArgMax', inputs: [x234], attributes: { axis: 1, keepdims: 0 } },
  { name: 'default mode', opset: 7, op: 'DepthToSpace', inputs: [noise([1, 8, 2, 2])], attributes: { blocksize: 2 } },
  { name: 'indices', opset: 11, op: 'GatherND', inputs: [x234, Tensor.int64([2, 2], [0, 1, 1, 2])] },
  { name: 'copied sizes', opset: 7, op: 'Reshape', inputs: [x234, ints(0, -1)] },
  { name: 'axis 2', opset: 7, op: 'Flatten', inputs: [x234], attributes: { axis: 2 } },
  {
    name: 'values',
    opset: 9,
    op: 'OneHot',
    inputs: [Tensor.int64([3], [0, 2, -1]), constant(Tensor.int64([1], [3])), constant(Tensor.float32([2], [0, 5]))],
  },
  { name: 'slopes', opset: 7, op: 'PRelu', inputs: [x234, noise([4], 3)] },
  {
    name: 'exponents',
    opset: 7,
    op: 'Pow',
    inputs: [Tensor.float32([3], [1, 2, 3]), Tensor.float32([3], [2, 0.5, -1])],
  },
  { name: 'half', opset: 10, op: 'Cast', inputs: [x234], attributes: { to: 10 } },
  { name: 'three', opset: 7, op: 'Max', inputs: [x234, noise([2, 3, 4], 2), noise([2, 3, 4], 3)] },
  {
    name: 'boxes',
    opset: 10,
    op: 'NonMaxSuppression',
    inputs: [
      noise([1, 6, 4]),
      noise([1, 1, 6], 2),
      constant(Tensor.int64([1], [3])),
      constant(Tensor.float32([1], [0.5])),
    ],
  },
  { name: 'size', opset: 7, op: 'LRN', inputs: [noise([1, 6, 3, 3])], attributes: { size: 3 } },
  {
    name: 'channels',
    opset: 7,
    op: 'InstanceNormalization',
    inputs: [image, noise([2], 3), noise([2], 4)],
    tolerance: 1e-6,
  },
];

describe('single operators', () => {
  for (const one of cases) {
    test(`${one.op}-${one.opset}: ${one.name}`, async () => {
      const { model, feeds } = build(one);
      const before = await run(model, feeds);
      for (const target of one.targets ?? [10, 11, 12, 13, 14, 16, 18, 20, 21, 25]) {
        if (target <= one.opset) continue;
        const upgraded = copyOf(model);
        expect(upgradeOpset(upgraded, target)).toBe(true);
        expect(upgraded.opset).toBe(target);
        checkModel(upgraded);
        const worst = difference(before, await run(upgraded, feeds));
        expect(worst, `opset ${target}: ${operators(upgraded).join(' ')}`).toBeLessThanOrEqual(one.tolerance ?? 0);
        expect(upgradeOpset(upgraded, target)).toBe(false);
      }
    });
  }
});

describe('what an upgrade refuses', () => {
  const refused = (model: Model, target: number, pattern: RegExp) => {
    const before = writeOnnx(model);
    let error: unknown;
    try {
      upgradeOpset(model, target);
    } catch (caught) {
      error = caught;
    }
    expect(isHalftoneError(error, 'unsupported')).toBe(true);
    expect((error as Error).message).toMatch(pattern);
    expect(writeOnnx(model)).toEqual(before);
  };
  const from = (one: Omit<Case, 'name'>) => build({ name: '', ...one }).model;

  test('a mask of Dropout that is read', () => {
    refused(from({ opset: 7, op: 'Dropout', inputs: [x234], outputs: 2 }), 13, /Dropout "n".*further outputs in use/);
  });

  test('BatchNormalization that trains, or has statistics a position', () => {
    const inputs = [noise([2, 3, 4, 4]), ...normParameters];
    refused(from({ opset: 9, op: 'BatchNormalization', inputs, outputs: 3 }), 14, /BatchNormalization "n"/);
    refused(from({ opset: 7, op: 'BatchNormalization', inputs, attributes: { spatial: 0 } }), 9, /spatial 0/);
  });

  test('tf_half_pixel_for_nn rounded up', () => {
    const attributes = { coordinate_transformation_mode: 'tf_half_pixel_for_nn', nearest_mode: 'ceil' };
    const scales = constant(Tensor.float32([4], [1, 1, 2, 2]));
    const model = from({ opset: 11, op: 'Resize', inputs: [image, undefined, scales], attributes });
    refused(model, 13, /tf_half_pixel_for_nn with nearest_mode ceil/);
    expect(upgradeOpset(model, 12)).toBe(true);
  });

  test('a bound of Clip whose element type nobody knows', () => {
    const model = from({ opset: 7, op: 'Clip', inputs: [x234], attributes: { min: real(0) } });
    model.graph.inputs[0].type = undefined;
    refused(model, 11, /no declared element type of "x0"/);
  });

  test('Scan with a batch axis, functions of the model', () => {
    refused(from({ opset: 8, op: 'Scan', inputs: [undefined, x234] }), 9, /Scan-8/);
    const model = from({ opset: 13, op: 'Relu', inputs: [x234] });
    model.carried = { functions: [{ name: 'MyNorm' }] };
    expect(() => upgradeOpset(model, 17)).toThrow(/functions of its own, got "MyNorm"/);
  });

  test('a version that is not known', () => {
    const model = from({ opset: 13, op: 'Relu', inputs: [x234] });
    for (const target of [6, 27, 17.5]) expect(() => upgradeOpset(model, target)).toThrow(/from 7 to 26/);
    expect(model.opset).toBe(13);
  });
});

describe('forms', () => {
  test('only the float type of the data bounds Clip and Pad, also found through the operators before', async () => {
    const model = emptyModel(9);
    const input = addInput(model, 'x', [2, 4], 'float32');
    const half = addNode(model, 'Cast', [input], { to: 10 }, 'half');
    const clipped = addNode(model, 'Clip', [addNode(model, 'Abs', [half], {}, 'abs')], { min: real(0.25) }, 'clipped');
    const padded = addNode(model, 'Pad', [clipped], { pads: [0, 1, 0, 0], value: real(0.5) }, 'padded');
    model.graph.outputs.push(addNode(model, 'Cast', [padded], { to: 1 }));
    const feeds = { x: noise([2, 4]) };
    const before = await run(model, feeds);
    upgradeOpset(model, 13);
    const constants = model.graph.nodes.flatMap((node) => node.inputs.slice(1)).map((value) => value?.tensor?.dtype);
    expect(constants).toEqual(['float16', 'int64', 'float16']);
    expect(difference(before, await run(model, feeds))).toBe(0);
  });

  test('Softmax keeps to one operator where one axis says the same', () => {
    const upgraded = (one: Partial<Case>) => {
      const { model } = build({ name: '', opset: 11, op: 'Softmax', inputs: [x234], ...one });
      upgradeOpset(model, 13);
      const softmax = model.graph.nodes.find((node) => node.op === 'Softmax');
      return [...operators(model), softmax?.int('axis')];
    };
    expect(upgraded({ attributes: { axis: 2 } })).toEqual(['Softmax', -1]);
    expect(upgraded({ inputs: [noise([2, 7, 1, 1])] })).toEqual(['Softmax', 1]);
    expect(upgraded({})).toEqual(['Flatten', 'Softmax', 'Reshape', -1]);
    expect(upgraded({ unknownRank: true })).toEqual(['Shape', 'Flatten', 'Softmax', 'Reshape', -1]);
  });

  test('the IR version rises to what the operator set was released with, never falls', () => {
    const versions = [7, 8, 9, 10, 11, 12, 14, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26].map(irVersionFor);
    expect(versions).toEqual([3, 3, 4, 5, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 12, 13, 13]);
    const model = build({ name: '', opset: 13, op: 'Relu', inputs: [x234] }).model;
    model.irVersion = 12;
    upgradeOpset(model, 21);
    expect(model.irVersion).toBe(12);
  });

  test('nodes of subgraphs are raised too', async () => {
    const model = emptyModel(11);
    const x = addInput(model, 'x', [2, 3]);
    const condition = addInput(model, 'c', [], 'bool');
    const branch = (name: string, axis: number) => {
      const graph = new Graph(name, model.graph.names);
      const node = graph.add({ op: 'Unsqueeze', inputs: [x], outputs: [`${name}_y`], attributes: { axes: [axis] } });
      graph.outputs.push(node.output());
      return { type: 'graph', value: graph } as const;
    };
    const attributes = { then_branch: branch('yes', 0), else_branch: branch('no', 2) };
    model.graph.outputs.push(addNode(model, 'If', [condition], attributes));
    const feeds = (yes: number) => ({ x: noise([2, 3]), c: new Tensor('bool', [], Uint8Array.of(yes)) });
    const before = [await run(model, feeds(1)), await run(model, feeds(0))];
    upgradeOpset(model, 21);
    checkModel(model);
    expect(before[0].y.shape).toEqual([1, 2, 3]);
    expect(difference(before[0], await run(model, feeds(1)))).toBe(0);
    expect(difference(before[1], await run(model, feeds(0)))).toBe(0);
  });
});
