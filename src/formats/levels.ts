/** Number formats whose codes stand for fixed levels, which a scale stretches: minifloats, normal floats, powers of two. */
import { type MinifloatId, minifloatValues } from './minifloat.ts';

export interface LevelsFormat<Id extends string = string> {
  readonly kind: 'levels';
  readonly id: Id;
  readonly summary: string;
  /** Bits of one packed code, at most 8. */
  readonly bits: number;
  /** The level of each code, 2^bits of them; NaN for a code that no value gets. */
  readonly levels: Float32Array;
  /** What shares a scale when nothing is said: neighbours in a row, or the row. */
  readonly shares: 'block' | 'channel';
  /** The element type of ONNX whose codes these are. */
  readonly dtype?: MinifloatId;
}

/** A minifloat with a scale. Codes without a finite value are not used. */
export function minifloat<const Id extends MinifloatId>(id: Id, summary: string): LevelsFormat<Id> {
  const levels = minifloatValues(id).map((level) => (Number.isFinite(level) ? level : Number.NaN));
  const bits = Math.log2(levels.length);
  return { kind: 'levels', id, summary, bits, levels, shares: bits === 8 ? 'channel' : 'block', dtype: id };
}

/**
 * NormalFloat of 4 bits: quantiles of a normal distribution, scaled to −1 … 1, with an exact zero (Dettmers et al. 2023,
 * QLoRA, appendix E; the table of bitsandbytes, functional.py).
 */
export const nf4: LevelsFormat<'nf4'> = {
  kind: 'levels',
  id: 'nf4',
  summary: 'quantiles of a normal distribution (bitsandbytes)',
  bits: 4,
  levels: Float32Array.of(
    -1,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1,
  ),
  shares: 'block',
};

/** The float of 4 bits of bitsandbytes, functional.py: three exponent bits, scaled to −1 … 1; code 8 is −0. */
export const fp4: LevelsFormat<'fp4'> = {
  kind: 'levels',
  id: 'fp4',
  summary: 'a float of 4 bits (bitsandbytes)',
  bits: 4,
  levels: signed([0, 0.005208333333333333, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]),
  shares: 'block',
};

/** Zero and ±2^−k for k = 0 … 2^(bits − 1) − 2: products with them are shifts (Zhou et al. 2017, INQ, eq. 1). */
export function powerOfTwo<const Bits extends number>(bits: Bits): LevelsFormat<`pot${Bits}`> {
  const half = 2 ** (bits - 1);
  const magnitudes = Array.from({ length: half }, (_, code) => (code === 0 ? 0 : 2 ** (1 - code)));
  const summary = `zero and powers of two down to 2^−${half - 2}`;
  return { kind: 'levels', id: `pot${bits}`, summary, bits, levels: signed(magnitudes), shares: 'block' };
}

/**
 * Sums of few powers of two: denser than `powerOfTwo` where values are large (Li, Dong & Wang 2020, Additive
 * Powers-of-Two, eq. 5 with base bits k = 2; an odd bit is one term of its own, as in the authors' code). The largest
 * sum is scaled to 1.
 */
export function additivePowerOfTwo<const Bits extends number>(bits: Bits): LevelsFormat<`apot${Bits}`> {
  const terms = Math.floor((bits - 1) / 2);
  const odd = (bits - 1) % 2;
  const choices: number[][] = Array.from({ length: terms }, (_, term) => [
    0,
    2 ** -(1 + term),
    2 ** -(1 + term + terms),
    2 ** -(1 + term + 2 * terms + odd),
  ]);
  if (odd) choices.push([0, 2 ** -(1 + 2 * terms)]);
  const sums = choices.reduce((all, some) => some.flatMap((power) => all.map((sum) => sum + power)), [0]);
  sums.sort((a, b) => a - b);
  const largest = sums[sums.length - 1];
  const summary = `sums of ${choices.length} powers of two`;
  const levels = signed(sums.map((sum) => sum / largest));
  return { kind: 'levels', id: `apot${bits}`, summary, bits, levels, shares: 'block' };
}

/** Magnitudes with a sign bit above them; minus zero is not used. */
function signed(magnitudes: readonly number[]): Float32Array {
  return Float32Array.from([...magnitudes, ...magnitudes.map((level) => (level === 0 ? Number.NaN : -level))]);
}
