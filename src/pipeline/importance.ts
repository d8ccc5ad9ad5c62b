/**
 * How much the error of each column of a weight matrix counts: the variance of the input that it is multiplied with.
 * (The diagonal of the second moment is the importance matrix of llama.cpp, ALGORITHMS.md §2.5. What the mean of an input
 * does to the output is a constant, which the bias takes up, so it is left out: §3.6 (a).)
 */
import { formatOf } from '../formats/index.ts';
import type { Weight } from '../lowerings/weight.ts';
import type { MomentsState } from '../statistics/index.ts';
import type { Need, Statistics } from './calibrate.ts';
import type { CorrectionTarget } from './correction.ts';
import type { WeightPlan } from './plan.ts';

/** What calibration must collect over the first `samples` batches: moments of the inputs of layers whose columns are input channels. */
export function importanceNeeds(targets: readonly CorrectionTarget[], samples: number): Need[] {
  return targets.flatMap(({ weight }) => {
    const input = inputOf(weight);
    return input
      ? [{ tensor: input.tensor, statistic: 'moments' as const, channelAxis: input.channelAxis, samples }]
      : [];
  });
}

/** The activation that a layer multiplies, and the axis of its channels; undefined where columns have no one input. */
function inputOf(weight: Weight): { tensor: string; channelAxis: number } | undefined {
  const { node, input, kind } = weight.use;
  const value = node.inputs[0];
  if (input !== 1 || !value || value.tensor || weight.uses.length !== 1) return undefined;
  if (kind === 'convolution' && node.int('group', 1) === 1) return { tensor: value.name, channelAxis: 1 };
  const plain = node.is('MatMul') || (node.is('Gemm') && node.int('transA', 0) === 0);
  return kind === 'matrix' && plain && weight.tensor.shape.length === 2
    ? { tensor: value.name, channelAxis: -1 }
    : undefined;
}

/** Of the mean square, so that inputs that never change still count. */
const minShare = 0.05;

/** One number per column, or undefined when nothing is known, or at widths where rounding hardly hurts. */
export function importanceOf(
  weight: Weight,
  plan: WeightPlan,
  statistics: Statistics | undefined,
): Float32Array | undefined {
  if (!plan.quantize || formatOf(plan.quantize.scheme.split(':')[0]).bits >= 8) return undefined;
  const input = inputOf(weight);
  const state = input && (statistics?.get(input.tensor)?.get('moments') as MomentsState | undefined);
  if (!state) return undefined;
  const { columns } = weight.use.view;
  const perChannel = columns / state.meanSquare.length;
  if (!Number.isInteger(perChannel)) return undefined;
  const importance = Float32Array.from({ length: columns }, (_, column) => {
    const channel = Math.floor(column / perChannel);
    const square = state.meanSquare[channel];
    return Math.max(square - state.mean[channel] ** 2, minShare * square);
  });
  return importance.every((value) => Number.isFinite(value)) && importance.some((value) => value > 0)
    ? importance
    : undefined;
}
