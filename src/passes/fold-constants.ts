/** Computes what depends on constants alone, once, and keeps the results as initializers. */
import { messageOf } from '../base/errors.ts';
import { Graph, Names } from '../graph/graph.ts';
import { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { byteLengthOf, type DType, dtypeOfNumber } from '../tensor/dtype.ts';
import { sizeOf, type Tensor } from '../tensor/tensor.ts';
import { becomeInitializer } from './constants-to-initializers.ts';
import { allowConstants } from './lift-initializers.ts';
import type { Pass, PassContext } from './pass.ts';

/** A result may be larger than what it is computed from, but not both larger than this and more than twice as large. */
const generousBytes = 2 ** 20;

/** Operators that must run where they stand: random, or the edge between a quantized form and a float one. */
const neverFolded = new Set([
  'Bernoulli',
  'Constant',
  'DequantizeLinear',
  'Dropout',
  'DynamicQuantizeLinear',
  'Multinomial',
  'QuantizeLinear',
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
]);

/** Element types with one plain number or text an element, which every build of the runtime takes and returns. */
const plain = new Set<DType>([
  'float32',
  'float64',
  'float16',
  'uint8',
  'int8',
  'uint16',
  'int16',
  'uint32',
  'int32',
  'uint64',
  'int64',
  'bool',
  'string',
]);

async function run(model: Model, context: PassContext): Promise<boolean> {
  const refused = new Set<Node>();
  let changed = false;
  // Each round computes the nodes whose inputs are at hand by now, so that sizes are known before anything is made.
  for (;;) {
    const nodes = [...model.nodes()].filter((node) => !refused.has(node) && isFoldable(node));
    if (nodes.length === 0) break;
    for (const [node, outputs] of await evaluate(model, nodes, context, refused)) {
      if (isTooLarge(node, outputs)) refused.add(node);
      else {
        replace(node, outputs);
        changed = true;
      }
    }
  }
  if (changed) allowConstants(model);
  return changed;
}

function isFoldable(node: Node): boolean {
  if (node.domain !== '' || neverFolded.has(node.op) || node.subgraphs.length > 0) return false;
  const inputs = node.inputs.filter((input) => input !== undefined);
  if (inputs.length === 0 || !inputs.every((input) => input.isConstant && plain.has(input.tensor!.dtype))) return false;
  if (node.outputs.some((output) => output?.isGraphOutput)) return false;
  if (!node.outputs.some((output) => output && output.users.size > 0)) return false;
  if (node.op === 'Cast' && !plain.has(dtypeOfNumber(node.int('to', 0)) ?? 'int4')) return false;
  if (node.inputs.some((input) => input && isTied(input, node))) return false;
  const bytes = expectedBytes(node);
  return bytes === undefined || !isMuchLarger(bytes, node);
}

/** Tensors of fewer bytes may be stored once more. */
const tiedBytes = 4096;

/** True for a weight that stays because something else reads it: a result made of it would be a second copy. */
function isTied(value: Value, node: Node): boolean {
  const { tensor } = value;
  if (!tensor?.isFloat || tensor.byteLength < tiedBytes) return false;
  return [...value.users].some((user) => user !== node && !user.inputs.every((input) => !input || input.isConstant));
}

function isMuchLarger(bytes: number, node: Node): boolean {
  let given = 0;
  for (const input of new Set(node.inputs)) given += input?.tensor?.byteLength ?? 0;
  return bytes > generousBytes && bytes > 2 * given;
}

function isTooLarge(node: Node, outputs: readonly (Tensor | undefined)[]): boolean {
  return isMuchLarger(
    outputs.reduce((sum, output) => sum + (output?.byteLength ?? 0), 0),
    node,
  );
}

/** Bytes of the result of operators that can make much from little; undefined for the others. */
function expectedBytes(node: Node): number | undefined {
  const tensors = node.inputs.map((input) => input?.tensor);
  const [first, second] = tensors;
  if (!first) return undefined;
  const bytes = (size: number, dtype: DType) => byteLengthOf(dtype, Math.max(0, size));
  switch (node.op) {
    case 'ConstantOfShape':
      return bytes(sizeOf(first.integers()), node.tensor('value')?.dtype ?? 'float32');
    case 'Expand':
      return second && bytes(sizeOf(broadcast(first.shape, second.integers())), first.dtype);
    case 'Tile':
      return second && bytes(first.size * sizeOf(second.integers()), first.dtype);
    case 'Range': {
      const [start, limit, delta] = tensors.map((tensor) => tensor?.integers()[0] ?? 1);
      return bytes(Math.ceil((limit - start) / delta), first.dtype);
    }
    case 'OneHot':
      return second && bytes(first.size * (second.integers()[0] ?? 0), tensors[2]?.dtype ?? 'float32');
    case 'Pad': {
      const pads = node.ints('pads') ?? second?.integers() ?? [];
      if (pads.length !== 2 * first.shape.length) return undefined;
      const rank = first.shape.length;
      return bytes(sizeOf(first.shape.map((size, axis) => size + pads[axis] + pads[axis + rank])), first.dtype);
    }
    default: {
      // Elementwise operators broadcast; for all others this only errs in what is tried, not in what is kept.
      let shape: readonly number[] = [];
      for (const tensor of tensors) if (tensor) shape = broadcast(shape, tensor.shape);
      return elementwise.has(node.op) ? bytes(sizeOf(shape), first.dtype) : undefined;
    }
  }
}

const elementwise = new Set(['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Mod', 'Min', 'Max', 'Where', 'And', 'Or', 'Xor']);

function broadcast(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) =>
    Math.max(a[axis - rank + a.length] ?? 1, b[axis - rank + b.length] ?? 1),
  );
}

type Results = (readonly [Node, readonly (Tensor | undefined)[]])[];

/** Runs all nodes in one model; when that fails, halves it until the node that cannot run stands alone, and skips it. */
async function evaluate(
  model: Model,
  nodes: readonly Node[],
  context: PassContext,
  refused: Set<Node>,
): Promise<Results> {
  const { extracted, names } = extract(model, nodes);
  let found: Readonly<Record<string, Tensor>>;
  try {
    found = await context.evaluate(extracted);
  } catch (error) {
    if (nodes.length > 1) {
      const middle = nodes.length >> 1;
      return [
        ...(await evaluate(model, nodes.slice(0, middle), context, refused)),
        ...(await evaluate(model, nodes.slice(middle), context, refused)),
      ];
    }
    refused.add(nodes[0]);
    context.onSkip?.({ pass: 'fold-constants', node: nodes[0].label, reason: messageOf(error) });
    return [];
  }
  return nodes.map((node, index) => [node, names[index].map((name) => (name === undefined ? undefined : found[name]))]);
}

/** A model of these nodes alone: their constant inputs as initializers, their outputs as outputs. */
function extract(model: Model, nodes: readonly Node[]): { extracted: Model; names: (string | undefined)[][] } {
  const graph = new Graph('constants', new Names());
  const extracted = new Model(graph, model.irVersion, new Map(model.opsets));
  allowConstants(extracted);
  const copies = new Map<Value, Value>();
  const copyOf = (value: Value): Value => {
    let copy = copies.get(value);
    if (!copy) {
      copy = graph.addInitializer('constant', value.tensor!);
      copies.set(value, copy);
    }
    return copy;
  };
  const names = nodes.map((node) => {
    const copy = graph.add({
      op: node.op,
      inputs: node.inputs.map((input) => input && copyOf(input)),
      outputs: node.outputs.map((output) => (output && output.users.size > 0 ? 'result' : undefined)),
    });
    for (const [name, attribute] of node.attributes) copy.attributes.set(name, attribute);
    for (const output of copy.outputs) if (output) graph.outputs.push(output);
    return copy.outputs.map((output) => output?.name);
  });
  return { extracted, names };
}

function replace(node: Node, outputs: readonly (Tensor | undefined)[]): void {
  outputs.forEach((tensor, index) => {
    if (tensor) becomeInitializer(node, index, tensor);
  });
  const inputs = new Set(node.inputs);
  node.graph.remove(node);
  for (const input of inputs) {
    if (input && input.users.size === 0 && !input.isGraphOutput) input.graph.initializers.delete(input);
  }
}

export const foldConstants = {
  id: 'fold-constants',
  summary: 'compute what depends on constants alone',
  run,
} as const satisfies Pass;
