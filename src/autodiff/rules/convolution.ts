/** Gradients of convolutions: of the data by the kernel turned around, of the kernel by products with shifted data. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import type { Shape } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import type { Rule, Rules } from './rule.ts';
import { extents, shiftedViews, spread, type Window, windowOf } from './window.ts';

const product = (numbers: readonly number[]) => numbers.reduce((result, number) => result * number, 1);

/** The sum over samples and places: one number a channel. */
function biasGradient(build: Builder, gradient: Value): Value {
  const axes = build.shape(gradient).map((_, axis) => axis);
  return build.sum(
    gradient,
    axes.filter((axis) => axis !== 1),
    false,
  );
}

const convolution: Rule = ({ node, gradient, needs, build }) => {
  const [x, weight] = [node.input(0), node.input(1)];
  const [wide, narrow, kernel] = [build.shape(x), build.shape(gradient), build.shape(weight)];
  const window = windowOf(node, wide, narrow, kernel.slice(2));
  const group = node.int('group', 1);
  return [
    needs(0) ? spread(build, gradient, weight, wide, window, group) : undefined,
    needs(1) ? kernelGradient(build, gradient, x, kernel, window, group) : undefined,
    needs(2) ? biasGradient(build, gradient) : undefined,
  ];
};

/**
 * ∂L/∂w [M, C/group, …kernel] of narrow = Conv(wide, w): for each position in the kernel the product, over samples and
 * places, of `narrow` [N, M, …] (∂L/∂y) and the elements of `wide` [N, C, …] (x) that the position meets.
 */
function kernelGradient(
  build: Builder,
  narrow: Value,
  wide: Value,
  shape: Shape,
  window: Window,
  group: number,
): Value {
  const output = build.shape(narrow);
  const [batch, features] = output;
  const places = product(output.slice(2));
  const channels = build.shape(wide)[1] / group;
  const views = shiftedViews(build, wide, window, output);
  const columns = build.concat(
    views.map((view) => build.reshape(view, [batch, group, channels, 1, places])),
    3,
  );
  const rows = build.reshape(narrow, [batch, group, features / group, places]);
  const inner = build.reshape(columns, [batch, group, channels * views.length, places]);
  const products = build.matmul(rows, build.transposeMatrix(inner));
  return build.reshape(build.sum(products, [0]), shape);
}

/** A convolution the other way round: its data gradient is a convolution, and wide and narrow change places. */
const transposed: Rule = ({ node, gradient, needs, build }) => {
  const [x, weight] = [node.input(0), node.input(1)];
  const [wide, narrow, kernel] = [build.shape(gradient), build.shape(x), build.shape(weight)];
  const window = transposedWindow(node, wide, narrow, kernel.slice(2));
  const group = node.int('group', 1);
  return [
    needs(0) ? gather(build, gradient, weight, narrow, window, group) : undefined,
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

/** Conv(wide, w) of exactly the places of `narrow`. */
function gather(build: Builder, wide: Value, weight: Value, narrow: Shape, window: Window, group: number): Value {
  const { kernel, strides, dilations, before } = window;
  const given = build.shape(wide);
  const beyond = extents(window, narrow).map((extent, axis) => extent - before[axis] - given[axis + 2]);
  const axes = kernel.map((_, axis) => axis + 2);
  // What lies behind the last place must not make another one.
  const ends = beyond.map((count, axis) => given[axis + 2] + Math.min(0, count));
  const read = build.slice(
    wide,
    axes,
    axes.map(() => 0),
    ends,
  );
  const pads = [...before, ...beyond.map((count) => Math.max(0, count))];
  return build.node('Conv', [read, weight], narrow, { kernel_shape: kernel, strides, dilations, group, pads });
}

export const convolutionRules: Rules = { Conv: convolution, ConvTranspose: transposed };
