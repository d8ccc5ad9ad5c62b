/** The family of GGUF element types: one explicit list. An entry turns blocks of bytes into numbers, some also back. */
import { HalftoneError } from '../../base/errors.ts';
import { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 } from './affine.ts';
import type { GgufType } from './block-type.ts';
import { IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS } from './lattice.ts';
import { MXFP4, NVFP4 } from './microscaling.ts';
import { IQ4_NL, IQ4_XS } from './nonlinear.ts';
import { BF16, F16, F32 } from './plain.ts';
import { Q2_K, Q3_K, Q4_K, Q5_K, Q6_K } from './super-block.ts';
import { TQ1_0, TQ2_0 } from './ternary.ts';

export type { EncodingGgufType, GgufType } from './block-type.ts';

/** Every element type that can be read, by its number in a file. */
export const ggufTypes = [
  F32,
  F16,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ2_XXS,
  IQ2_XS,
  IQ3_XXS,
  IQ1_S,
  IQ4_NL,
  IQ3_S,
  IQ2_S,
  IQ4_XS,
  IQ1_M,
  BF16,
  TQ1_0,
  TQ2_0,
  MXFP4,
  NVFP4,
] as const;

export type GgufTypeId = (typeof ggufTypes)[number]['id'];

/** The ids of all types, in list order. */
export const ggufTypeIds: readonly GgufTypeId[] = ggufTypes.map((type) => type.id);

/**
 * The type with this id, such as `Q4_0`.
 * @throws HalftoneError `usage` for an unknown id.
 */
export function ggufTypeOf(id: string): GgufType<GgufTypeId> {
  const type = ggufTypes.find((candidate) => candidate.id === id);
  if (!type) throw new HalftoneError('usage', `GGUF type: expected one of ${ggufTypeIds.join(', ')}, got "${id}"`);
  return type;
}

/**
 * The type with this number in a file (ggml_type).
 * @throws HalftoneError `unsupported` for a number that no type here has.
 */
export function ggufTypeOfNumber(ggmlType: number): GgufType<GgufTypeId> {
  const type = ggufTypes.find((candidate) => candidate.ggmlType === ggmlType);
  if (!type) {
    const known = ggufTypes.map((candidate) => `${candidate.ggmlType} (${candidate.id})`).join(', ');
    throw new HalftoneError('unsupported', `GGUF type: expected one of ${known}, got ${ggmlType}`);
  }
  return type;
}
