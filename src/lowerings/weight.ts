/** A weight as lowerings see it: a constant, the nodes that use it, and which of its axes are output channels. */
import { HalftoneError } from '../base/errors.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { type MatrixView, matrixView } from '../tensor/matrix-view.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** What a node does with a weight. `other` is a constant that is no weight of a layer (a table, a mask, a factor). */
export type WeightKind =
  | 'convolution'
  | 'depthwise-convolution'
  | 'transposed-convolution'
  | 'matrix'
  | 'recurrent'
  | 'embedding'
  | 'other';

export interface WeightUse {
  readonly node: Node;
  readonly input: number;
  readonly kind: WeightKind;
  /** Rows are output channels; columns are what is summed over (for embeddings: one row per entry). */
  readonly view: MatrixView;
}

export interface Weight {
  readonly value: Value;
  readonly tensor: Tensor;
  /** All readers, in graph order. A tied weight has several. */
  readonly uses: readonly WeightUse[];
  /** The use that decides how it is quantized: the first that is a layer's weight. */
  readonly use: WeightUse;
}

/** How `node` uses its constant input number `input`, a float tensor of this shape. */
export function weightUse(node: Node, input: number, shape: readonly number[]): WeightUse {
  const make = (kind: WeightKind, rowAxes: readonly number[]): WeightUse => ({
    node,
    input,
    kind,
    view: matrixView(shape, rowAxes),
  });
  const rank = shape.length;
  if (node.domain === '') {
    switch (node.op) {
      case 'Conv':
        if (input === 1 && rank >= 3) {
          const depthwise = shape[1] === 1 && node.int('group', 1) > 1;
          return make(depthwise ? 'depthwise-convolution' : 'convolution', [0]);
        }
        break;
      case 'ConvTranspose':
        if (input === 1 && rank >= 3) return make('transposed-convolution', [1]);
        break;
      case 'MatMul':
        // Leading axes are a batch of matrices; each matrix keeps its own rows.
        if (input === 1 && rank >= 2) return make('matrix', [...range(rank - 2), rank - 1]);
        if (input === 0 && rank >= 2) return make('matrix', range(rank - 1));
        break;
      case 'Gemm':
        if (input === 1 && rank === 2) return make('matrix', [node.int('transB', 0) ? 0 : 1]);
        if (input === 0 && rank === 2) return make('matrix', [node.int('transA', 0) ? 1 : 0]);
        break;
      case 'LSTM':
      case 'GRU':
      case 'RNN':
        if ((input === 1 || input === 2) && rank === 3) return make('recurrent', [0, 1]);
        break;
      case 'Gather':
        if (input === 0 && rank >= 2 && node.int('axis', 0) === 0) return make('embedding', [0]);
        break;
    }
  }
  return make('other', rank > 1 ? [0] : []);
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}

/** Every float constant of at least rank 1 that a node reads, in all graphs, in the order of first use. */
export function findWeights(model: Model): Weight[] {
  const uses = new Map<Value, WeightUse[]>();
  for (const node of model.nodes()) {
    node.inputs.forEach((value, input) => {
      if (!value?.tensor?.isFloat || !value.isConstant || value.tensor.shape.length === 0) return;
      const list = uses.get(value) ?? [];
      list.push(weightUse(node, input, value.tensor.shape));
      uses.set(value, list);
    });
  }
  return [...uses].map(([value, list]) => {
    if (!value.tensor) throw new HalftoneError('internal', `weight "${value.name}": expected data, got none`);
    return { value, tensor: value.tensor, uses: list, use: list.find((use) => use.kind !== 'other') ?? list[0] };
  });
}

/** One way to write a quantized weight into a graph. */
export interface WeightLowering {
  readonly id: string;
  readonly summary: string;
  /** Operator domains beside ONNX's own that its nodes are in, all at version 1. */
  readonly domains?: readonly string[];
  /** The opset of the ONNX domain that its operators need for weights of this scheme. */
  requiredOpset(scheme: Scheme): number;
  /** Why this weight cannot be written this way under this scheme, or undefined when it can. */
  refuses(weight: Weight, scheme: Scheme): string | undefined;
}

/** Constants that many weights share (shift amounts, shapes), one each for a model, in its main graph. */
export class SharedConstants {
  readonly #graph: Graph;
  readonly #known = new Map<string, Value>();

  constructor(model: Model) {
    this.#graph = model.graph;
  }

  /** The constant called `key`, made by `make` at the first call. */
  get(key: string, make: () => Tensor): Value {
    let value = this.#known.get(key);
    if (!value) {
      value = this.#graph.addInitializer(`halftone/${key}`, make());
      this.#known.set(key, value);
    }
    return value;
  }
}
