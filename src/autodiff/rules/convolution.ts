/** Gradients of convolutions: of the data by the kernel turned around, of the kernel by products with shifted data. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import type { Shape } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import type { Rule, Rules } from './rule.ts';

/** How a window moves over the spatial axes; one number an axis. */
export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Zeros before the first and after the last element. */
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** The window of a Conv or pooling node, with auto_pad made explicit (onnx/docs/Operators.md, Conv). */
export function windowOf(node: Node, input: Shape, output: Shape, kernel: readonly number[]): Window {
  const rank = kernel.length;
  const strides = node.ints('strides') ?? new Array<number>(rank).fill(1);
  const dilations = node.ints('dilations') ?? new Array<number>(rank).fill(1);
  const mode = node.string('auto_pad', 'NOTSET');
  const pads = node.ints('pads') ?? new Array<number>(2 * rank).fill(0);
  if (mode === 'NOTSET') {
    return { kernel, strides, dilations, before: pads.slice(0, rank), after: pads.slice(rank) };
  }
  if (mode === 'VALID') {
    const none = new Array<number>(rank).fill(0);
    return { kernel, strides, dilations, before: none, after: none };
  }
  const total = kernel.map((size, axis) =>
    Math.max(0, (output[axis + 2] - 1) * strides[axis] + (size - 1) * dilations[axis] + 1 - input[axis + 2]),
  );
  const less = total.map((count) => count >> 1);
  const more = total.map((count, axis) => count - less[axis]);
  return mode === 'SAME_LOWER'
    ? { kernel, strides, dilations, before: more, after: less }
    : { kernel, strides, dilations, before: less, after: more };
}

const product = (numbers: readonly number[]) => numbers.reduce((result, number) => result * number, 1);

/** Every position in the kernel, the last axis fastest. */
export function positionsOf(kernel: readonly number[]): number[][] {
  let positions: number[][] = [[]];
  for (const size of kernel) {
    positions = positions.flatMap((position) => Array.from({ length: size }, (_, i) => [...position, i]));
  }
  return positions;
}

/**
 * For each position in the kernel, the elements of `padded` [N, C, …padded] that it meets: [N, C, …output].
 * `padded` has zeros around it already.
 */
export function shiftedViews(build: Builder, padded: Value, window: Window, output: Shape): Value[] {
  const axes = window.kernel.map((_, axis) => axis + 2);
  return positionsOf(window.kernel).map((position) => {
    const starts = position.map((i, axis) => i * window.dilations[axis]);
    const ends = starts.map((start, axis) => start + (output[axis + 2] - 1) * window.strides[axis] + 1);
    return build.slice(padded, axes, starts, ends, window.strides);
  });
}

export function padSpatially(build: Builder, x: Value, window: Window): Value {
  return build.pad(x, [0, 0, ...window.before], [0, 0, ...window.after]);
}

const convolution: Rule = ({ node, gradient, needs, build }) => {
  const [x, weight] = [node.input(0), node.input(1)];
  const window = windowOf(node, build.shape(x), build.shape(node.output()), build.shape(weight).slice(2));
  const group = node.int('group', 1);
  const spatial = window.kernel.map((_, axis) => axis + 2);
  return [
    needs(0) ? dataGradient(build, gradient, weight, build.shape(x), window, group) : undefined,
    needs(1) ? kernelGradient(build, gradient, x, build.shape(weight), window, group) : undefined,
    needs(2) ? build.sum(gradient, [0, ...spatial], false) : undefined,
  ];
};

/** ∂L/∂x [N, C, …] of y = Conv(x, w): the transposed convolution of ∂L/∂y [N, M, …] with w [M, C/group, …]. */
function dataGradient(
  build: Builder,
  gradient: Value,
  weight: Value,
  shape: Shape,
  window: Window,
  group: number,
): Value {
  const given = build.shape(gradient);
  const { kernel, strides, dilations, before, after } = window;
  const outputPadding = kernel.map(
    (size, axis) =>
      shape[axis + 2] -
      ((given[axis + 2] - 1) * strides[axis] + (size - 1) * dilations[axis] + 1 - before[axis] - after[axis]),
  );
  return build.node('ConvTranspose', [gradient, weight], shape, {
    kernel_shape: kernel,
    strides,
    dilations,
    group,
    pads: [...before, ...after],
    output_padding: outputPadding,
  });
}

/**
 * ∂L/∂w [M, C/group, …kernel] of y = Conv(x, w): for each position in the kernel the product, over samples and places,
 * of ∂L/∂y [N, M, …] and the elements of x that the position meets.
 */
function kernelGradient(build: Builder, gradient: Value, x: Value, shape: Shape, window: Window, group: number): Value {
  const output = build.shape(gradient);
  const [batch, features] = output;
  const places = product(output.slice(2));
  const channels = build.shape(x)[1] / group;
  const views = shiftedViews(build, padSpatially(build, x, window), window, output);
  const columns = build.concat(
    views.map((view) => build.reshape(view, [batch, group, channels, 1, places])),
    3,
  );
  const rows = build.reshape(gradient, [batch, group, features / group, places]);
  const inner = build.reshape(columns, [batch, group, channels * views.length, places]);
  const products = build.matmul(rows, build.transposeMatrix(inner));
  return build.reshape(build.sum(products, [0]), shape);
}

export const convolutionRules: Rules = { Conv: convolution };
