/**
 * Keeps int32 biases from overflowing. A bias is stored in steps of input scale · weight scale; where a channel's weights
 * are tiny against its bias (a dead channel), the channel gets a larger weight scale (ALGORITHMS.md §5.1). It is done
 * before anything is measured: ONNX Runtime turns float biases beside 8 and 16-bit activations into int32 by itself, and
 * overflows.
 */
import { roundHalfToEven } from '../base/round.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { loadedMatrix } from '../kernel/index.ts';
import type { Weight } from '../lowerings/weight.ts';
import type { Planning } from './plan.ts';

/** Of the 2^31 that int32 holds: room for products, and for what corrections add to a bias or take from a scale. */
const maxBiasCode = 2 ** 28;

/** The matrix with scales large enough for the biases of all readers of the weight. */
export function withBiasRoom(weight: Weight, given: QuantizedMatrix, planning: Planning): QuantizedMatrix {
  const matrix = loadedMatrix(given);
  const { scales, rows, columns, zeroPoints } = matrix;
  if (scales.length !== 1 && scales.length !== rows) return matrix;
  const raised = scales.slice();
  for (const { node } of weight.uses) {
    const activation = node.inputs[0] && planning.parameters.get(node.inputs[0]);
    const bias = node.is('Conv', 'Gemm') ? node.inputs[2]?.tensor?.floats() : undefined;
    if (!activation || !bias) continue;
    bias.forEach((value, channel) => {
      const index = scales.length === 1 ? 0 : channel;
      raised[index] = Math.max(raised[index], Math.fround(Math.abs(value) / (activation.scale * maxBiasCode)));
    });
  }
  if (raised.every((scale, index) => scale === scales[index])) return matrix;
  const codes = matrix.codes.map((code, position) => {
    const index = scales.length === 1 ? 0 : Math.floor(position / columns);
    return roundHalfToEven(((code - zeroPoints[index]) * scales[index]) / raised[index]) + zeroPoints[index];
  });
  return { ...matrix, scales: raised, codes: codes as QuantizedMatrix['codes'] };
}
