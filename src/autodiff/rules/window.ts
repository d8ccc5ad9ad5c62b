/** How a window moves over the spatial axes of [N, C, …], in convolutions and pooling. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import type { Shape } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';

/** One number a spatial axis. */
export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Zeros before the first and after the last element. */
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/**
 * The window of a node, with auto_pad made explicit (onnx/docs/Operators.md, Conv).
 * @param wide shape of what the window moves over: the input of a Conv, the output of a ConvTranspose
 * @param narrow shape of what has one element for each place of the window
 */
export function windowOf(node: Node, wide: Shape, narrow: Shape, kernel: readonly number[]): Window {
  const all = (value: number) => kernel.map(() => value);
  const strides = node.ints('strides') ?? all(1);
  const dilations = node.ints('dilations') ?? all(1);
  const mode = node.string('auto_pad', 'NOTSET');
  const window = { kernel, strides, dilations };
  if (mode === 'VALID') return { ...window, before: all(0), after: all(0) };
  if (mode === 'NOTSET') {
    const pads = node.ints('pads') ?? [...all(0), ...all(0)];
    return { ...window, before: pads.slice(0, kernel.length), after: pads.slice(kernel.length) };
  }
  const total = extents(window, narrow).map((extent, axis) => Math.max(0, extent - wide[axis + 2]));
  const less = total.map((count) => count >> 1);
  const more = total.map((count, axis) => count - less[axis]);
  return mode === 'SAME_LOWER' ? { ...window, before: more, after: less } : { ...window, before: less, after: more };
}

/** How far the window reaches over all its places, along each spatial axis. */
export function extents(window: Pick<Window, 'kernel' | 'strides' | 'dilations'>, narrow: Shape): number[] {
  const { kernel, strides, dilations } = window;
  return kernel.map((size, axis) => (narrow[axis + 2] - 1) * strides[axis] + (size - 1) * dilations[axis] + 1);
}

/**
 * The transposed convolution of `x` [N, M, …] with `kernel` [M, C/group, …] that gives exactly `shape` [N, C, …]: what
 * reaches beyond is cut off, what is not reached is zero.
 */
export function spread(build: Builder, x: Value, kernel: Value, shape: Shape, window: Window, group: number): Value {
  const beyond = extents(window, build.shape(x)).map((extent, axis) => extent - window.before[axis] - shape[axis + 2]);
  const { strides, dilations, before } = window;
  return build.node('ConvTranspose', [x, kernel], shape, {
    kernel_shape: window.kernel,
    strides,
    dilations,
    group,
    pads: [...before, ...beyond.map((count) => Math.max(0, count))],
    output_padding: beyond.map((count) => Math.max(0, -count)),
  });
}

/** Every position in the kernel, the last axis fastest. */
export function positionsOf(kernel: readonly number[]): number[][] {
  let positions: number[][] = [[]];
  for (const size of kernel) {
    positions = positions.flatMap((position) => Array.from({ length: size }, (_, i) => [...position, i]));
  }
  return positions;
}

/** For each position in the kernel, the elements of `x` [N, C, …] that it meets at all places: [N, C, …narrow]. */
export function shiftedViews(build: Builder, x: Value, window: Window, narrow: Shape): Value[] {
  const { kernel, strides, dilations, before } = window;
  const axes = kernel.map((_, axis) => axis + 2);
  // Zeros where the window begins and ends: no more than it reaches.
  const wide = build.shape(x);
  const beyond = extents(window, narrow).map((extent, axis) => extent - before[axis] - wide[axis + 2]);
  const padded = build.pad(x, [0, 0, ...before], [0, 0, ...beyond.map((count) => Math.max(0, count))]);
  return positionsOf(kernel).map((position) => {
    const starts = position.map((i, axis) => i * dilations[axis]);
    const ends = starts.map((start, axis) => start + (narrow[axis + 2] - 1) * strides[axis] + 1);
    return build.slice(padded, axes, starts, ends, strides);
  });
}
