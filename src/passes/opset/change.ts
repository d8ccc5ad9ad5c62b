/** What a change of an operator's form between two versions of the ONNX operator set is, and how nodes are edited for it. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import { type DType, dtypes } from '../../tensor/dtype.ts';
import { bytesOf, Tensor } from '../../tensor/tensor.ts';

/** One change: nodes of these operators look different from version `at` on. Steps of one operator add up. */
export interface OpsetChange {
  readonly ops: readonly string[];
  readonly at: number;
  /** What about this node has no counterpart in the new form; asked of every node before any is changed. */
  readonly refuse?: (node: Node, target: number) => string | undefined;
  /** Brings the node from the form before `at` into the form of `at`. What it adds is already in `target`'s form. */
  readonly apply: (node: Node, target: number) => void;
}

/** A new constant beside `node`, named after it. */
export function constantFor(node: Node, role: string, tensor: Tensor): Value {
  return node.graph.addInitializer(`${node.name || node.outputs.find((output) => output)?.name}.${role}`, tensor);
}

/** A new value that `node` will read, computed right before it. */
export function computedFor(
  node: Node,
  op: string,
  inputs: readonly (Value | undefined)[],
  attributes: Readonly<Record<string, number | string>> = {},
): Value {
  const name = `${node.name || node.outputs.find((output) => output)?.name}.${op.toLowerCase()}`;
  return node.graph.add({ op, inputs, outputs: [name], attributes }, node).output();
}

/** Moves an attribute of integers to input `index`; an absent one stays absent. */
export function intsToInput(node: Node, attribute: string, index: number): void {
  const values = node.attributes.get(attribute);
  node.set(attribute, undefined);
  if (values?.type !== 'ints') return;
  node.setInput(index, constantFor(node, attribute, Tensor.int64([values.value.length], values.value)));
}

/** A scalar of a real type. */
export function scalar(dtype: DType, value: number): Tensor {
  switch (dtype) {
    case 'float64':
      return new Tensor(dtype, [], bytesOf(Float64Array.of(value)));
    case 'float16':
    case 'bfloat16':
      return Tensor.float32([], [value]).converted(dtype);
    default:
      return Tensor.float32([], [value]);
  }
}

/**
 * The element type of a value, from the file's declarations and from what makes it; undefined where neither tells.
 * Operators that return another type than their first input's: onnx/docs/Operators.md, type constraints.
 */
export function elementTypeOf(value: Value): DType | undefined {
  let current: Value | undefined = value;
  for (let steps = 0; current && steps < 100_000; steps++) {
    if (current.tensor) return current.tensor.dtype;
    if (current.type?.dtype) return current.type.dtype;
    const node: Node | undefined = current.producer;
    if (node?.domain !== '' || node.subgraphs.length > 0 || node.outputs[0] !== current) return undefined;
    if (node.op === 'Cast') {
      const number = node.int('to');
      return (Object.keys(dtypes) as DType[]).find((name) => dtypes[name].onnx === number);
    }
    if (node.op === 'Constant' || node.op === 'ConstantOfShape') return node.tensor('value')?.dtype ?? 'float32';
    if (node.op === 'Where' || node.op === 'CastLike' || node.op === 'DequantizeLinear') current = node.inputs[1];
    else if (node.op === 'OneHot') current = node.inputs[2];
    else if (sameTypeAsFirst.has(node.op)) current = node.inputs[0];
    else return undefined;
  }
  return undefined;
}

const sameTypeAsFirst = new Set(
  (
    'Abs Add AveragePool BatchNormalization Ceil Clip Compress Concat Conv ConvTranspose DepthToSpace Div Dropout Elu ' +
    'Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GRU ' +
    'HardSigmoid HardSwish Identity InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax ' +
    'LpNormalization LpPool MatMul Max MaxPool Mean Min Mish Mod Mul Neg PRelu Pad Pow RNN Range Reciprocal ReduceL1 ' +
    'ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu ' +
    'Reshape Resize Round Scatter ScatterElements ScatterND Selu Shrink Sigmoid Sign Slice Softmax Softplus Softsign ' +
    'SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample'
  ).split(' '),
);
