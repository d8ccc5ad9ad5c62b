/** An edge of the graph: who makes it, who uses it, and its data where it is an initializer. */
import type { DType } from '../tensor/dtype.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { Graph } from './graph.ts';
import type { Node } from './node.ts';

/** What a file declares of a value. Unknown dimensions are undefined, symbolic ones are names. */
export interface ValueType {
  readonly dtype: DType | undefined;
  readonly shape: readonly (number | string | undefined)[] | undefined;
  /** The reader's own description (sequences, maps, denotations), handed back to the writer. */
  readonly carried?: unknown;
}

export class Value {
  name: string;
  type: ValueType | undefined;
  /** The data of an initializer. */
  tensor: Tensor | undefined;
  /** What the reader could not interpret of the declaration or initializer, handed back to the writer. */
  carried: unknown;
  readonly graph: Graph;
  /** Set by the node that makes it. Graph inputs, initializers and unused leftovers have none. */
  producer: Node | undefined;
  /** Nodes with this value among their inputs, in this graph or in subgraphs. Kept by the nodes. */
  readonly users: Set<Node> = new Set();

  constructor(graph: Graph, name: string, options: { type?: ValueType; tensor?: Tensor } = {}) {
    this.graph = graph;
    this.name = name;
    this.type = options.type;
    this.tensor = options.tensor;
  }

  get isGraphInput(): boolean {
    return this.graph.inputs.includes(this);
  }

  get isGraphOutput(): boolean {
    return this.graph.outputs.includes(this);
  }

  /** True for an initializer that no caller can override. */
  get isConstant(): boolean {
    return this.tensor !== undefined && !this.isGraphInput;
  }

  /** How many node inputs read it, counting a node that reads it twice as two. */
  get useCount(): number {
    let count = 0;
    for (const node of this.users) for (const input of node.inputs) if (input === this) count++;
    return count;
  }

  /** The single node that reads it, when there is exactly one reader and it is no graph output. */
  get soleUser(): Node | undefined {
    if (this.useCount !== 1 || this.isGraphOutput) return undefined;
    return this.users.values().next().value;
  }

  /**
   * Makes every user, and every graph output, read `other` instead. Output names are kept: the name moves to `other`,
   * or an Identity stands in where `other` is itself an input, an initializer or another output. A value that is graph
   * input and graph output at once stays the output: both carry its one name.
   */
  replaceWith(other: Value): void {
    if (other === this) return;
    for (const node of [...this.users]) {
      node.inputs.forEach((input, index) => {
        if (input === this) node.setInput(index, other);
      });
    }
    if (this.isGraphInput) return;
    this.graph.outputs.forEach((output, index) => {
      if (output === this) this.graph.redirectOutput(index, other);
    });
  }
}
