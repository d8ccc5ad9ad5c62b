/** Element types of all values of a model, found from its inputs and constants on by what operators do to types. */
import { type DType, dtypeOfNumber } from '../tensor/dtype.ts';
import type { Graph } from './graph.ts';
import type { Model } from './model.ts';
import type { Node } from './node.ts';
import type { Value } from './value.ts';

/** The element type of a value, and whether it is a sequence of tensors rather than one. */
export interface ElementType {
  readonly dtype: DType;
  readonly sequence?: boolean;
}

export type ElementTypes = ReadonlyMap<Value, ElementType>;

type Known = ElementType | undefined;
type Rule = (node: Node, input: (index: number) => Known, types: ElementTypes) => readonly Known[];

const always = (dtype: DType): Rule => {
  return () => [{ dtype }];
};
/** First result like the given input, further ones of a fixed type. */
const like =
  (index: number, rest?: DType): Rule =>
  (node, input) =>
    node.outputs.map((_, output) => (output > 0 && rest ? { dtype: rest } : input(index)));
/** What an attribute says, else like an input, else a fixed type. */
const byAttribute =
  (name: string, fallback: DType | number): Rule =>
  (node, input) => {
    const said = node.int(name);
    const dtype = said === undefined ? undefined : dtypeOfNumber(said);
    if (dtype) return [{ dtype }];
    return [typeof fallback === 'number' ? input(fallback) : { dtype: fallback }];
  };
/** Results of the node are results of its body, from number `skip` on. */
const byBody =
  (attribute: string, skip: number, sequence = false): Rule =>
  (node, _, types) => {
    const body = node.attributes.get(attribute);
    if (body?.type !== 'graph') return [];
    const outputs = body.value.outputs.slice(skip).map((value) => types.get(value));
    return sequence ? outputs.map((type) => type && { ...type, sequence }) : outputs;
  };
const sequenceOf: Rule = (_, input) => {
  const element = input(0);
  return [element && { dtype: element.dtype, sequence: true }];
};
const elementOf: Rule = (_, input) => {
  const list = input(0);
  return [list && { dtype: list.dtype }];
};

/** Operators whose results are not simply like their first input (onnx 1.23, docs/Operators.md). */
const rules: Readonly<Record<string, Rule>> = {
  ArgMax: always('int64'),
  ArgMin: always('int64'),
  NonMaxSuppression: always('int64'),
  NonZero: always('int64'),
  SequenceLength: always('int64'),
  Shape: always('int64'),
  Size: always('int64'),
  And: always('bool'),
  Equal: always('bool'),
  Greater: always('bool'),
  GreaterOrEqual: always('bool'),
  IsInf: always('bool'),
  IsNaN: always('bool'),
  Less: always('bool'),
  LessOrEqual: always('bool'),
  Not: always('bool'),
  OptionalHasElement: always('bool'),
  Or: always('bool'),
  RegexFullMatch: always('bool'),
  Xor: always('bool'),
  ConvInteger: always('int32'),
  MatMulInteger: always('int32'),
  ImageDecoder: always('uint8'),
  TfIdfVectorizer: always('float32'),

  Cast: byAttribute('to', 'float32'),
  Bernoulli: byAttribute('dtype', 0),
  EyeLike: byAttribute('dtype', 0),
  Multinomial: byAttribute('dtype', 'int32'),
  RandomNormal: byAttribute('dtype', 'float32'),
  RandomNormalLike: byAttribute('dtype', 0),
  RandomUniform: byAttribute('dtype', 'float32'),
  RandomUniformLike: byAttribute('dtype', 0),
  BlackmanWindow: byAttribute('output_datatype', 'float32'),
  HammingWindow: byAttribute('output_datatype', 'float32'),
  HannWindow: byAttribute('output_datatype', 'float32'),
  MelWeightMatrix: byAttribute('output_datatype', 'float32'),

  CastLike: like(1),
  DequantizeLinear: like(1),
  OneHot: like(2),
  QLinearConv: like(7),
  QLinearMatMul: like(7),
  Where: like(1),
  Dropout: like(0, 'bool'),
  MaxPool: like(0, 'int64'),
  TopK: like(0, 'int64'),
  Unique: like(0, 'int64'),

  BatchNormalization: (node, input) => node.outputs.map((_, output) => input(output === 0 ? 0 : 3)),
  Constant: (node) => [constantType(node)],
  ConstantOfShape: (node) => [{ dtype: node.tensor('value')?.dtype ?? 'float32' }],
  DynamicQuantizeLinear: (_, input) => [{ dtype: 'uint8' }, input(0), { dtype: 'uint8' }],
  LayerNormalization: (node, input) => {
    const statistics = { dtype: dtypeOfNumber(node.int('stash_type', 1)) ?? 'float32' };
    return [input(0), statistics, statistics];
  },
  QuantizeLinear: (node, input) => [
    input(2) ?? { dtype: dtypeOfNumber(node.int('output_dtype', 0)) ?? ('uint8' as const) },
  ],

  If: (node, input, types) => {
    const [a, b] = ['then_branch', 'else_branch'].map((name) => byBody(name, 0)(node, input, types));
    return node.outputs.map((_, output) => a[output] ?? b[output]);
  },
  Loop: byBody('body', 1),
  Scan: byBody('body', 0),

  ConcatFromSequence: elementOf,
  SequenceAt: elementOf,
  SequenceConstruct: sequenceOf,
  SequenceEmpty: (node) => [{ dtype: dtypeOfNumber(node.int('dtype', 1)) ?? 'float32', sequence: true }],
  SequenceMap: byBody('body', 0, true),
  SplitToSequence: sequenceOf,
};

/** Operators of ONNX Runtime (ContribOperators.md, 1.30) whose results are not like their first input. */
const contribRules: Readonly<Record<string, Rule>> = {
  DequantizeLinear: like(1),
  GatherBlockQuantized: like(2),
  MatMulIntegerToFloat: like(2),
  QuantizeLinear: like(2),
};

function constantType(node: Node): Known {
  for (const [name, dtype] of [
    ['value_float', 'float32'],
    ['value_floats', 'float32'],
    ['value_int', 'int64'],
    ['value_ints', 'int64'],
    ['value_string', 'string'],
    ['value_strings', 'string'],
  ] as const) {
    if (node.attributes.has(name)) return { dtype };
  }
  const tensor = node.tensor('value');
  return tensor && { dtype: tensor.dtype };
}

/**
 * The element type of every value that has one: inputs and constants as declared, results by their operator, where that
 * is unknown as the file declares. Values missing from the result are of unknown type.
 * @throws HalftoneError `invalid-file` for a graph with a cycle.
 */
export function inferDtypes(model: Model): ElementTypes {
  const types = new Map<Value, ElementType>();
  inferGraph(model.graph, types);
  return types;
}

function inferGraph(graph: Graph, types: Map<Value, ElementType>): void {
  const put = (value: Value | undefined, type: Known) => {
    const dtype = value?.type?.dtype;
    const known = type ?? (dtype && { dtype });
    if (value && known) types.set(value, known);
  };
  // A body's inputs that declare no type got theirs from the node that holds it.
  for (const value of graph.inputs) if (!types.has(value)) put(value, value.tensor && { dtype: value.tensor.dtype });
  for (const value of graph.initializers) put(value, value.tensor && { dtype: value.tensor.dtype });
  for (const node of graph.sorted()) {
    const input = (index: number) => {
      const value = node.inputs[index];
      return value && types.get(value);
    };
    for (const inner of node.subgraphs) {
      bodyInputs(node, inner, input, types);
      inferGraph(inner, types);
    }
    const results = rulesFor(node)?.(node, input, types) ?? [];
    node.outputs.forEach((value, index) => {
      put(value, results[index]);
    });
  }
}

function rulesFor(node: Node): Rule | undefined {
  const first = node.inputs.findIndex((value) => value !== undefined);
  if (node.domain === '') return rules[node.op] ?? like(first);
  if (node.domain === 'com.microsoft') {
    return contribRules[node.op] ?? (node.outputs[0]?.type?.dtype ? undefined : like(first));
  }
  return undefined;
}

/** Loop hands its inputs to the body as they are; Scan, too, slice by slice (from opset 9 on). */
function bodyInputs(node: Node, body: Graph, input: (index: number) => Known, types: Map<Value, ElementType>): void {
  if (!node.is('Loop', 'Scan')) return;
  const own = body.inputs.filter((value) => !value.tensor);
  own.forEach((value, index) => {
    const outer = node.op === 'Loop' && index < 2 ? ({ dtype: index === 0 ? 'int64' : 'bool' } as const) : input(index);
    const shift = node.op === 'Scan' ? node.inputs.length - own.length : 0;
    const type = shift > 0 ? input(index + shift) : outer;
    if (type) types.set(value, type);
  });
}
