/**
 * Nodes that change nothing, put where ONNX Runtime would otherwise take a float operator beside a Quantize or Dequantize
 * for one that was meant to run in integers.
 */
import type { Graph } from '../graph/graph.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { movers } from './integer-nodes.ts';

/**
 * `value` behind a Max of it alone, called `output`. ONNX Runtime removes an Identity and looks through what moves numbers,
 * but leaves such a Max where it is (1.30: about 0.5 ms for a million numbers). A Sum of one would do as well, yet sums are
 * fused with products and convolutions beside them.
 */
export function guarded(graph: Graph, value: Value, output: Value | string): Value {
  return graph.add({ op: 'Max', inputs: [value], outputs: [output] }).output();
}

/** Operators whose float weights ONNX Runtime quantizes; a MatMul where a sum behind it makes it a Gemm. */
const layers = ['Conv', 'ConvTranspose', 'Gemm', 'MatMul'];

/** Operators that ONNX Runtime folds into the layer before them, when their other operands are constants. */
const foldedIntoLayers = ['Add', 'Mul', 'BatchNormalization'];

/**
 * Keeps layers float that are to stay float. Where a layer with a constant float weight, rebuilt at load or not, stands
 * between a Dequantize and, maybe behind a Relu, a Quantize, ONNX Runtime quantizes that weight to int8 with one scale for
 * the tensor, and says nothing (weight_bias_quantization.cc; 1.30, for activations of 8 and of 16 bits). Pairs move across
 * operators that only move numbers, so it is the same behind or before those. One guard before the layer is enough.
 * @param integer true for the layers that are quantized on purpose
 */
export function guardFloatLayers(graph: Graph, integer: (node: Node) => boolean): void {
  const guards = new Map<Value, Value>();
  for (const node of [...graph.nodes]) {
    const [input, weight] = node.inputs;
    if (node.domain !== '' || !layers.includes(node.op) || integer(node) || !input || !weight) continue;
    if (!isFoldable(weight) || !isDequantized(input) || !isQuantizedNext(node)) continue;
    const guard = guards.get(input) ?? guarded(graph, input, `${input.name}_float`);
    guards.set(input, guard);
    node.setInput(0, guard);
  }
}

/** True for constants, and for what is computed of nothing else. */
function isFoldable(value: Value): boolean {
  if (value.isConstant) return true;
  const inputs = value.producer?.inputs ?? [];
  return inputs.length > 0 && inputs.every((input) => !input || isFoldable(input));
}

function isDequantized(value: Value): boolean {
  const { producer } = value;
  if (!producer) return false;
  return producer.is('DequantizeLinear') || (producer.is(...movers) && isDequantized(producer.input(0)));
}

/** True when nothing but a Quantize reads the layer's result, as it is or behind what ONNX Runtime fuses or moves away. */
function isQuantizedNext(layer: Node): boolean {
  let isGemm = layer.op !== 'MatMul';
  for (let value = layer.output(); value.users.size === 1; ) {
    const [user] = value.users;
    if (user.graph !== layer.graph) return false;
    if (user.is('QuantizeLinear')) return isGemm;
    const isFolded = user.is(...foldedIntoLayers) && user.inputs.every((input) => input === value || isConstant(input));
    if (!isFolded && !user.is('Relu', 'Clip', ...movers)) return false;
    isGemm ||= isFolded;
    value = user.output();
  }
  return false;
}

function isConstant(value: Value | undefined): boolean {
  return !value || isFoldable(value);
}
