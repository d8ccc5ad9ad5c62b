/** What MatMul and Gemm do with a constant weight, seen as one thing: y = x·Wᵀ + bias, W one row per output. */
import type { Scheme } from '../formats/scheme.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { Weight, WeightUse } from './weight.ts';

/** How a use is named in a reason: `Gemm "fc/gemm"`. */
function labelOf(use: WeightUse): string {
  return use.node.label;
}

/**
 * Why a use is not `x·Wᵀ` plus at most a bias, or undefined when it is. Gemm must have transA = 0 and alpha = 1; its
 * transB is in the view. Ranks above 2 are for callers that can do them.
 */
function refusesUse(use: WeightUse): string | undefined {
  const { node, input, kind } = use;
  if (kind !== 'matrix') return `expected a MatMul or Gemm, got ${labelOf(use)}`;
  if (input !== 1) return `expected the weight to be the second factor of ${labelOf(use)}, got the first`;
  if (node.op !== 'Gemm') return undefined;
  if (node.int('transA', 0) !== 0) return `expected ${labelOf(use)} with transA = 0, got ${node.int('transA', 0)}`;
  if (node.float('alpha', 1) !== 1) return `expected ${labelOf(use)} with alpha = 1, got ${node.float('alpha', 1)}`;
  return undefined;
}

/** Why some use of the weight is not linear, or the uses disagree about what the rows are. */
export function refusesLinear(weight: Weight): string | undefined {
  for (const use of weight.uses) {
    const reason = refusesUse(use);
    if (reason) return reason;
  }
  return refusesViews(weight);
}

/** A tied weight can be written once only when all its readers see the same matrix. */
export function refusesViews(weight: Weight): string | undefined {
  const [first, ...others] = weight.uses;
  for (const use of others) {
    const same =
      use.view.rowAxes === first.view.rowAxes &&
      use.view.permutation.every((axis, index) => axis === first.view.permutation[index]);
    if (!same)
      return `expected all readers to see the same matrix, got ${labelOf(first)} and ${labelOf(use)} transposed`;
  }
  return undefined;
}

/** Gemm's C, or undefined for MatMul and for Gemm without one. */
export function biasOf(node: Node): Value | undefined {
  return node.op === 'Gemm' ? node.inputs[2] : undefined;
}

/** True for a constant that holds one number per output: shape [N] or [1,N]. */
export function isPerOutput(value: Value, outputs: number): boolean {
  if (!value.isConstant) return false;
  const { shape } = value.tensor!;
  return shape.at(-1) === outputs && (shape.length === 1 || (shape.length === 2 && shape[0] === 1));
}

/** What operators with their own block layout ask of the scheme: a width they have, and blocks of a size they have. */
export function refusesBlocks(scheme: Scheme, bits: number, operator: string): string | undefined {
  const { granularity } = scheme;
  if (![2, 4, 8].includes(bits)) return `${operator} expects 2, 4 or 8 bits, got ${bits}`;
  if (granularity.kind !== 'block') return `${operator} expects a scale per block, got one per ${granularity.kind}`;
  const { size } = granularity;
  if (size < blockSizes.min || size > blockSizes.max || !Number.isInteger(Math.log2(size))) {
    return `${operator} expects blocks of a power of two from ${blockSizes.min} to ${blockSizes.max}, got ${size}`;
  }
  return undefined;
}

/** onnxruntime 1.30, contrib_ops/cpu/quantization: 8 and 512 are refused. */
const blockSizes = { min: 16, max: 256 } as const;
