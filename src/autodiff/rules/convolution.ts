/**
 * Gradients of convolutions. Each has several equal forms; which is taken follows measurements with ONNX Runtime on one
 * core, of layers of ResNet-20 at batch 32 and of MobileNet v2 at batch 8.
 */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import { type Shape, sizeOf } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import type { Rule, Rules } from './rule.ts';
import { extents, shiftedViews, spread, type Window, windowOf } from './window.ts';

/** Below so many places a matrix product for each sample is slower than rearranging. */
const fewPlaces = 100;

const convolution: Rule = ({ node, gradient, needs, build }) => {
  const [x, weight] = [node.input(0), node.input(1)];
  const [wide, narrow, kernel] = [build.shape(x), build.shape(gradient), build.shape(weight)];
  const window = windowOf(node, wide, narrow, kernel.slice(2));
  const group = node.int('group', 1);
  return [
    needs(0) ? dataGradient(build, gradient, weight, wide, window, group) : undefined,
    needs(1) ? kernelGradient(build, gradient, x, kernel, window, group) : undefined,
    needs(2) ? biasGradient(build, gradient) : undefined,
  ];
};

/** A convolution the other way round: its data gradient is a convolution, and wide and narrow change places. */
const transposed: Rule = ({ node, gradient, needs, build }) => {
  const [x, weight] = [node.input(0), node.input(1)];
  const [wide, narrow, kernel] = [build.shape(gradient), build.shape(x), build.shape(weight)];
  const window = transposedWindow(node, wide, narrow, kernel.slice(2));
  const group = node.int('group', 1);
  return [
    needs(0) ? collect(build, gradient, weight, narrow, window, group) : undefined,
    needs(1) ? kernelGradient(build, x, gradient, kernel, window, group) : undefined,
    needs(2) ? biasGradient(build, gradient) : undefined,
  ];
};

/** With an output shape given, what is cut off follows from it (onnx/docs/Operators.md, ConvTranspose). */
function transposedWindow(node: Node, wide: Shape, narrow: Shape, kernel: readonly number[]): Window {
  const window = windowOf(node, wide, narrow, kernel);
  const mode = node.string('auto_pad', 'NOTSET');
  if (mode === 'VALID' || (mode === 'NOTSET' && !node.ints('output_shape'))) return window;
  const added = node.ints('output_padding');
  const total = extents(window, narrow).map((extent, axis) =>
    Math.max(0, extent + (added?.[axis] ?? 0) - wide[axis + 2]),
  );
  const before = total.map((count) => (mode === 'SAME_UPPER' ? count >> 1 : count - (count >> 1)));
  return { ...window, before, after: total.map((count, axis) => count - before[axis]) };
}

/** The sum over samples and places: one number a channel. */
function biasGradient(build: Builder, gradient: Value): Value {
  const axes = build.shape(gradient).map((_, axis) => axis);
  return build.sum(
    gradient,
    axes.filter((axis) => axis !== 1),
    false,
  );
}

/**
 * ∂L/∂x [N, C, …] of y = Conv(x, w): the transposed convolution of ∂L/∂y with w [M, C/group, …]. Where the window moves by
 * one it is a convolution with the kernel turned around, which is up to four times as fast for depthwise kernels.
 */
function dataGradient(
  build: Builder,
  gradient: Value,
  weight: Value,
  shape: Shape,
  window: Window,
  group: number,
): Value {
  const { kernel, strides, dilations } = window;
  const reach = kernel.map((size, axis) => (size - 1) * dilations[axis]);
  const before = reach.map((count, axis) => count - window.before[axis]);
  const after = reach.map((count, axis) => count - window.after[axis]);
  if (strides.some((stride) => stride !== 1) || [...before, ...after].some((count) => count < 0)) {
    return spread(build, gradient, weight, shape, window, group);
  }
  const [features, channels] = build.shape(weight);
  const flipped = build.flip(
    weight,
    kernel.map((_, axis) => axis + 2),
  );
  const grouped = build.reshape(flipped, [group, features / group, channels, sizeOf(kernel)]);
  const turned = build.reshape(build.transpose(grouped, [0, 2, 1, 3]), [group * channels, features / group, ...kernel]);
  const attributes = { kernel_shape: kernel, dilations, group, pads: [...before, ...after] };
  return build.node('Conv', [gradient, turned], shape, attributes);
}

/**
 * ∂L/∂w [M, C/group, …kernel] of narrow = Conv(wide, w), from `narrow` [N, M, …] (∂L/∂y) and `wide` [N, C, …] (x).
 */
function kernelGradient(
  build: Builder,
  narrow: Value,
  wide: Value,
  shape: Shape,
  window: Window,
  group: number,
): Value {
  const { kernel, strides } = window;
  const few = sizeOf(build.shape(narrow).slice(2)) < fewPlaces;
  if (sizeOf(kernel) === 1) {
    const [view] = shiftedViews(build, wide, window, build.shape(narrow));
    const product =
      few && group === 1 ? productOfAll(build, narrow, view) : productPerSample(build, narrow, view, group);
    return build.reshape(product, shape);
  }
  const isDepthwise = shape[1] === 1 && group > 1;
  if (strides.some((stride) => stride !== 1) || (few && isDepthwise)) {
    return exchanged(build, narrow, wide, shape, window, group);
  }
  const products = shiftedViews(build, wide, window, build.shape(narrow)).map((view) =>
    build.reshape(productPerSample(build, narrow, view, group), [shape[0], shape[1], 1]),
  );
  return build.reshape(build.concat(products, 2), shape);
}

/** Over samples and places, for each group: [N, M, …] by [N, C, …] → [M, C/group]. A product for each sample, summed. */
function productPerSample(build: Builder, narrow: Value, view: Value, group: number): Value {
  const [batch, features, ...places] = build.shape(narrow);
  const channels = build.shape(view)[1];
  const matrices = (x: Value, rows: number) => build.reshape(x, [batch, group, rows / group, sizeOf(places)]);
  const products = build.matmul(matrices(narrow, features), build.transposeMatrix(matrices(view, channels)));
  return build.sum(products, [0]);
}

/** The same for one group as one product, which both must be rearranged for. */
function productOfAll(build: Builder, narrow: Value, view: Value): Value {
  const matrix = (x: Value) => {
    const [batch, channels, ...places] = build.shape(x);
    const planes = build.reshape(x, [batch, channels, sizeOf(places)]);
    return build.reshape(build.transpose(planes, [1, 0, 2]), [channels, batch * sizeOf(places)]);
  };
  const [rows, columns] = [matrix(narrow), matrix(view)];
  return build.node('Gemm', [rows, columns], [build.shape(rows)[0], build.shape(columns)[0]], { transB: 1 });
}

/**
 * As a convolution in which samples and channels change places: ∂L/∂y is the kernel, strides and dilations are exchanged,
 * and the places of the result are those of the kernel.
 */
function exchanged(build: Builder, narrow: Value, wide: Value, shape: Shape, window: Window, group: number): Value {
  const [batch, features, ...places] = build.shape(narrow);
  const [, channels, ...extent] = build.shape(wide);
  const inner = channels / group;
  const planes = build.reshape(wide, [batch, group, inner, sizeOf(extent)]);
  const data = build.reshape(build.transpose(planes, [2, 1, 0, 3]), [inner, group * batch, ...extent]);
  const axes = places.map((_, axis) => axis + 2);
  const exchangedWindow = { ...window, kernel: places, strides: window.dilations, dilations: window.strides };
  const result = [inner, features, ...window.kernel];
  const found = collect(build, data, build.transpose(narrow, [1, 0, ...axes]), result, exchangedWindow, group);
  return build.reshape(build.transpose(found, [1, 0, ...axes]), shape);
}

/** Conv(wide, w) of exactly the places of `narrow`. */
function collect(build: Builder, wide: Value, weight: Value, narrow: Shape, window: Window, group: number): Value {
  const { kernel, strides, dilations, before } = window;
  const given = build.shape(wide);
  const beyond = extents(window, narrow).map((extent, axis) => extent - before[axis] - given[axis + 2]);
  const axes = kernel.map((_, axis) => axis + 2);
  // What lies behind the last place must not make another one.
  const ends = beyond.map((count, axis) => given[axis + 2] + Math.min(0, count));
  const starts = axes.map(() => 0);
  const read = build.slice(wide, axes, starts, ends);
  const pads = [...before, ...beyond.map((count) => Math.max(0, count))];
  return build.node('Conv', [read, weight], narrow, { kernel_shape: kernel, strides, dilations, group, pads });
}

export const convolutionRules: Rules = { Conv: convolution, ConvTranspose: transposed };
