/**
 * Static quantization written as QuantizeLinear and DequantizeLinear pairs. ONNX Runtime fuses each group of
 * dequantized inputs, operator and quantized output into one integer kernel; other runtimes read the same pairs.
 */
import { HalftoneError } from '../base/errors.ts';
import { roundHalfToEven } from '../base/round.ts';
import { type FormatId, formatOf, type IntFormat, intFormatOf, type LevelsFormat } from '../formats/index.ts';
import { encodeMinifloat, isMinifloat } from '../formats/minifloat.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { formatScheme, isAffine } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { reference } from '../kernel/index.ts';
import { affineParameters } from '../ranges/index.ts';
import { type DType, dtypes } from '../tensor/dtype.ts';
import { fromMatrix } from '../tensor/matrix-view.ts';
import { bytesOf, type Shape, Tensor } from '../tensor/tensor.ts';
import { cast, op, packedCodes, unsignedCodes } from './codes.ts';
import { guarded, guardFloatLayers } from './guards.ts';
import { type IntegerNodes, type IntegerUnit, resultsOf } from './integer-nodes.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

export const qdq = {
  id: 'qdq',
  summary: 'static: Quantize/Dequantize pairs around each operator, fused into integer kernels',
  requiredOpset: () => 13,
  refuses(weight: Weight, scheme: Scheme): string | undefined {
    if (!isAffine(scheme)) return `integer arithmetic takes integers and plain scales, not ${formatScheme(scheme)}`;
    if (scheme.granularity.kind === 'block') return 'integer arithmetic has no blocks';
    if (intFormatOf(scheme.format).bits > 8) return 'integer kernels take weights of at most 8 bits';
    if (scheme.zeroPointType === 'float') return 'integer arithmetic has no zero points between codes';
    if (!['convolution', 'depthwise-convolution', 'matrix'].includes(weight.use.kind)) {
      return `${weight.use.node.op} has no integer kernel`;
    }
    return undefined;
  },
} as const satisfies WeightLowering;

/** Scale and zero point of one activation, in its format. */
export interface ActivationParameters {
  readonly format: FormatId;
  readonly scale: number;
  readonly zeroPoint: number;
}

/** The format of activations: integers, or floats of 8 bits. @throws HalftoneError `internal` for others. */
export function activationFormatOf(id: string): IntFormat | LevelsFormat {
  const format = formatOf(id);
  if (format.kind === 'int' || format.kind === 'levels') return format;
  throw new HalftoneError('internal', `activations: expected integers or floats of 8 bits, got ${id}`);
}

/**
 * True for formats that ONNX Runtime has no integer kernels for, yet fuses and moves as if it had: it then refuses the
 * model, or drops a Relu (1.30). Their pairs stand alone, between two guards, and weights beside them have no pairs:
 * behind a guard ONNX Runtime would multiply codes as MatMulNBits, which rounds activations once more.
 *
 * Pairs with guards say what is meant in ONNX's own operators. Div, Cast, Cast and Mul would need no guards, yet are no
 * faster, and no runtime that has such arithmetic would know them for pairs.
 */
export function standsAlone(format: string): boolean {
  const { kind, bits } = formatOf(format);
  return kind !== 'int' || bits < 8;
}

/** The opset that QuantizeLinear needs for a format (onnx/docs/Changelog.md). */
export function activationOpset(format: FormatId): number {
  const { kind, bits } = formatOf(format);
  if (kind !== 'int') return 19;
  if (bits === 8) return 13;
  return bits === 2 ? 25 : 21;
}

/**
 * Rewrites `model` so that `plan.units` run in integers. Biases stay float; `quantizeBiases` turns them into int32 when
 * they have their final values.
 */
export function lowerQdq(
  model: Model,
  plan: IntegerNodes,
  parameters: ReadonlyMap<Value, ActivationParameters>,
  weights: ReadonlyMap<Value, { readonly weight: Weight; readonly matrix: QuantizedMatrix }>,
  constants: SharedConstants,
): void {
  const { graph } = model;
  const dequantized = new Map<Value, Value>();
  const madeBy = new Map<Value, IntegerUnit>();
  for (const unit of plan.units.values()) for (const value of resultsOf(unit)) madeBy.set(value, unit);

  const activation = [...parameters.values()][0];
  for (const [value, parameter] of parameters) {
    const unit = madeBy.get(value);
    if (unit) {
      quantizeResult(graph, value, unit, parameter, constants);
      dequantized.set(value, value);
    } else {
      dequantized.set(value, quantizePair(graph, value, undefined, value.name, parameter, constants));
    }
  }

  const stored = new Map<Value, StoredWeight>();
  for (const unit of plan.units.values()) {
    const { node } = unit;
    for (const index of unit.activations) node.setInput(index, dequantized.get(node.input(index)) ?? node.input(index));
    node.inputs.forEach((value, index) => {
      const found = value && weights.get(value);
      if (found) {
        const known = stored.get(value) ?? storeWeight(graph, found.weight, found.matrix, activation, constants);
        stored.set(value, known);
        const name = `${node.output().name}/${value.name}`;
        node.setInput(index, op(graph, 'DequantizeLinear', known.inputs, name, known.attributes));
      } else if (value?.tensor && ['Add', 'Mul'].includes(node.op) && !unit.activations.includes(index)) {
        node.setInput(index, constantValue(graph, value, activation));
      }
    });
    if (node.op === 'Pad') padCodes(node);
    if (node.op === 'Gemm') {
      node.setFloat('alpha', 1);
      node.setFloat('beta', 1);
    }
  }
  if (activation && !standsAlone(activation.format)) guardFloatLayers(graph, (node) => plan.units.has(node));
}

/** ONNX Runtime does not fuse Pad, but pads codes as well as numbers: with the zero point instead of 0. */
function padCodes(node: Node): void {
  const zeroPoint = node.inputs[0]?.producer?.inputs[2];
  // onnxruntime 1.30 has no Pad of other widths.
  if (zeroPoint?.tensor?.dtype !== 'uint8' && zeroPoint?.tensor?.dtype !== 'int8') return;
  const moved = moveCodes(
    node,
    node.outputs.map((output) => output && quantizedBy(output)),
  );
  if (moved && node.string('mode', 'constant') === 'constant') node.setInput(2, zeroPoint);
}

/** Puts a pair behind a fused node; its result keeps its name, so that readers and reports find it. */
function quantizeResult(
  graph: Graph,
  result: Value,
  unit: IntegerUnit,
  parameter: ActivationParameters,
  constants: SharedConstants,
): void {
  let raw: Value;
  // Floats have no lowest code that would stand for a Relu's zero.
  if (unit.absorbed && formatOf(parameter.format).kind === 'int') {
    raw = unit.node.output();
    unit.absorbed.setOutput(0, undefined);
    graph.remove(unit.absorbed);
  } else {
    const last = unit.absorbed ?? unit.node;
    raw = graph.addValue(`${result.name}_raw`);
    last.setOutput(last.outputs.indexOf(result), raw);
  }
  quantizePair(graph, raw, result, result.name, parameter, constants);
}

/** Quantize and Dequantize behind `value`; what they make is `result`, or a new value. */
function quantizePair(
  graph: Graph,
  value: Value,
  result: Value | undefined,
  name: string,
  parameter: ActivationParameters,
  constants: SharedConstants,
): Value {
  const scale = constants.get(`scale_${parameter.scale}`, () => Tensor.float32([], [parameter.scale]));
  const zeroPoint = constants.get(`zero_point_${parameter.format}_${parameter.zeroPoint}`, () =>
    codesTensor([], [parameter.zeroPoint], parameter.format),
  );
  const alone = standsAlone(parameter.format);
  const output = result ?? `${name}_dequantized`;
  const input = alone ? guarded(graph, value, `${name}_guarded`) : value;
  const codes = op(graph, 'QuantizeLinear', [input, scale, zeroPoint], `${name}_quantized`);
  const pair = graph.add({
    op: 'DequantizeLinear',
    inputs: [codes, scale, zeroPoint],
    outputs: [alone ? `${name}_rounded` : output],
  });
  return alone ? guarded(graph, pair.output(), output) : pair.output();
}

/** A tensor of codes, packed as ONNX stores the format. */
function codesTensor(shape: Shape, codes: ArrayLike<number>, format: FormatId): Tensor {
  const dtype = format as DType;
  if (!(dtype in dtypes)) throw new HalftoneError('internal', `format: expected one that ONNX stores, got ${format}`);
  if (isMinifloat(format)) return new Tensor(dtype, shape, Uint8Array.from(codes));
  const { bits, signed } = intFormatOf(format);
  if (bits < 8) return new Tensor(dtype, shape, reference.pack(codes, bits));
  const View = bits === 8 ? (signed ? Int8Array : Uint8Array) : signed ? Int16Array : Uint16Array;
  return new Tensor(dtype, shape, bytesOf(View.from(codes)));
}

/** What a weight is stored as: readers share the codes, and each gets a Dequantize of its own to be fused with. */
interface StoredWeight {
  readonly inputs: readonly Value[];
  readonly attributes: Readonly<Record<string, number>>;
}

/** Writes the codes of a weight: 8 bits as they are, narrower ones packed and unpacked to 8 bits when the file is loaded. */
function storeWeight(
  graph: Graph,
  weight: Weight,
  matrix: QuantizedMatrix,
  activation: ActivationParameters,
  constants: SharedConstants,
): StoredWeight {
  const { name } = weight.value;
  const { bits, signed, min } = intFormatOf(matrix.scheme.format);
  const { view } = weight.use;
  const perChannel = matrix.scales.length > 1;
  const stored = fromMatrix(matrix.codes, view);
  const parameterShape = perChannel ? [matrix.scales.length] : [];
  const scale = graph.addInitializer(`${name}_scale`, Tensor.float32(parameterShape, matrix.scales));
  // int8 activations are multiplied with int8 weights only (qdq_selectors.cc, ConvNodeGroupSelector).
  const asSigned = signed || activation.format === 'int8';
  const format: FormatId = asSigned ? 'int8' : 'uint8';
  const shift = asSigned && !signed ? 2 ** (bits - 1) : 0;
  const zeroPoints = matrix.zeroPoints.map((zeroPoint) => zeroPoint - shift);
  let codes: Value;
  if (bits === 8) {
    const shifted = shift === 0 ? stored : Int8Array.from(stored, (code) => code - shift);
    codes = graph.addInitializer(`${name}_quantized`, codesTensor(view.shape, shifted, format));
  } else {
    let floats = packedCodes(graph, constants, name, unsignedCodes(stored, min), bits, view.shape);
    if (asSigned) {
      const middle = 2 ** (bits - 1);
      const offset = constants.get(`zero_point_${middle}`, () => Tensor.float32([], [middle]));
      floats = op(graph, 'Sub', [floats, offset], `${name}/signed`);
    }
    codes = cast(graph, floats, format, `${name}_quantized`);
  }
  // Zeros are written out: without them ONNX Runtime leaves a Gemm with a quantized result in float.
  const zeroPoint = zeroPoints.every((value) => value === 0)
    ? constants.get(`zeros_${format}_${parameterShape.join('x')}`, () =>
        codesTensor(parameterShape, zeroPoints, format),
      )
    : graph.addInitializer(`${name}_zero_point`, codesTensor(parameterShape, zeroPoints, format));
  return { inputs: [codes, scale, zeroPoint], attributes: perChannel ? { axis: view.permutation[0] } : {} };
}

/** Gives a Dequantize node, which made a layer's weight, other codes, unpacked to 8 bits: for models that are only measured. */
export function replaceWeight(pair: Node, weight: Weight, matrix: QuantizedMatrix): void {
  const { graph } = pair;
  const { name } = weight.value;
  const format = pair.input(2).tensor?.dtype === 'uint8' ? 'uint8' : 'int8';
  const { bits, signed } = intFormatOf(matrix.scheme.format);
  const shift = format === 'int8' && !signed ? 2 ** (bits - 1) : 0;
  const codes = Int32Array.from(fromMatrix(matrix.codes, weight.use.view), (code) => code - shift);
  const zeroPoints = matrix.zeroPoints.map((zeroPoint) => zeroPoint - shift);
  const shape = matrix.scales.length > 1 ? [matrix.scales.length] : [];
  pair.setInputs([
    graph.addInitializer(`${name}_quantized`, codesTensor(weight.use.view.shape, codes, format)),
    graph.addInitializer(`${name}_scale`, Tensor.float32(shape, matrix.scales)),
    graph.addInitializer(`${name}_zero_point`, codesTensor(shape, zeroPoints, format)),
  ]);
}

/** A constant operand of Add or Mul, per tensor in the activations' format. */
function constantValue(graph: Graph, value: Value, activation: ActivationParameters): Value {
  const tensor = value.tensor;
  if (!tensor) throw new HalftoneError('internal', `"${value.name}": expected a constant, got none`);
  const floats = tensor.floats();
  const { format } = activation;
  const { min, max } = reference.extent(floats);
  const { scale, zeroPoint } = affineParameters({ min, max }, activationFormatOf(format), false);
  const codes = Int32Array.from(floats, encoder(format, scale, zeroPoint));
  const stored = graph.addInitializer(`${value.name}_quantized`, codesTensor(tensor.shape, codes, format));
  const scaleValue = graph.addInitializer(`${value.name}_scale`, Tensor.float32([], [scale]));
  const zero = graph.addInitializer(`${value.name}_zero_point`, codesTensor([], [zeroPoint], format));
  return op(graph, 'DequantizeLinear', [stored, scaleValue, zero], `${value.name}_dequantized`);
}

/** What QuantizeLinear makes of a number. */
function encoder(id: FormatId, scale: number, zeroPoint: number): (x: number) => number {
  if (isMinifloat(id)) return (x) => encodeMinifloat(id, Math.fround(x / scale));
  const { min, max } = intFormatOf(id);
  return (x) => Math.min(Math.max(roundHalfToEven(Math.fround(x / scale)) + zeroPoint, min), max);
}

/** The largest code of an int32 bias. */
const maxBiasCode = 2 ** 31 - 1;

/**
 * Replaces float biases of fused Conv and Gemm nodes by int32 ones with scale = input scale · weight scale
 * (ALGORITHMS.md §5.1). Returns the names of biases that had to be cut to what int32 holds.
 */
export function quantizeBiases(model: Model): string[] {
  const { graph } = model;
  const cut: string[] = [];
  for (const node of [...graph.nodes]) {
    if (!node.is('Conv', 'Gemm')) continue;
    const bias = node.inputs[2];
    const inputPair = node.inputs[0]?.producer;
    const weightPair = node.inputs[1]?.producer;
    if (!bias?.tensor || !inputPair?.is('DequantizeLinear') || !weightPair?.is('DequantizeLinear')) continue;
    const inputScale = inputPair.inputs[1]?.tensor?.floats();
    const weightScales = weightPair.inputs[1]?.tensor?.floats();
    const inputType = inputPair.inputs[2]?.tensor?.dtype;
    if (!inputScale || !weightScales || (inputType !== 'uint8' && inputType !== 'int8')) continue;
    const values = bias.tensor.floats();
    const scales = weightScales.map((scale) => Math.fround(inputScale[0] * scale));
    let isCut = false;
    const codes = Int32Array.from(values, (value, channel) => {
      const code = roundHalfToEven(value / scales[scales.length === 1 ? 0 : channel]);
      if (Math.abs(code) <= maxBiasCode) return code;
      isCut = true;
      return Math.sign(code) * maxBiasCode;
    });
    if (isCut) cut.push(bias.name);
    const scale = graph.addInitializer(
      `${bias.name}_scale`,
      Tensor.float32(scales.length === 1 ? [] : [scales.length], scales),
    );
    const quantized = graph.addInitializer(`${bias.name}_quantized`, Tensor.int32([values.length], codes));
    const attributes: Record<string, number> = scales.length === 1 ? {} : { axis: 0 };
    const made = op(graph, 'DequantizeLinear', [quantized, scale], `${node.output().name}/${bias.name}`, attributes);
    node.setInput(2, made);
  }
  return cut;
}

/** A value given as codes with scale and zero point. */
export interface Codes {
  readonly codes: Value;
  readonly scale: Value;
  readonly zeroPoint: Value;
}

/** The codes a value is quantized to, when that is its only use. */
export function quantizedBy(value: Value): (Codes & { readonly node: Node }) | undefined {
  const node = value.soleUser;
  if (!node?.is('QuantizeLinear')) return undefined;
  const [, scale, zeroPoint] = node.inputs;
  return scale && zeroPoint ? { node, codes: node.output(), scale, zeroPoint } : undefined;
}

/**
 * Lets an operator that only moves numbers read and write the codes themselves. Returns whether it could: input and
 * results must share their parameters.
 */
export function moveCodes(node: Node, results: readonly ((Codes & { readonly node: Node }) | undefined)[]): boolean {
  const pair = node.inputs[0]?.producer;
  if (!pair || results.length === 0 || results.some((result) => !result)) return false;
  const same = results.every(
    (result) => result && result.scale === pair.inputs[1] && result.zeroPoint === pair.inputs[2],
  );
  if (!same) return false;
  node.setInput(0, pair.input(0));
  results.forEach((result, index) => {
    if (!result) return;
    result.node.setOutput(0, undefined);
    node.graph.remove(result.node);
    node.setOutput(index, result.codes);
  });
  return true;
}
