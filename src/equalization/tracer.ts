/** What following channels through a graph collects: their numbers, the constants that make and read them, the clips between. */
import type { Graph } from '../graph/graph.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { Channels } from './channels.ts';
import { fitted, type Layout, onAxis } from './layout.ts';
import { findRanks, type Ranks } from './ranks.ts';

/** A constant that takes up factors along one axis. */
export interface Slot {
  readonly node: Node;
  readonly input: number;
  /** Of the constant's shape, counted from the front. */
  readonly axis: number;
  /** Equal parts of axis 0 that have channels of their own along `axis`: the groups of a convolution. */
  readonly blocks: number;
  /** blocks · (size of the axis) channels; −1 where nothing is scaled. */
  readonly channels: Int32Array;
  /** A layer's weight, the factor of a normalization or product, or what is added. */
  readonly kind: 'weight' | 'affine' | 'offset';
  /** −1 where values with these channels come from: it is divided by the factors. 1 where they are read. */
  readonly power: 1 | -1;
}

/** A Clip whose bounds need factors, too. */
export interface Limit {
  readonly node: Node;
  /** Counted from the end. */
  readonly axis: number;
  readonly channels: Int32Array;
  readonly low: number;
  readonly high: number;
}

/** What the rules of operators work with. */
export class Tracer {
  readonly channels = new Channels();
  readonly slots: Slot[] = [];
  readonly limits: Limit[] = [];
  readonly layouts = new Map<Value, Layout>();
  readonly carried = new Map<Node, Layout>();
  readonly ranks: Ranks;

  constructor(graph: Graph) {
    this.ranks = findRanks(graph);
  }

  layoutOf(value: Value | undefined): Layout | undefined {
    return value && this.layouts.get(value);
  }

  pin(value: Value | undefined, reason: string): void {
    const layout = this.layoutOf(value);
    if (layout) this.channels.freeze(layout.channels, reason);
  }

  pinInputs(node: Node): void {
    for (const input of node.inputs) this.pin(input, `${node.label} does not scale with its input`);
  }

  /** The output has the same factors as the input; nothing else is read that has channels. */
  carry(node: Node, layout: Layout, output = 0): true {
    const value = node.outputs[output];
    if (value) this.layouts.set(value, layout);
    this.carried.set(node, layout);
    return true;
  }

  /** New channels of the output, taken up by constants. */
  make(node: Node, axis: number, count: number, behind?: number): Int32Array {
    const channels = this.channels.fresh(count);
    this.layouts.set(node.output(), onAxis(axis, channels, behind));
    return channels;
  }

  slot(slot: Slot): void {
    this.slots.push(slot);
  }

  /**
   * The slot of a constant that is broadcast against a value with this layout; undefined where it has no number of its own
   * for each channel.
   */
  along(
    node: Node,
    input: number,
    layout: Layout,
  ): Pick<Slot, 'node' | 'input' | 'axis' | 'blocks' | 'channels'> | undefined {
    const tensor = constant(node.inputs[input]);
    if (!tensor || layout.axes.length !== 1) return undefined;
    const axis = tensor.shape.length + layout.axes[0];
    const channels = axis >= 0 && tensor.shape[axis] > 1 ? fitted(layout, tensor.shape[axis]) : undefined;
    return channels && { node, input, axis, blocks: 1, channels };
  }
}

/** A float32 constant; others would not keep a factor exactly enough. */
export function constant(value: Value | undefined): Tensor | undefined {
  return value?.isConstant && value.tensor?.dtype === 'float32' ? value.tensor : undefined;
}

/** What an operator does with channels. False pins those of its inputs. */
export type Rule = (node: Node, tracer: Tracer) => boolean;
