/**
 * The integer-only form of a static plan: QLinearConv, QLinearMatMul, QGemm, QLinearAdd … instead of float operators
 * between Quantize/Dequantize pairs. Made from the `qdq` form, so both compute the same. Operators: onnx/docs
 * (QLinearConv, QLinearMatMul) and onnxruntime/docs/ContribOperators.md (domain com.microsoft).
 */
import type { AttributeInput } from '../graph/attribute.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { movers } from './integer-nodes.ts';
import { type Codes, moveCodes, qdq, quantizedBy } from './qdq.ts';
import type { SharedConstants, WeightLowering } from './weight.ts';

export const qoperator = {
  id: 'qoperator',
  summary: 'static: integer operators (QLinearConv, QLinearMatMul …) without float in between',
  domains: ['com.microsoft'],
  requiredOpset: qdq.requiredOpset,
  refuses: qdq.refuses,
} as const satisfies WeightLowering;

const contrib = 'com.microsoft';

/** What a rule makes of a node: an integer operator that reads and writes codes. */
interface Replacement {
  readonly op: string;
  readonly domain?: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly attributes?: Readonly<Record<string, AttributeInput>>;
  /** Attributes of the float operator that carry over. */
  readonly keep?: readonly string[];
}

/** Concat has an integer operator of its own, and Pad moves codes in the `qdq` form already. */
const codeMovers = movers.filter((op) => op !== 'Concat' && op !== 'Pad');
const spatial = ['auto_pad', 'ceil_mode', 'count_include_pad', 'kernel_shape', 'pads', 'strides'];

/**
 * Replaces every fused group of the `qdq` form by its integer operator. Groups that have none stay as they are, which
 * ONNX Runtime runs all the same. Returns the labels of nodes that stay float between two pairs.
 * @param chosen which nodes to replace; by default all
 */
export function lowerQoperator(
  model: Model,
  constants: SharedConstants,
  chosen: (node: Node) => boolean = () => true,
): string[] {
  const left: string[] = [];
  for (const node of [...model.graph.nodes].filter(chosen)) {
    if (node.domain !== '' || !node.inputs[0]?.producer?.is('DequantizeLinear')) continue;
    if (node.is('QuantizeLinear', 'DequantizeLinear')) continue;
    const results = node.outputs.map((output) => output && quantizedBy(output));
    if (codeMovers.includes(node.op)) {
      // Interpolated codes are cut off, not rounded: half a step is lost on average (onnxruntime 1.30).
      const interpolates = node.op === 'Resize' && node.string('mode', 'nearest') !== 'nearest';
      if (interpolates) left.push(node.label);
      else if (!moveCodes(node, results) && results.every((result) => result)) left.push(node.label);
      continue;
    }
    const result = results[0];
    const replacement = replace(node, result, constants);
    if (!replacement) {
      if (result) left.push(node.label);
      continue;
    }
    if (replacement.domain) model.useDomain(replacement.domain, 1);
    substitute(node, replacement, result);
  }
  return left;
}

/** The codes a value was dequantized from; a missing zero point is made. */
function codesOf(value: Value | undefined, constants: SharedConstants): Codes | undefined {
  const pair = value?.producer;
  if (!pair?.is('DequantizeLinear')) return undefined;
  const [codes, scale, zeroPoint] = pair.inputs;
  if (!codes || !scale) return undefined;
  if (zeroPoint) return { codes, scale, zeroPoint };
  const shape = scale.tensor?.shape ?? [];
  const size = scale.tensor?.size ?? 1;
  const zeros = constants.get(`zeros_int8_${shape.join('x')}`, () => new Tensor('int8', shape, new Uint8Array(size)));
  return { codes, scale, zeroPoint: zeros };
}

function replace(node: Node, result: Codes | undefined, constants: SharedConstants): Replacement | undefined {
  const [a, b] = [codesOf(node.inputs[0], constants), codesOf(node.inputs[1], constants)];
  if (!a) return undefined;
  const first = [a.codes, a.scale, a.zeroPoint];
  const last = result ? [result.scale, result.zeroPoint] : [];
  switch (node.op) {
    case 'Conv': {
      const bias = node.inputs[2];
      const biasCodes = bias?.producer?.is('DequantizeLinear') ? bias.producer.inputs[0] : undefined;
      if (!b || !result || (bias && !biasCodes)) return undefined;
      const inputs = [...first, b.codes, b.scale, b.zeroPoint, ...last, ...(biasCodes ? [biasCodes] : [])];
      return { op: 'QLinearConv', inputs, keep: ['auto_pad', 'dilations', 'group', 'kernel_shape', 'pads', 'strides'] };
    }
    case 'MatMul':
      if (!b) return undefined;
      if (result) return { op: 'QLinearMatMul', inputs: [...first, b.codes, b.scale, b.zeroPoint, ...last] };
      return {
        op: 'MatMulIntegerToFloat',
        domain: contrib,
        inputs: [a.codes, b.codes, a.scale, b.scale, a.zeroPoint, b.zeroPoint],
      };
    case 'Gemm': {
      const bias = node.inputs[2];
      const biasCodes = bias?.producer?.is('DequantizeLinear') ? bias.producer.inputs[0] : undefined;
      if (!b || (bias && !biasCodes)) return undefined;
      return {
        op: 'QGemm',
        domain: contrib,
        inputs: [...first, b.codes, b.scale, b.zeroPoint, biasCodes, ...last],
        keep: ['alpha', 'transA', 'transB'],
      };
    }
    case 'Add':
    case 'Mul':
      if (!b || !result) return undefined;
      return { op: `QLinear${node.op}`, domain: contrib, inputs: [...first, b.codes, b.scale, b.zeroPoint, ...last] };
    case 'AveragePool':
      return result && { op: 'QLinearAveragePool', domain: contrib, inputs: [...first, ...last], keep: spatial };
    case 'GlobalAveragePool':
      return (
        result && {
          op: 'QLinearGlobalAveragePool',
          domain: contrib,
          inputs: [...first, ...last],
          attributes: { channels_last: 0 },
        }
      );
    case 'LeakyRelu':
      return result && { op: 'QLinearLeakyRelu', domain: contrib, inputs: [...first, ...last], keep: ['alpha'] };
    case 'Sigmoid':
      return result && { op: 'QLinearSigmoid', domain: contrib, inputs: [...first, ...last] };
    case 'Softmax': {
      const attributes = { axis: node.int('axis', -1), opset: 13 };
      return result && { op: 'QLinearSoftmax', domain: contrib, inputs: [...first, ...last], attributes };
    }
    case 'Concat': {
      const parts = node.inputs.map((value) => codesOf(value, constants));
      if (!result || parts.some((part) => !part)) return undefined;
      const inputs = [...last, ...parts.flatMap((part) => (part ? [part.codes, part.scale, part.zeroPoint] : []))];
      return { op: 'QLinearConcat', domain: contrib, inputs, keep: ['axis'] };
    }
    default:
      return undefined;
  }
}

/** Lets the integer operator write the codes, or the float result where nothing quantizes it. */
function substitute(node: Node, replacement: Replacement, result: (Codes & { readonly node: Node }) | undefined): void {
  const { graph } = node;
  const carried = Object.fromEntries(
    [...node.attributes].filter(([name]) => replacement.keep?.includes(name)),
  ) as Readonly<Record<string, AttributeInput>>;
  const output = result ? result.codes : node.output();
  const before = node;
  const made = {
    op: replacement.op,
    domain: replacement.domain ?? '',
    name: node.name,
    inputs: replacement.inputs,
    outputs: [output],
    attributes: { ...carried, ...replacement.attributes },
  };
  if (result) {
    result.node.setOutput(0, undefined);
    graph.remove(result.node);
  }
  graph.add(made, before);
  graph.remove(node);
}

/**
 * True for a product whose float result is an output of the model. ONNX Runtime fuses no such node, and would
 * dequantize its weight at every run; as an integer operator with a float result it is fast and rounds nothing more.
 */
export function isFinalProduct(node: Node): boolean {
  return node.is('Gemm', 'MatMul') && node.output().isGraphOutput;
}
