/** Sums of scaled signs: each sign stands for what the ones before it left over. */

export interface ResidualFormat<Id extends string = string> {
  readonly kind: 'residual';
  readonly id: Id;
  readonly summary: string;
  /** How many signs, and scales, a number is the sum of: bit m of a code is set where sign m is plus. */
  readonly bits: number;
}

/** Residual binary quantization of some order (Guo et al. 2017, Network Sketching; Xu et al. 2018, alternating). */
export function residualBinary<const Bits extends number>(bits: Bits): ResidualFormat<`binary${Bits}`> {
  return { kind: 'residual', id: `binary${bits}`, summary: `the sum of ${bits} scaled signs`, bits };
}
