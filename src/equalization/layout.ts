/** Where the channels of a value are: on one axis, or on several that together count them. Axes count from the end. */

/** Channels are numbers that the caller hands out; values whose channels have one number share one factor. */
export interface Layout {
  /** −1 is the last axis. In the order of significance: the last of them counts fastest. */
  readonly axes: readonly number[];
  readonly sizes: readonly number[];
  /** The channel at each position of these axes; −1 where there are only zeros. */
  readonly channels: Int32Array;
  /** How many numbers lie behind each position of a single axis, where that is known. */
  readonly behind: number | undefined;
  /** True on one last axis where each channel stands for as many positions in a row as the reader's weight says. */
  readonly isStretched: boolean;
}

/** Channels on one axis. */
export function onAxis(axis: number, channels: Int32Array, behind?: number): Layout {
  return {
    axes: [axis],
    sizes: [channels.length],
    channels,
    behind: axis === -1 ? 1 : behind,
    isStretched: false,
  };
}

/** The axis, where there is only one and each of its positions is one channel. */
export function singleAxis(layout: Layout | undefined): number | undefined {
  return layout && layout.axes.length === 1 && !layout.isStretched ? layout.axes[0] : undefined;
}

/** The channels on an axis of `size` positions; undefined where they do not fit it. */
export function fitted(layout: Layout, size: number): Int32Array | undefined {
  const { channels, isStretched } = layout;
  if (!isStretched) return channels.length === size ? channels : undefined;
  return size % channels.length === 0 ? repeated(channels, size / channels.length) : undefined;
}

function repeated(channels: Int32Array, times: number): Int32Array {
  return Int32Array.from({ length: channels.length * times }, (_, index) => channels[Math.floor(index / times)]);
}

/** The layout behind Flatten or a reshape that keeps the batch: [N, C, …] → [N, C·…]. `columns` where it is known. */
export function flattened(layout: Layout, columns: number | undefined): Layout | undefined {
  if (singleAxis(layout) === undefined) return undefined;
  const behind = columns === undefined ? layout.behind : columns / layout.channels.length;
  if (behind === undefined) return { ...onAxis(-1, layout.channels), isStretched: true };
  return Number.isInteger(behind) ? onAxis(-1, repeated(layout.channels, behind)) : undefined;
}

export function transposed(layout: Layout, permutation: readonly number[]): Layout | undefined {
  if (layout.isStretched) return undefined;
  const rank = permutation.length;
  const axes = layout.axes.map((axis) => permutation.indexOf(axis + rank) - rank);
  return { ...layout, axes, behind: axes[0] === -1 && axes.length === 1 ? 1 : undefined };
}

/**
 * The layout behind a reshape whose last dimensions are `tail`, undefined where they are not known; only of channels on
 * the last axes, which are cut or joined among themselves.
 */
export function reshaped(layout: Layout, tail: readonly (number | undefined)[]): Layout | undefined {
  const total = layout.channels.length;
  if (layout.isStretched || !isTrailing(layout)) return undefined;
  const sizes: number[] = [];
  let product = 1;
  for (let index = tail.length - 1; index >= 0 && product < total; index--) {
    const size = tail[index];
    if (size === undefined || size <= 0) return undefined;
    sizes.unshift(size);
    product *= size;
  }
  if (product !== total || sizes.length === 0) return undefined;
  return { ...layout, axes: sizes.map((_, index) => index - sizes.length), sizes, behind: undefined, ...single(sizes) };
}

/** All channels on the last axis. */
export function merged(layout: Layout): Layout | undefined {
  return isTrailing(layout) && !layout.isStretched ? onAxis(-1, layout.channels) : undefined;
}

const single = (sizes: readonly number[]) => (sizes.length === 1 ? { behind: 1 } : {});

/** True where the channels are all that the last axes hold, in their order. */
function isTrailing({ axes }: Layout): boolean {
  return axes.every((axis, index) => axis === index - axes.length);
}

/** Axes move where others are put in (`Unsqueeze`) or taken out (`Squeeze`); `changed` are positions counted from the end. */
export function withAxes(layout: Layout, changed: readonly number[], isInserted: boolean): Layout | undefined {
  if (layout.isStretched) return undefined;
  const moved: number[] = [];
  for (const axis of layout.axes) {
    if (!isInserted) {
      if (changed.includes(axis)) return undefined;
      moved.push(axis + changed.filter((other) => other > axis).length);
      continue;
    }
    let at = axis;
    for (const other of [...changed].sort((a, b) => b - a)) if (other >= at) at--;
    moved.push(at);
  }
  return { ...layout, axes: moved, behind: moved.length === 1 && moved[0] === -1 ? 1 : layout.behind };
}

/** Repeats along an axis that is no channel yet: it becomes one that makes no difference. */
export function expanded(layout: Layout, axis: number, size: number): Layout | undefined {
  if (layout.isStretched || layout.axes.includes(axis)) return undefined;
  const slot = layout.axes.findIndex((other) => other > axis);
  const at = slot < 0 ? layout.axes.length : slot;
  const inner = layout.sizes.slice(at).reduce((a, b) => a * b, 1);
  const channels = Int32Array.from({ length: layout.channels.length * size }, (_, index) => {
    const outer = Math.floor(index / (inner * size));
    return layout.channels[outer * inner + (index % inner)];
  });
  return {
    ...layout,
    axes: [...layout.axes.slice(0, at), axis, ...layout.axes.slice(at)],
    sizes: [...layout.sizes.slice(0, at), size, ...layout.sizes.slice(at)],
    channels,
    behind: undefined,
  };
}
