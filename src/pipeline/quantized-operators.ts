/** Models that are quantized already: how they are recognised, and why they are refused. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';

/** Operators that only quantized models hold. */
const quantizedOperators = [
  'QuantizeLinear',
  'DequantizeLinear',
  'DynamicQuantizeLinear',
  'QLinearConv',
  'QLinearMatMul',
  'MatMulInteger',
  'ConvInteger',
  'MatMulNBits',
  'MatMulBnb4',
  'GatherBlockQuantized',
  'DynamicQuantizeLSTM',
  'DynamicQuantizeMatMul',
  'QGemm',
];

/** The quantized operators of a model with their counts, most frequent first; empty for a float model. */
export function quantizedOperatorsOf(model: Model): [op: string, count: number][] {
  const counts = new Map<string, number>();
  for (const node of model.nodes()) {
    if (quantizedOperators.includes(node.op)) counts.set(node.op, (counts.get(node.op) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]);
}

/** @throws HalftoneError `unsupported` for a model that is already quantized. */
export function refuseQuantized(model: Model): void {
  const found = quantizedOperatorsOf(model);
  if (found.length === 0) return;
  const list = found.map(([op, count]) => `${count} ${op}`).join(', ');
  throw new HalftoneError(
    'unsupported',
    `model: expected a float model, got one that is already quantized (${list}); ` +
      'start from the float model, or allow it with --allow-quantized to quantize only what is still float',
    { fields: { operators: found.map(([op]) => op) } },
  );
}
