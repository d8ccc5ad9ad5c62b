/** Integer number formats: how many bits a code has and which codes exist. */

/** A plain, JSON-able description of integer codes. Values come from codes by scale and zero point. */
export interface IntFormat<Id extends string = string> {
  readonly kind: 'int';
  readonly id: Id;
  /** What it is, in a line. */
  readonly summary: string;
  /** Bits of one packed code: 1 to 8, or 16. */
  readonly bits: number;
  /** Whether packed codes are two's complement. */
  readonly signed: boolean;
  /** The smallest code. */
  readonly min: number;
  /** The largest code. */
  readonly max: number;
  /** The smallest code that is used, where that is not `min`. Then the format is symmetric only. */
  readonly least?: number;
}

/** Two's complement codes of `bits` bits (onnx, technical/int4.md and int2.md). */
export function signedInteger<const Bits extends number>(bits: Bits): IntFormat<`int${Bits}`> {
  const max = 2 ** (bits - 1) - 1;
  const summary = `integers −${max + 1} … ${max}`;
  return { kind: 'int', id: `int${bits}`, summary, bits, signed: true, min: -max - 1, max };
}

/** Codes 0 … 2^bits − 1. */
export function unsignedInteger<const Bits extends number>(bits: Bits): IntFormat<`uint${Bits}`> {
  const max = 2 ** bits - 1;
  const summary = bits === 1 ? 'any two levels' : `integers 0 … ${max} and a zero point`;
  return { kind: 'int', id: `uint${bits}`, summary, bits, signed: false, min: 0, max };
}

/**
 * One bit has no room for a sign, so both one-bit formats have the codes 0 and 1: `int1` stands for two levels ±α
 * (zero point one half), `uint1` for any two levels.
 */
export const int1: IntFormat<'int1'> = {
  kind: 'int',
  id: 'int1',
  summary: 'binary: a sign times a scale',
  bits: 1,
  signed: false,
  min: 0,
  max: 1,
};

/** −1, 0 and 1, in codes of two bits; files hold five of them in a byte. */
export const ternary: IntFormat<'ternary'> = {
  kind: 'int',
  id: 'ternary',
  summary: 'minus one, zero or one times a scale',
  bits: 2,
  signed: true,
  min: -2,
  max: 1,
  least: -1,
};
