/** Small graphs for static quantization: an input, what is made of it, and the integer operators it should become. */
import type { Value } from '../../src/graph/value.ts';
import { Builder } from './static.ts';

export interface StaticCase {
  readonly name: string;
  readonly shape: readonly number[];
  readonly body: (b: Builder, x: Value) => Value;
  /** The operators that ONNX Runtime executes, without conversions at the edges and without layout changes. */
  readonly runs: readonly string[];
}

const image = [1, 4, 8, 8];
const conv = 'QLinearConv';

/** The operator between two convolutions, which give it quantized input and ask for quantized output. */
function between(
  name: string,
  make: (b: Builder, c: Value, x: Value) => Value,
  ran: readonly string[],
  to = 4,
): StaticCase {
  return {
    name,
    shape: image,
    body: (b, x) => b.conv(make(b, b.conv(x, 4, 4), x), to, 4),
    runs: [conv, ...ran, conv].sort(),
  };
}

const one = (name: string, shape: readonly number[], body: StaticCase['body'], ...runs: string[]): StaticCase => ({
  name,
  shape,
  body,
  runs: runs.sort(),
});

const float = (value: number) => ({ type: 'float', value }) as const;
const clip = (b: Builder, x: Value, min: number, max: number) =>
  b.add('Clip', [x, b.floats([], [min]), b.floats([], [max])]);
const scales = (b: Builder) => b.floats([4], [1, 1, 2, 2]);
const halves = { kernel_shape: [2, 2], strides: [2, 2] };
const lone = (b: Builder, x: Value) => b.add('Add', [b.conv(x, 4, 4), x]);

/** What ONNX Runtime fuses completely. */
export const fusedCases: readonly StaticCase[] = [
  one('Conv', image, (b, x) => b.conv(x, 4, 8), conv),
  one('Conv 1D', [1, 4, 16], (b, x) => b.conv(x, 4, 8, [3]), conv),
  one('Conv 3D', [1, 4, 4, 4, 4], (b, x) => b.conv(x, 4, 8, [3, 3, 3]), conv),
  one('Conv without bias', image, (b, x) => b.add('Conv', [x, b.weight([8, 4, 3, 3])]), conv),
  one('depthwise Conv', [1, 8, 8, 8], (b, x) => b.conv(x, 8, 8, [3, 3], 8), conv),
  one('grouped Conv', [1, 8, 8, 8], (b, x) => b.conv(x, 8, 8, [3, 3], 2), conv),
  one('Conv + Relu', image, (b, x) => b.add('Relu', [b.conv(x, 4, 8)]), conv),
  one('Conv + Clip(0, 6)', image, (b, x) => clip(b, b.conv(x, 4, 8), 0, 6), conv),
  one('Conv + Clip(-1, 1)', image, (b, x) => clip(b, b.conv(x, 4, 8), -1, 1), conv),
  one('Gemm', [2, 16], (b, x) => b.add('Gemm', [x, b.weight([16, 8]), b.weight([8])]), 'QGemm'),
  one('Gemm transB', [2, 16], (b, x) => b.add('Gemm', [x, b.weight([8, 16]), b.weight([8])], { transB: 1 }), 'QGemm'),
  one('Gemm without bias', [2, 16], (b, x) => b.add('Gemm', [x, b.weight([8, 16])], { transB: 1 }), 'QGemm'),
  one(
    'Gemm + Relu + Gemm',
    [2, 16],
    (b, x) => {
      const hidden = b.add('Relu', [b.add('Gemm', [x, b.weight([16, 8]), b.weight([1, 8])])]);
      return b.add('Gemm', [hidden, b.weight([8, 4]), b.weight([4])]);
    },
    'QGemm',
    'QGemm',
  ),
  one('MatMul', [2, 3, 16], (b, x) => b.add('MatMul', [x, b.weight([16, 8])]), 'MatMulIntegerToFloat'),
  one(
    'MatMul + MatMul',
    [2, 3, 16],
    (b, x) => b.add('MatMul', [b.add('MatMul', [x, b.weight([16, 8])]), b.weight([8, 8])]),
    'QLinearMatMul',
    'MatMulIntegerToFloat',
  ),
  one(
    'MatMul of two activations',
    [2, 4, 6],
    (b, x) => {
      const product = b.add('MatMul', [x, b.add('Transpose', [x], { perm: [0, 2, 1] })]);
      return b.add('MatMul', [product, b.weight([4, 4])]);
    },
    'QLinearMatMul',
    'MatMulIntegerToFloat',
  ),
  between('Add', (b, c, x) => b.add('Add', [c, x]), ['QLinearAdd']),
  between('Add + Relu', (b, c, x) => b.add('Relu', [b.add('Add', [c, x])]), ['QLinearAdd']),
  between('Add of a constant', (b, _, x) => b.add('Add', [lone(b, x), b.weight([4, 1, 1])]), [
    'QLinearAdd',
    'QLinearAdd',
  ]),
  between('Mul', (b, c, x) => b.add('Mul', [c, x]), ['QLinearMul']),
  between('Mul by a constant', (b, _, x) => b.add('Mul', [b.floats([], [-1 / 6]), lone(b, x)]), [
    'QLinearAdd',
    'QLinearMul',
  ]),
  between('Concat', (b, c, x) => b.add('Concat', [c, b.conv(x, 4, 4)], { axis: 1 }), ['QLinearConcat', conv], 8),
  between(
    'Concat of Relus',
    (b, c, x) => b.add('Concat', [b.add('Relu', [c]), b.add('Relu', [b.conv(x, 4, 4)])], { axis: 1 }),
    ['QLinearConcat', conv],
    8,
  ),
  between(
    'Concat of a Relu and none',
    (b, c, x) => b.add('Concat', [b.add('Relu', [c]), b.conv(x, 4, 4)], { axis: 1 }),
    ['QLinearConcat', conv],
    8,
  ),
  between('MaxPool', (b, c) => b.add('MaxPool', [c], halves), ['MaxPool']),
  between('AveragePool', (b, c) => b.add('AveragePool', [c], halves), ['QLinearAveragePool']),
  between(
    'AveragePool with padding',
    (b, c) => b.add('AveragePool', [c], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }),
    ['QLinearAveragePool'],
  ),
  between('GlobalAveragePool', (b, c) => b.add('GlobalAveragePool', [c]), ['QLinearGlobalAveragePool']),
  between('Resize nearest', (b, c) => b.add('Resize', [c, undefined, scales(b)], { mode: 'nearest' }), ['Resize']),
  between('Sigmoid and Mul', (b, c) => b.add('Mul', [c, b.add('Sigmoid', [c])]), ['QLinearMul', 'QLinearSigmoid']),
  between('LeakyRelu', (b, c) => b.add('LeakyRelu', [c], { alpha: float(0.1) }), ['QLinearLeakyRelu']),
  between('Reshape', (b, c) => b.add('Reshape', [c, b.ints(1, 8, 4, 8)]), ['Reshape'], 8),
  between('Squeeze, Unsqueeze', (b, c) => b.add('Unsqueeze', [b.add('Squeeze', [c, b.ints(0)]), b.ints(0)]), [
    'Squeeze',
    'Unsqueeze',
  ]),
  between('Slice', (b, c) => b.add('Slice', [c, b.ints(0), b.ints(2), b.ints(1)]), ['Slice'], 2),
  between('Gather', (b, c) => b.add('Gather', [c, b.ints(2, 0, 3)], { axis: 1 }), ['Gather'], 3),
  between('Tile', (b, c) => b.add('Tile', [c, b.ints(1, 2, 1, 1)]), ['Tile'], 8),
  between('Expand', (b, c) => b.add('Expand', [c, b.ints(2, 4, 8, 8)]), ['Expand']),
  between('Pad', (b, c) => b.add('Pad', [c, b.ints(0, 0, 1, 1, 0, 0, 1, 1)]), ['Pad']),
  between('Pad reflecting', (b, c) => b.add('Pad', [c, b.ints(0, 0, 1, 1, 0, 0, 1, 1)], { mode: 'reflect' }), ['Pad']),
  between('Transpose', (b, c) => b.add('Transpose', [c], { perm: [0, 2, 1, 3] }), [], 8),
  one(
    'GlobalAveragePool + Flatten + Gemm',
    image,
    (b, x) => {
      const pooled = b.add('Flatten', [b.add('GlobalAveragePool', [b.conv(x, 4, 4)])]);
      return b.add('Gemm', [pooled, b.weight([10, 4]), b.weight([10])], { transB: 1 });
    },
    conv,
    'QLinearGlobalAveragePool',
    'Flatten',
    'QGemm',
  ),
  one(
    'Softmax',
    [2, 4, 8],
    (b, x) =>
      b.add('MatMul', [b.add('Softmax', [b.add('MatMul', [x, b.weight([8, 8])])], { axis: -1 }), b.weight([8, 4])]),
    'QLinearMatMul',
    'QLinearSoftmax',
    'MatMulIntegerToFloat',
  ),
  one(
    'Split',
    image,
    (b, x) => {
      const [p, q] = b.many('Split', [b.conv(x, 4, 4), b.ints(2, 2)], 2, { axis: 1 });
      return b.conv(b.add('Add', [b.conv(p, 2, 2), b.conv(q, 2, 2)]), 2, 2);
    },
    conv,
    conv,
    conv,
    'Split',
    'QLinearAdd',
    conv,
  ),
];

/** What ONNX Runtime leaves in float between two pairs; the result is right all the same. */
export const unfusedCases: readonly StaticCase[] = [
  between('Resize linear', (b, c) => b.add('Resize', [c, undefined, scales(b)], { mode: 'linear' }), ['Resize']),
  between('Resize cubic', (b, c) => b.add('Resize', [c, undefined, scales(b)], { mode: 'cubic' }), ['Resize']),
  one(
    'Split with an unread part',
    image,
    (b, x) => b.conv(b.many('Split', [b.conv(x, 4, 4), b.ints(2, 2)], 2, { axis: 1 })[0], 2, 2),
    conv,
    'Split',
    conv,
  ),
];

/** The graph of a case, with its one input `x` and its one output. */
export function build({ shape, body }: Pick<StaticCase, 'shape' | 'body'>, opset = 17): Builder {
  const b = new Builder(opset);
  return b.output(body(b, b.input('x', shape)));
}
