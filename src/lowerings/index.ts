/** The family of lowerings: how quantized tensors are written into a graph. */
import { dynamic } from './dynamic.ts';
import { foldAtLoad } from './fold-at-load.ts';
import { gatherBlock } from './gather-block.ts';
import { matmulBnb4 } from './matmul-bnb4.ts';
import { matmulNbits } from './matmul-nbits.ts';
import { qdq } from './qdq.ts';
import { qoperator } from './qoperator.ts';

export const lowerings = [qdq, qoperator, dynamic, matmulNbits, matmulBnb4, gatherBlock, foldAtLoad] as const;

export type LoweringId = (typeof lowerings)[number]['id'];

/** True where activations have ranges fixed by calibration. */
export function hasStaticPairs(lowering: LoweringId): boolean {
  return lowering === 'qdq' || lowering === 'qoperator';
}

/** True where codes of weights are multiplied as integers. */
export function computesInIntegers(lowering: LoweringId): boolean {
  return hasStaticPairs(lowering) || lowering === 'dynamic';
}

export const loweringIds: readonly LoweringId[] = lowerings.map((lowering) => lowering.id);
