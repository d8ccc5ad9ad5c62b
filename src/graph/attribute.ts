/** Node attributes as typed values. Integers stay bigint because ONNX uses the whole int64 range (Slice ends). */
import type { Tensor } from '../tensor/tensor.ts';
import type { Graph } from './graph.ts';

export type Attribute = AttributeValue & {
  /** Free text that travels with the attribute. */
  readonly documentation?: string;
  /** What the reader could not interpret of the attribute, handed back to the writer. */
  readonly carried?: unknown;
};

type AttributeValue =
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'int'; readonly value: bigint }
  | { readonly type: 'string'; readonly value: Uint8Array }
  | { readonly type: 'tensor'; readonly value: Tensor; readonly name?: string }
  | { readonly type: 'graph'; readonly value: Graph }
  | { readonly type: 'floats'; readonly value: readonly number[] }
  | { readonly type: 'ints'; readonly value: readonly bigint[] }
  | { readonly type: 'strings'; readonly value: readonly Uint8Array[] }
  | { readonly type: 'tensors'; readonly value: readonly Tensor[] }
  | { readonly type: 'graphs'; readonly value: readonly Graph[] }
  /** Kinds that only travel through: sparse tensors, types. The reader's own object, handed back to the writer. */
  | { readonly type: 'carried'; readonly value: unknown };

/** What may be given where attributes are made: integers as numbers, text as strings. */
export type AttributeInput = number | string | bigint | readonly number[] | readonly string[] | Tensor | Attribute;

const encoder = new TextEncoder();

function isAttribute(input: AttributeInput): input is Attribute {
  return typeof input === 'object' && 'type' in input;
}

/**
 * An attribute from a plain value: whole numbers become `int`, text `string`, arrays `ints` or `strings` (an empty one
 * `ints`), a tensor `tensor`. A float must be given as `{type: 'float', value}`, since 1.0 and 1 are the same number here.
 */
export function attributeOf(input: AttributeInput): Attribute {
  if (typeof input === 'number' || typeof input === 'bigint') return { type: 'int', value: BigInt(input) };
  if (typeof input === 'string') return { type: 'string', value: encoder.encode(input) };
  if (Array.isArray(input)) {
    return input.length > 0 && input.every((item) => typeof item === 'string')
      ? { type: 'strings', value: input.map((item) => encoder.encode(item)) }
      : { type: 'ints', value: input.map((item) => BigInt(item)) };
  }
  if (isAttribute(input as AttributeInput)) return input as Attribute;
  return { type: 'tensor', value: input as Tensor };
}

/** The subgraphs an attribute holds. */
export function graphsOf(attribute: Attribute): readonly Graph[] {
  if (attribute.type === 'graph') return [attribute.value];
  return attribute.type === 'graphs' ? attribute.value : [];
}
