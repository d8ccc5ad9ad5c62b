/**
 * What rounding of weights does to the mean of a layer's results, from the means of its inputs alone: analytic bias
 * correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
 */
import type { Node } from '../graph/node.ts';
import { layerAxes } from './layers.ts';

export interface RoundedLayer {
  /** Conv, ConvTranspose, Gemm or MatMul, with its float weight. */
  readonly node: Node;
  /** The weight as its codes say it is, in the order of the float weight. */
  readonly quantized: Float32Array;
}

/** Mean of each channel, by the name of the value. */
export type ChannelMeans = ReadonlyMap<string, { readonly mean: ArrayLike<number> }>;

/**
 * What to add to each layer's bias, Δb = −Σ (Ŵ − W)·E[x] over its inputs and taps. Layers whose inputs' means are not known
 * are left out. Taps that meet padding count in full, so at the borders of small maps it corrects too much.
 * @returns one number for each output channel, by the name of the layer's result
 */
export function analyticBiasCorrection(
  layers: readonly RoundedLayer[],
  statistics: ChannelMeans,
): Map<string, Float64Array> {
  const result = new Map<string, Float64Array>();
  for (const { node, quantized } of layers) {
    const means = statistics.get(node.inputs[0]?.name ?? '')?.mean;
    const shift = means && shiftOf(node, quantized, means);
    if (shift) result.set(node.output().name, shift);
  }
  return result;
}

function shiftOf(node: Node, quantized: Float32Array, means: ArrayLike<number>): Float64Array | undefined {
  const axes = layerAxes(node);
  if (!axes) return undefined;
  const { weight, reads, makes } = axes;
  const { shape } = weight;
  const float = weight.floats();
  const factor = node.op === 'Gemm' ? node.float('alpha', 1) / node.float('beta', 1) : 1;
  if (means.length !== shape[reads.axis] * reads.blocks || quantized.length !== float.length) return undefined;
  const shift = new Float64Array(shape[makes.axis] * makes.blocks);
  const inner = float.length / (shape[0] * shape[1]);
  for (let first = 0, index = 0; first < shape[0]; first++) {
    for (let second = 0; second < shape[1]; second++) {
      const at = (side: typeof reads) =>
        side.axis === 0 ? first : Math.floor((first * side.blocks) / shape[0]) * shape[1] + second;
      let sum = 0;
      for (let tap = 0; tap < inner; tap++, index++) sum += quantized[index] - float[index];
      shift[at(makes)] -= factor * sum * means[at(reads)];
    }
  }
  return shift;
}
