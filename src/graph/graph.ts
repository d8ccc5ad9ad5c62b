/** A graph of nodes with object edges. All edits go through its methods, which keep producers, users and names right. */
import { HalftoneError } from '../base/errors.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { AttributeInput } from './attribute.ts';
import { Node } from './node.ts';
import { Value, type ValueType } from './value.ts';

/** Hands out names that no value or node of the model has. Subgraphs share their model's. */
export class Names {
  readonly #taken = new Set<string>();
  readonly #next = new Map<string, number>();

  /** Marks a name read from a file as taken. */
  take(name: string): void {
    this.#taken.add(name);
  }

  /** `hint` itself when it is free, else `hint_1`, `hint_2` … */
  fresh(hint: string): string {
    let name = hint;
    let number = this.#next.get(hint) ?? 0;
    while (this.#taken.has(name)) name = `${hint}_${++number}`;
    this.#next.set(hint, number);
    this.#taken.add(name);
    return name;
  }
}

export interface NodeInput {
  readonly op: string;
  readonly domain?: string;
  readonly name?: string;
  readonly inputs: readonly (Value | undefined)[];
  /** Existing values to produce, or names for new ones. */
  readonly outputs: readonly (Value | string | undefined)[];
  readonly attributes?: Readonly<Record<string, AttributeInput>>;
}

export class Graph {
  name: string;
  readonly names: Names;
  readonly inputs: Value[] = [];
  readonly outputs: Value[] = [];
  /** In file order, which is an order of execution after `sort()`. */
  nodes: Node[] = [];
  readonly initializers: Set<Value> = new Set();
  /** Constants whose data only travels through (sparse initializers): they have a name and users, no tensor. */
  readonly carriedValues: Set<Value> = new Set();
  /** The node that holds this graph as an attribute; undefined for the main graph. Set by `Node.set`. */
  owner: Node | undefined;
  /** What the reader could not interpret, handed back to the writer. */
  carried: unknown;

  constructor(name: string, names: Names) {
    this.name = name;
    this.names = names;
  }

  /** A value that nothing produces yet. The name is made unique. */
  addValue(hint: string, type?: ValueType): Value {
    return new Value(this, this.names.fresh(hint), type ? { type } : {});
  }

  /** A constant. The name is made unique. */
  addInitializer(hint: string, tensor: Tensor): Value {
    const value = new Value(this, this.names.fresh(hint), { tensor });
    this.initializers.add(value);
    return value;
  }

  /** A node at the end, or before `before`. Names given for outputs are made unique. */
  add(input: NodeInput, before?: Node): Node {
    const node = new Node(this, input.op, input.domain ?? '', input.name ?? '');
    node.setInputs(input.inputs);
    input.outputs.forEach((output, index) => {
      node.setOutput(index, typeof output === 'string' ? this.addValue(output) : output);
    });
    for (const [name, attribute] of Object.entries(input.attributes ?? {})) node.set(name, attribute);
    const index = before ? this.nodes.indexOf(before) : -1;
    if (index < 0) this.nodes.push(node);
    else this.nodes.splice(index, 0, node);
    return node;
  }

  /**
   * Removes a node whose outputs nobody reads. Subgraphs that no other node took over let go of what they read.
   * @throws HalftoneError `internal` when somebody reads an output, or the node is not in this graph.
   */
  remove(node: Node): void {
    const index = this.nodes.indexOf(node);
    if (index < 0) {
      throw new HalftoneError(
        'internal',
        `${node.label}: expected a node of graph "${this.name}", got one that is not`,
      );
    }
    for (const output of node.outputs) {
      if (output && output.producer === node && (output.users.size > 0 || output.isGraphOutput)) {
        const found = output.users.size > 0 ? `${output.users.size}` : 'a graph output';
        throw new HalftoneError(
          'internal',
          `${node.label}: expected no users of "${output.name}" before removal, got ${found}`,
        );
      }
    }
    node.setInputs([]);
    for (const output of node.outputs) if (output?.producer === node) output.producer = undefined;
    for (const graph of node.subgraphs) if (graph.owner === node || !graph.owner) graph.release();
    this.nodes.splice(index, 1);
  }

  /** Lets go of every value read by this graph's nodes; called when the node that holds it is removed. */
  release(): void {
    const pending: Graph[] = [this];
    for (let graph = pending.pop(); graph; graph = pending.pop()) {
      for (const node of graph.nodes) {
        node.setInputs([]);
        for (const inner of node.subgraphs) if (inner.owner === node || !inner.owner) pending.push(inner);
      }
    }
  }

  /**
   * Makes graph output `index` be `value`, keeping the output's name; an Identity stands in where `value` cannot take it.
   * @throws HalftoneError `internal` when the output is itself a graph input: then both carry the one name.
   */
  redirectOutput(index: number, value: Value): void {
    const previous = this.outputs[index];
    if (previous === value) return;
    const { name, type } = previous;
    if (previous.isGraphInput) {
      throw new HalftoneError(
        'internal',
        `graph output "${name}": expected one that is no graph input to be redirected, got an input; put an Identity between`,
      );
    }
    const movable =
      value.graph === this &&
      value.producer !== undefined &&
      !value.isGraphOutput &&
      !value.isGraphInput &&
      !value.tensor;
    previous.name = this.names.fresh(name);
    let output = value;
    if (movable) {
      value.name = name;
      value.type = type;
    } else {
      output = new Value(this, name, type ? { type } : {});
      this.add({ op: 'Identity', inputs: [value], outputs: [output] });
    }
    // The same value may be listed as an output twice; it has one name, so both move.
    this.outputs.forEach((listed, position) => {
      if (listed === previous) this.outputs[position] = output;
    });
  }

  /** Removes initializers that nothing reads. Returns how many. */
  removeUnusedInitializers(): number {
    let removed = 0;
    for (const value of this.initializers) {
      if (value.users.size > 0 || value.isGraphOutput || value.isGraphInput) continue;
      this.initializers.delete(value);
      removed++;
    }
    return removed;
  }

  /**
   * Orders nodes so that every value is made before it is read; keeps the present order where it can.
   * @throws HalftoneError `invalid-file` for a cycle.
   */
  sort(): void {
    this.nodes = this.sorted();
  }

  /**
   * The nodes as `sort` would order them.
   * @throws HalftoneError `invalid-file` for a cycle.
   */
  sorted(): Node[] {
    const state = new Map<Node, 'open' | 'done'>();
    const sorted: Node[] = [];
    for (const root of this.nodes) {
      if (state.has(root)) continue;
      const stack: { node: Node; needs: Node[]; next: number }[] = [];
      const open = (node: Node) => {
        state.set(node, 'open');
        stack.push({ node, needs: this.#producersFor(node), next: 0 });
      };
      open(root);
      while (stack.length > 0) {
        const top = stack[stack.length - 1];
        if (top.next < top.needs.length) {
          const need = top.needs[top.next++];
          const seen = state.get(need);
          if (seen === 'open') {
            throw new HalftoneError(
              'invalid-file',
              `${need.label}: expected a graph without cycles, got one through this node`,
              { fields: { node: need.name } },
            );
          }
          if (!seen) open(need);
        } else {
          state.set(top.node, 'done');
          sorted.push(top.node);
          stack.pop();
        }
      }
    }
    return sorted;
  }

  /** The nodes of this graph whose outputs `node` reads, also from inside its subgraphs. */
  #producersFor(node: Node): Node[] {
    const producers = new Set<Node>();
    for (const { producer } of node.reads) if (producer?.graph === this) producers.add(producer);
    return [...producers];
  }
}
