/**
 * 8-bit layers whose activations are quantized at run time: DynamicQuantizeLinear in front of MatMulInteger or
 * ConvInteger. No calibration needed; ONNX Runtime fuses the products to DynamicQuantizeMatMul.
 */
import { HalftoneError } from '../base/errors.ts';
import { intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { formatScheme, isAffine } from '../formats/scheme.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { fromMatrix, matrixView, rowBroadcastShape, rowsInTensorOrder } from '../tensor/matrix-view.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';
import { cast, floatValue, op, plainScaleType, reshape, sharedZeroPoint, unsignedCodes } from './codes.ts';
import { refusesDynamicLstm } from './dynamic-lstm.ts';
import { biasOf, isPerOutput, refusesLinear, refusesViews } from './linear.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

export { lowerDynamicLstm } from './dynamic-lstm.ts';

export const dynamic = {
  id: 'dynamic',
  summary: '8-bit MatMul, Gemm, Conv and LSTM whose activations are quantized at run time: no calibration',
  domains: ['com.microsoft'],
  requiredOpset: () => 11,
  refuses,
} as const satisfies WeightLowering;

function refuses(weight: Weight, scheme: Scheme): string | undefined {
  if (!isAffine(scheme)) return `dynamic quantization expects integers and plain scales, got ${formatScheme(scheme)}`;
  const { bits } = intFormatOf(scheme.format);
  const { dtype, shape } = weight.tensor;
  if (bits !== 8) return `dynamic quantization expects 8-bit weights, got ${bits} bits`;
  if (scheme.granularity.kind === 'block')
    return 'dynamic quantization expects a scale per tensor or channel, got blocks';
  if (scheme.zeroPointType === 'float') return 'dynamic quantization expects integer zero points, got float ones';
  if (dtype !== 'float32') return `DynamicQuantizeLinear expects float32 activations, got ${dtype}`;
  const { kind, node } = weight.use;
  if (kind === 'recurrent') {
    if (weight.uses.length > 1) return `expected one reader, got ${node.label} and ${weight.uses.length - 1} more`;
    return refusesDynamicLstm(node, scheme);
  }
  if (kind === 'convolution' || kind === 'depthwise-convolution') return refusesConvolution(weight, scheme);
  const reason = refusesLinear(weight);
  if (reason) return reason;
  for (const use of weight.uses) {
    const bias = biasOf(use.node);
    const beta = use.node.float('beta', 1);
    if (bias && beta !== 1 && !bias.isConstant) return `expected ${use.node.label} with beta = 1, got ${beta}`;
    const rank = use.node.inputs[0]?.type?.shape?.length;
    if (shape.length > 2 && rank === 1) return `expected a matrix as input of ${use.node.label}, got a vector`;
  }
  return undefined;
}

function refusesConvolution(weight: Weight, scheme: Scheme): string | undefined {
  for (const { kind, node } of weight.uses) {
    if (kind !== weight.use.kind) return `expected only convolutions to read it, got ${node.label}`;
  }
  // onnxruntime 1.30, conv_integer.cc: "Non per-tensor quantization is not supported now" of weight zero points.
  if (scheme.granularity.kind === 'channel' && !scheme.symmetric) {
    return 'ConvInteger expects one zero point: a symmetric scheme, or one scale per tensor';
  }
  return refusesViews(weight);
}

/** An activation as DynamicQuantizeLinear makes it. */
interface QuantizedActivation {
  /** uint8, of the activation's shape. */
  readonly codes: Value;
  /** float32, a scalar. */
  readonly scale: Value;
  /** uint8, a scalar. */
  readonly zeroPoint: Value;
}

/** The value as uint8. A value is quantized once, in the graph that it belongs to, whoever reads it. */
function quantizedActivation(value: Value): QuantizedActivation {
  const known = [...value.users].find((user) => user.is('DynamicQuantizeLinear') && user.graph === value.graph);
  const node =
    known ??
    value.graph.add({
      op: 'DynamicQuantizeLinear',
      inputs: [value],
      outputs: [`${value.name}/uint8`, `${value.name}/scale`, `${value.name}/zero_point`],
    });
  return { codes: node.output(0), scale: node.output(1), zeroPoint: node.output(2) };
}

/** The constant inputs of an integer operator, made once for all readers of a weight. */
interface IntegerWeight {
  readonly op: 'MatMulInteger' | 'ConvInteger';
  readonly codes: Value;
  /** Broadcasts against the result. */
  readonly scale: Value;
  readonly zeroPoint: Value | undefined;
}

/**
 * Replaces every reader of a weight of MatMul, Gemm or Conv. MatMul and Gemm keep the sign of the codes; convolutions
 * get uint8, since int8 weights make ConvInteger about seven times slower (RUNTIMES-AND-ECOSYSTEM.md §2.3). The result
 * keeps its value and name.
 * @throws HalftoneError `internal` for weights that `dynamic.refuses` refuses, and for those of LSTM, which
 *   `lowerDynamicLstm` lowers two at a time.
 */
export function lowerDynamic(weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): void {
  const reason = weight.use.kind === 'recurrent' ? 'an LSTM weight' : refuses(weight, matrix.scheme);
  if (reason) {
    throw new HalftoneError('internal', `weight "${weight.value.name}": expected one for dynamic, got: ${reason}`);
  }
  const integer = weight.use.kind === 'matrix' ? productWeight(weight, matrix) : convolutionWeight(weight, matrix);
  for (const { node } of weight.uses) replaceNode(node, integer, constants);
}

function productWeight(weight: Weight, matrix: QuantizedMatrix): IntegerWeight {
  const { name, graph } = weight.value;
  const { view } = weight.use;
  const { signed } = intFormatOf(matrix.scheme.format);
  // The operator reads [K,N]; Gemm's weight may be stored the other way round.
  const target = view.shape.length === 2 ? matrixView([matrix.columns, matrix.rows], [1]) : view;
  const dtype = signed ? 'int8' : 'uint8';
  const codes = fromMatrix(matrix.codes, target);
  const isVector = matrix.scales.length > 1 && target.shape.length === 2;
  const shape = matrix.scales.length === 1 ? [] : isVector ? [matrix.rows] : rowBroadcastShape(target);
  const inOrder = (values: Float32Array) => (values.length === 1 ? values : rowsInTensorOrder(values, target));
  const shared = sharedZeroPoint(matrix);
  const zeroPoints = shared === undefined ? inOrder(matrix.zeroPoints) : Float32Array.of(shared);
  const zeroPointShape = shared === undefined ? shape : [];
  const codesOf = (values: Float32Array) => (signed ? Int8Array.from(values) : Uint8Array.from(values));
  return {
    op: 'MatMulInteger',
    codes: graph.addInitializer(`${name}/codes`, new Tensor(dtype, target.shape, bytesOf(codes))),
    scale: floatValue(graph, `${name}/scale`, inOrder(matrix.scales), plainScaleType(matrix.scheme), shape),
    zeroPoint:
      shared === 0
        ? undefined
        : graph.addInitializer(`${name}/zero_point`, new Tensor(dtype, zeroPointShape, bytesOf(codesOf(zeroPoints)))),
  };
}

function convolutionWeight(weight: Weight, matrix: QuantizedMatrix): IntegerWeight {
  const { name, graph } = weight.value;
  const { view } = weight.use;
  const { min } = intFormatOf(matrix.scheme.format);
  const zeroPoint = sharedZeroPoint(matrix);
  if (zeroPoint === undefined) {
    throw new HalftoneError('internal', `weight "${name}": expected one zero point, got one per channel`);
  }
  const codes = unsignedCodes(fromMatrix(matrix.codes, view), min);
  const spatial = view.shape.slice(2).map(() => 1);
  const shape = matrix.scales.length === 1 ? [] : [matrix.rows, ...spatial];
  return {
    op: 'ConvInteger',
    codes: graph.addInitializer(`${name}/codes`, Tensor.uint8(view.shape, codes)),
    scale: floatValue(graph, `${name}/scale`, matrix.scales, plainScaleType(matrix.scheme), shape),
    zeroPoint: graph.addInitializer(`${name}/zero_point`, Tensor.uint8([], [zeroPoint - min])),
  };
}

/** x → codes → integer result → float32 → times both scales → plus bias. */
function replaceNode(node: Node, weight: IntegerWeight, constants: SharedConstants): void {
  const { graph } = node;
  const result = node.output();
  const x = quantizedActivation(node.input(0));
  const bias = biasFor(node, weight, constants);
  const integer = graph.add(
    {
      op: weight.op,
      name: node.name,
      inputs: [x.codes, weight.codes, x.zeroPoint, ...(weight.zeroPoint ? [weight.zeroPoint] : [])],
      outputs: [`${result.name}/int32`],
    },
    node,
  );
  if (weight.op === 'ConvInteger') {
    for (const [name, attribute] of node.attributes) integer.attributes.set(name, attribute);
  }
  const float = cast(graph, integer.output(), 'float32', `${result.name}/float`);
  const scale = op(graph, 'Mul', [x.scale, weight.scale], `${result.name}/scale`);
  const outputs = [bias ? `${result.name}/scaled` : result];
  const scaled = graph.add({ op: 'Mul', inputs: [float, scale], outputs }, node);
  if (bias) graph.add({ op: 'Add', inputs: [scaled.output(), bias], outputs: [result] }, node);
  graph.remove(node);
}

/** What is added behind: Gemm's C times beta, or a convolution's B with its channels on axis 1. */
function biasFor(node: Node, weight: IntegerWeight, constants: SharedConstants): Value | undefined {
  if (weight.op === 'MatMulInteger') {
    const c = biasOf(node);
    const beta = node.float('beta', 1);
    const { tensor } = c ?? {};
    if (!c || !tensor) return c;
    // A plain vector is what ONNX Runtime fuses.
    const shape = isPerOutput(c, weight.codes.tensor!.shape[1]) ? [tensor.size] : tensor.shape;
    if (beta === 1) {
      return shape.length === tensor.shape.length
        ? c
        : c.graph.addInitializer(`${c.name}/vector`, tensor.reshaped(shape));
    }
    const scaled = tensor.floats().map((value) => value * beta);
    return c.graph.addInitializer(`${c.name}/scaled`, Tensor.float32(shape, scaled));
  }
  const bias = node.inputs[2];
  if (!bias) return undefined;
  const { shape } = weight.codes.tensor!;
  const target = [shape[0], ...shape.slice(2).map(() => 1)];
  if (!bias.isConstant) return reshape(node.graph, constants, bias, target, `${bias.name}/channels`);
  return node.graph.addInitializer(`${bias.name}/channels`, bias.tensor!.reshaped(target));
}

/** Bytes of the initializers that `lowerDynamic` and `lowerDynamicLstm` write for one weight; nodes come on top. */
export function dynamicBytes(
  rows: number,
  columns: number,
  parameters: number,
  { scheme }: Pick<QuantizedMatrix, 'scheme'>,
): number {
  const scaleBytes = scheme.scaleType === 'float16' ? 2 : 4;
  return rows * columns + parameters * (scaleBytes + (scheme.symmetric ? 0 : 1));
}
