/** Inputs of language models that follow from the token ids: masks, positions, token types, an empty past. */
import type { ValueInfo } from '../runtime/runtime.ts';
import { type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';
import { convertTo } from './convert.ts';

/** The value of each element along the last axis. Names: Hugging Face Transformers, as its ONNX exports keep them. */
const rules: readonly (readonly [RegExp, (position: number) => number])[] = [
  [/^(encoder_|decoder_)?attention_mask$/, () => 1],
  [/^(token_type_ids|segment_ids|use_cache_branch)$/, () => 0],
  [/^position_ids$/, (position) => position],
];

/** True when `fillOf` knows this input. */
export function isFillable(name: string): boolean {
  return isPast(name) || rules.some(([pattern]) => pattern.test(name));
}

/** True for the key and value cache of a decoder, which starts empty. */
export function isPast(name: string): boolean {
  return /^past(_key_values)?[._]/.test(name);
}

/** The usual value of such an input in a shape; undefined for any other input. */
export function fillOf(input: ValueInfo, shape: Shape): Tensor | undefined {
  const rule = rules.find(([pattern]) => pattern.test(input.name));
  if (!rule) return undefined;
  const length = shape[shape.length - 1] ?? 1;
  const values = Float32Array.from({ length: sizeOf(shape) }, (_, i) => rule[1](i % length));
  return convertTo(Tensor.float32(shape, values), input.dtype, `input ${input.name}`);
}
