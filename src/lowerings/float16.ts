/**
 * A model that computes in float16: inputs and outputs stay float32, with a Cast at each edge; operators that cannot or
 * must not be float16 stay float32 between Casts. A value keeps its name, whatever type it gets; its Cast has another.
 */
import { type ElementTypes, inferDtypes } from '../graph/dtypes.ts';
import type { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { dtypes } from '../tensor/dtype.ts';
import { floatToHalf, halfToFloat } from '../tensor/half.ts';
import { Tensor } from '../tensor/tensor.ts';
import { cast } from './codes.ts';
import { findFixed } from './fixed-values.ts';
import { isBound, isFloat32Input, isFloat32Output, isScaleInput, refusesFloat16 } from './float16-operators.ts';

/** The largest finite float16 (IEEE 754, binary16). */
export const maxFloat16 = 65504;
/** Up to here float16 holds every integer: it has 11 significant bits. */
const maxInteger = 2048;
/** The smallest number above 0 that float16 has. */
const minFloat16 = 2 ** -24;
/** Scales are kept where rounding them costs more than half a unit of float16's last digit, as it does below 2^-14. */
const scaleTolerance = 2 ** -11;

export interface Float16Options {
  /** The largest magnitude of a value on samples; undefined for values that were not watched. */
  readonly reach?: (value: Value) => number | undefined;
  /** Why a node is to stay float32 whatever it is, for instance since it was asked for. */
  readonly keep?: (node: Node) => string | undefined;
}

/** A node that stays float32. */
export interface KeptFloat32 {
  readonly node: Node;
  readonly because: string;
  /** True where the operator is the reason rather than the numbers of this node. */
  readonly byOperator: boolean;
}

export interface Float16Result {
  /** How many nodes now compute in float16. */
  readonly converted: number;
  readonly kept: readonly KeptFloat32[];
  /** Single numbers, such as the guard of a division, that float16 would round to 0 and that got its smallest number. */
  readonly raised: readonly { readonly name: string; readonly value: number }[];
}

/** Rewrites the model in place. Nodes are in an order of execution afterwards. */
export function lowerFloat16(model: Model, options: Float16Options = {}): Float16Result {
  const types = inferDtypes(model);
  const fixed = findFixed(model);
  const kept: KeptFloat32[] = [];
  const half = new Set<Node>();
  const decide = (graph: Graph, outer: KeptFloat32 | undefined) => {
    for (const node of graph.nodes) {
      const touches = touchesFloat32(node, types);
      let reason: KeptFloat32 | undefined;
      if (touches && !fixed.has(node)) {
        reason = outer ? { ...outer, node } : reasonFor(node, model.opset, types, options);
        if (reason) kept.push(reason);
        else half.add(node);
      }
      // Bodies of sequence operators are part of them; those of If, Loop and Scan decide for themselves.
      const whole = reason && !node.is('If', 'Loop', 'Scan') ? reason : outer;
      for (const inner of node.subgraphs) decide(inner, whole);
    }
  };
  decide(model.graph, undefined);
  const raised = new Rewriting(model, types, half).run();
  return { converted: half.size, kept, raised };
}

/** True when the node reads, makes or hands to its bodies tensors of float32. */
function touchesFloat32(node: Node, types: ElementTypes): boolean {
  const isFloat = (value: Value | undefined) => value !== undefined && types.get(value)?.dtype === 'float32';
  return (
    node.inputs.some(isFloat) ||
    node.outputs.some(isFloat) ||
    node.subgraphs.some((graph) => graph.inputs.some(isFloat) || graph.outputs.some(isFloat))
  );
}

function reasonFor(
  node: Node,
  opset: number,
  types: ElementTypes,
  { reach, keep }: Float16Options,
): KeptFloat32 | undefined {
  const byOperator = refusesFloat16(node, opset);
  if (byOperator) return { node, because: byOperator, byOperator: true };
  const because =
    keep?.(node) ?? unknownType(node, types) ?? tooLarge(node, types, reach) ?? inexact(node, types, reach);
  return because === undefined ? undefined : { node, because, byOperator: false };
}

function unknownType(node: Node, types: ElementTypes): string | undefined {
  for (const value of [...node.inputs, ...node.outputs]) {
    if (!value) continue;
    const type = types.get(value);
    if (!type) return `the type of "${value.name}" is unknown`;
    if (type.sequence) return `"${value.name}" is a sequence`;
  }
  return undefined;
}

/** float16 ends at 65504; infinities are the same in both types. */
function tooLarge(node: Node, types: ElementTypes, reach: Float16Options['reach']): string | undefined {
  const ends = `float16 ends at ${maxFloat16}`;
  const isFloat = (value: Value) => types.get(value)?.dtype === 'float32';
  for (const [index, value] of node.inputs.entries()) {
    if (!value || !isFloat(value) || isBound(node, index) || isFloat32Input(node, index)) continue;
    const tensor = constantOf(value);
    const largest = tensor ? extreme(tensor) : (reach?.(value) ?? 0);
    if (largest > maxFloat16) {
      return tensor
        ? `its constant "${value.name}" holds ${digits(largest)}, ${ends}`
        : `"${value.name}" reaches ${digits(largest)}, ${ends}`;
    }
    if (tensor && isScaleInput(node, index) && !holdsScales(tensor)) {
      return `its scales "${value.name}" are too small for float16`;
    }
  }
  for (const value of node.outputs) {
    const largest = value && isFloat(value) ? (reach?.(value) ?? 0) : 0;
    if (largest > maxFloat16) return `its values reach ${digits(largest)}, ${ends}`;
  }
  return undefined;
}

/** Integers turned into floats are positions and counts as often as they are data. */
function inexact(node: Node, types: ElementTypes, reach: Float16Options['reach']): string | undefined {
  if (!node.is('Cast')) return undefined;
  const from = types.get(node.input(0))?.dtype ?? 'float32';
  const largest = from.includes('int') ? (reach?.(node.output()) ?? 0) : 0;
  if (largest <= maxInteger) return undefined;
  return `its integers reach ${digits(largest)}, float16 holds them up to ${maxInteger}`;
}

function digits(value: number): string {
  return value >= 1e6 ? value.toExponential(1).replace('e+', 'e') : String(Math.round(value));
}

function extreme(tensor: Tensor): number {
  let largest = 0;
  for (const value of tensor.floats()) {
    const magnitude = Math.abs(value);
    if (magnitude > largest && magnitude !== Number.POSITIVE_INFINITY) largest = magnitude;
  }
  return largest;
}

function holdsScales(tensor: Tensor): boolean {
  return tensor.floats().every((x) => Math.abs(halfToFloat(floatToHalf(x)) - x) <= Math.abs(x) * scaleTolerance);
}

/** The data of an initializer that no caller can override, or of a Constant node. */
function constantOf(value: Value): Tensor | undefined {
  if (value.tensor) return value.isConstant ? value.tensor : undefined;
  const node = value.producer;
  if (!node?.is('Constant')) return undefined;
  const number = node.float('value_float');
  const list = node.floats('value_floats');
  if (number !== undefined) return Tensor.float32([], [number]);
  return list ? Tensor.float32([list.length], list) : node.tensor('value');
}

/** Carries out the decision: edges between the two types get a Cast, constants are stored as they are read. */
class Rewriting {
  readonly #model: Model;
  readonly #types: ElementTypes;
  readonly #half: ReadonlySet<Node>;
  /** float32 values that are float16 from now on. */
  readonly #values = new Set<Value>();
  readonly #asHalf = new Map<Value, Value>();
  readonly #asFloat = new Map<Value, Value>();
  readonly #raised: { name: string; value: number }[] = [];

  constructor(model: Model, types: ElementTypes, half: ReadonlySet<Node>) {
    this.#model = model;
    this.#types = types;
    this.#half = half;
  }

  run() {
    const nodes = [...this.#model.nodes()];
    for (const node of this.#half) this.#retype(node);
    for (const node of nodes) {
      const half = this.#half.has(node);
      // A shape is the same in any type.
      const any = node.is('Shape', 'Size');
      node.inputs.forEach((value, index) => {
        if (value && !any) node.setInput(index, this.#read(value, half && !isFloat32Input(node, index)));
      });
      for (const graph of node.subgraphs) {
        graph.outputs.forEach((value, index) => {
          const read = this.#read(value, half);
          if (read !== value) read.type = value.type && { ...value.type, dtype: half ? 'float16' : 'float32' };
          graph.outputs[index] = read;
        });
      }
    }
    this.#model.graph.outputs.forEach((value, index) => {
      if (!this.#values.has(value)) return;
      const { graph } = this.#model;
      const { name, type } = value;
      graph.redirectOutput(index, this.#read(value, false));
      graph.outputs[index].type = type && { ...type, dtype: 'float32' };
      value.name = graph.names.fresh(`${name}/float16`);
    });
    for (const graph of this.#model.graphs()) {
      dropUnread(graph);
      graph.sort();
    }
    return this.#raised;
  }

  /** The results of a float16 node, and what it hands to its bodies, are float16. */
  #retype(node: Node): void {
    const made = node.outputs.filter((_, index) => !isFloat32Output(node, index));
    for (const value of [...made, ...node.subgraphs.flatMap((graph) => graph.inputs)]) {
      if (value && this.#types.get(value)?.dtype === 'float32') {
        this.#values.add(value);
        if (value.type) value.type = { ...value.type, dtype: 'float16' };
      }
    }
    if (node.is('Cast') && node.int('to') === dtypes.float32.onnx) node.set('to', dtypes.float16.onnx);
    if (node.is('ConstantOfShape')) {
      node.set('value', (node.tensor('value') ?? Tensor.float32([1], [0])).converted('float16'));
    }
  }

  /** `value` in the type that its reader wants; values that were never float32 as they are. */
  #read(value: Value, half: boolean): Value {
    if (this.#types.get(value)?.dtype !== 'float32' || this.#values.has(value) === half) return value;
    const known = half ? this.#asHalf : this.#asFloat;
    let read = known.get(value);
    if (!read) {
      read = half ? this.#toHalf(value) : cast(value.graph, value, 'float32', `${value.name}/float32`);
      known.set(value, read);
    }
    return read;
  }

  #toHalf(value: Value): Value {
    const name = `${value.name}/float16`;
    const tensor = constantOf(value);
    if (tensor) return value.graph.addInitializer(name, this.#rounded(value.name, tensor));
    const source = value.producer?.is('Cast') ? value.producer.input(0) : undefined;
    // A weight that is stored as float16 and cast when the file is loaded is read as it is stored.
    if (source && this.#types.get(source)?.dtype === 'float16') return source;
    return cast(value.graph, value, 'float16', name);
  }

  #rounded(name: string, tensor: Tensor): Tensor {
    const [value] = tensor.floats();
    const vanishes = tensor.size === 1 && value !== 0 && floatToHalf(Math.abs(value)) === 0;
    if (!vanishes) return tensor.converted('float16');
    this.#raised.push({ name, value });
    return Tensor.float16(tensor.shape, [Math.sign(value) * minFloat16]);
  }
}

/** Removes Casts and constants whose readers now read another form of the value. */
function dropUnread(graph: Graph): void {
  for (const node of [...graph.nodes].reverse()) {
    if (!node.is('Cast', 'Constant')) continue;
    const output = node.output();
    if (output.users.size === 0 && !output.isGraphOutput) graph.remove(node);
  }
  graph.removeUnusedInitializers();
}
