/** Integer number formats: how many bits a code has and which codes exist. */

/** A plain, JSON-able description of integer codes. Values come from codes by scale and zero point. */
export interface IntFormat<Id extends string = string> {
  readonly kind: 'int';
  readonly id: Id;
  /** Bits of one packed code: 1 to 8, or 16. */
  readonly bits: number;
  /** Whether packed codes are two's complement. */
  readonly signed: boolean;
  /** The smallest code. */
  readonly min: number;
  /** The largest code. */
  readonly max: number;
}

/** Two's complement codes of `bits` bits (onnx, technical/int4.md and int2.md). */
export function signedInteger<const Bits extends number>(bits: Bits): IntFormat<`int${Bits}`> {
  return { kind: 'int', id: `int${bits}`, bits, signed: true, min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 };
}

/** Codes 0 … 2^bits − 1. */
export function unsignedInteger<const Bits extends number>(bits: Bits): IntFormat<`uint${Bits}`> {
  return { kind: 'int', id: `uint${bits}`, bits, signed: false, min: 0, max: 2 ** bits - 1 };
}

/**
 * One bit has no room for a sign, so both one-bit formats have the codes 0 and 1: `int1` stands for two levels ±α
 * (zero point one half), `uint1` for any two levels.
 */
export const int1: IntFormat<'int1'> = { kind: 'int', id: 'int1', bits: 1, signed: false, min: 0, max: 1 };
