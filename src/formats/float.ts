/** Float number formats that tensors can be stored in without scales. */

export interface FloatFormat<Id extends string = string> {
  readonly kind: 'float';
  /** The name of the element type in `tensor/dtype.ts`. */
  readonly id: Id;
  readonly summary: string;
  readonly bits: number;
}

/** IEEE 754 binary16. */
export const float16: FloatFormat<'float16'> = {
  kind: 'float',
  id: 'float16',
  summary: 'IEEE half precision, without a scale',
  bits: 16,
};

/** The upper half of a float32. */
export const bfloat16: FloatFormat<'bfloat16'> = {
  kind: 'float',
  id: 'bfloat16',
  summary: 'the upper half of a float32, without a scale',
  bits: 16,
};
