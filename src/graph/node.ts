/** An operator with its inputs and outputs. Inputs are changed through `setInput`, which keeps the users of values right. */
import { HalftoneError } from '../base/errors.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { type Attribute, type AttributeInput, attributeOf, graphsOf } from './attribute.ts';
import type { Graph } from './graph.ts';
import type { Value } from './value.ts';

const decoder = new TextDecoder();

export class Node {
  /** The owner; changes when the node moves into another graph. */
  graph: Graph;
  op: string;
  /** '' is the ONNX domain (`ai.onnx` is read as ''). */
  domain: string;
  name: string;
  /** Change them through `set`, which keeps track of the subgraphs among them. */
  readonly attributes: Map<string, Attribute> = new Map();
  /** What the reader could not interpret (documentation, metadata), handed back to the writer. */
  carried: unknown;
  readonly #inputs: (Value | undefined)[] = [];
  readonly #outputs: (Value | undefined)[] = [];

  /** Made by `Graph.add`. */
  constructor(graph: Graph, op: string, domain: string, name: string) {
    this.graph = graph;
    this.op = op;
    this.domain = domain;
    this.name = name;
  }

  /** Omitted optional inputs are undefined. */
  get inputs(): readonly (Value | undefined)[] {
    return this.#inputs;
  }

  /** Omitted optional outputs are undefined. */
  get outputs(): readonly (Value | undefined)[] {
    return this.#outputs;
  }

  /** The input at `index`. @throws HalftoneError `invalid-file` when the operator lacks it. */
  input(index: number): Value {
    const value = this.#inputs[index];
    if (!value)
      throw new HalftoneError('invalid-file', `${this.label}: expected input ${index}, got none`, {
        fields: { node: this.name },
      });
    return value;
  }

  /** The output at `index`, by default the first. @throws HalftoneError `invalid-file` when it lacks it. */
  output(index = 0): Value {
    const value = this.#outputs[index];
    if (!value)
      throw new HalftoneError('invalid-file', `${this.label}: expected output ${index}, got none`, {
        fields: { node: this.name },
      });
    return value;
  }

  /** `Conv "layer1/conv"`: how messages name the node. */
  get label(): string {
    return `${this.op} "${this.name || this.#outputs.find((value) => value)?.name || '?'}"`;
  }

  /** True for an operator of the ONNX domain with one of these names. */
  is(...ops: readonly string[]): boolean {
    return this.domain === '' && ops.includes(this.op);
  }

  /** Replaces, adds (index = length) or omits (undefined) an input. */
  setInput(index: number, value: Value | undefined): void {
    const previous = this.#inputs[index];
    while (this.#inputs.length < index) this.#inputs.push(undefined);
    this.#inputs[index] = value;
    if (previous && !this.#inputs.includes(previous)) previous.users.delete(this);
    value?.users.add(this);
    if (value === undefined) while (this.#inputs.length > 0 && this.#inputs.at(-1) === undefined) this.#inputs.pop();
  }

  /** Replaces all inputs. */
  setInputs(values: readonly (Value | undefined)[]): void {
    const next = [...values];
    for (const value of this.#inputs) value?.users.delete(this);
    this.#inputs.length = 0;
    for (const value of next) {
      this.#inputs.push(value);
      value?.users.add(this);
    }
  }

  /** Makes this node the producer of `value` at `index`; the node that made it until now no longer lists it. */
  setOutput(index: number, value: Value | undefined): void {
    const previous = this.#outputs[index];
    if (previous === value && (!value || value.producer === this)) {
      while (this.#outputs.length <= index) this.#outputs.push(undefined);
      return;
    }
    if (previous?.producer === this) previous.producer = undefined;
    if (value?.producer) value.producer.#forget(value);
    while (this.#outputs.length < index) this.#outputs.push(undefined);
    this.#outputs[index] = value;
    if (value) value.producer = this;
  }

  #forget(output: Value): void {
    const index = this.#outputs.indexOf(output);
    if (index >= 0) this.#outputs[index] = undefined;
  }

  /**
   * Removes trailing outputs beyond `count`.
   * @throws HalftoneError `internal` when somebody reads one of them.
   */
  truncateOutputs(count: number): void {
    for (const value of this.#outputs.slice(count)) {
      if (value?.producer === this && (value.users.size > 0 || value.isGraphOutput)) {
        throw new HalftoneError('internal', `${this.label}: expected no users of output "${value.name}", got some`, {
          fields: { node: this.name, value: value.name },
        });
      }
    }
    for (const value of this.#outputs.splice(count)) if (value?.producer === this) value.producer = undefined;
  }

  /** Sets an attribute, or deletes it (undefined). Subgraphs that this removes let go of what they read. */
  set(name: string, input: AttributeInput | undefined): void {
    const previous = this.attributes.get(name);
    if (input === undefined) this.attributes.delete(name);
    else {
      const attribute = attributeOf(input);
      this.attributes.set(name, attribute);
      for (const graph of graphsOf(attribute)) graph.owner = this;
    }
    if (!previous) return;
    const kept = this.subgraphs;
    for (const graph of graphsOf(previous)) if (graph.owner === this && !kept.includes(graph)) graph.release();
  }

  setFloat(name: string, value: number): void {
    this.set(name, { type: 'float', value });
  }

  /** An integer attribute as a number; int64 beyond 2^53 saturates there. */
  int(name: string, fallback: number): number;
  int(name: string): number | undefined;
  int(name: string, fallback?: number): number | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === 'int' ? saturated(attribute.value) : fallback;
  }

  ints(name: string): number[] | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === 'ints' ? attribute.value.map(saturated) : undefined;
  }

  float(name: string, fallback: number): number;
  float(name: string): number | undefined;
  float(name: string, fallback?: number): number | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === 'float' ? attribute.value : fallback;
  }

  floats(name: string): readonly number[] | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === 'floats' ? attribute.value : undefined;
  }

  string(name: string, fallback: string): string;
  string(name: string): string | undefined;
  string(name: string, fallback?: string): string | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === 'string' ? decoder.decode(attribute.value) : fallback;
  }

  tensor(name: string): Tensor | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === 'tensor' ? attribute.value : undefined;
  }

  /** The subgraphs of If, Loop, Scan and the like. */
  get subgraphs(): readonly Graph[] {
    const graphs: Graph[] = [];
    for (const attribute of this.attributes.values()) graphs.push(...graphsOf(attribute));
    return graphs;
  }

  /** Every value that it reads, also from inside its subgraphs, what these make themselves included. */
  get reads(): ReadonlySet<Value> {
    const reads = new Set<Value>();
    const pending: Node[] = [this];
    for (let inner = pending.pop(); inner; inner = pending.pop()) {
      for (const input of inner.inputs) if (input) reads.add(input);
      for (const graph of inner.subgraphs) {
        pending.push(...graph.nodes);
        for (const output of graph.outputs) reads.add(output);
      }
    }
    return reads;
  }
}

function saturated(value: bigint): number {
  const number = Number(value);
  return Math.min(Math.max(number, Number.MIN_SAFE_INTEGER), Number.MAX_SAFE_INTEGER);
}
