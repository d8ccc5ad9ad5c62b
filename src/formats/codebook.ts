/** Number formats whose levels are learned from the numbers themselves: non-linear quantization. */

export interface CodebookFormat<Id extends string = string> {
  readonly kind: 'codebook';
  readonly id: Id;
  readonly summary: string;
  /** Bits of one packed code; a table holds 2^bits levels. */
  readonly bits: number;
  /** `lloyd-max` has the least squared error; `equal-mass` gives every level equally many numbers. */
  readonly method: 'lloyd-max' | 'equal-mass';
}

/** The levels with the least squared error: k-means in one dimension (Lloyd 1982; Max 1960). */
export function kmeans<const Bits extends number>(bits: Bits): CodebookFormat<`kmeans${Bits}`> {
  const summary = `${2 ** bits} levels with the least squared error`;
  return { kind: 'codebook', id: `kmeans${bits}`, summary, bits, method: 'lloyd-max' };
}

/** The means of 2^bits parts of equal mass: every code is as frequent as any other. */
export function quantile<const Bits extends number>(bits: Bits): CodebookFormat<`quantile${Bits}`> {
  const summary = `${2 ** bits} levels that are equally frequent`;
  return { kind: 'codebook', id: `quantile${bits}`, summary, bits, method: 'equal-mass' };
}
