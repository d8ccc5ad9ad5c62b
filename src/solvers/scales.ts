/** Scales as the types other than plain floats store them: on a grid of their own. */
import { HalftoneError } from '../base/errors.ts';
import { roundHalfToEven } from '../base/round.ts';
import { decodeMinifloat, encodeMinifloat } from '../formats/minifloat.ts';
import type { ScaleType } from '../formats/scheme.ts';
import { roundStored } from '../kernel/index.ts';

/** The largest float8e4m3fn. */
const largestShort = 448;

/** Powers of two that are normal float32 numbers, as the graph that unpacks them must make them. */
const exponents = { min: -126, max: 127 } as const;

/**
 * Scales outside are not kept in float16. Below 2^−14 it loses digits, but at 2^−20 its steps are still 6 %: codes are
 * computed with the scale as stored, and a grid a little too wide or too narrow costs next to nothing.
 */
export const halfScale = { min: 2 ** -20, max: 65504 } as const;

/** Whether float16 holds these scales well enough. */
export function fitsHalf(scales: Float32Array): boolean {
  return scales.every((scale) => Math.abs(scale) >= halfScale.min && Math.abs(scale) <= halfScale.max);
}

/** 2^exponent, as near as float32 has it. */
export function powerScale(exponent: number): number {
  return 2 ** Math.min(Math.max(exponent, exponents.min), exponents.max);
}

/** The factor with which float8e4m3fn holds scales up to `largest`: 1 where there is nothing to hold. */
export function shortFactor(largest: number): number {
  const factor = Math.fround(largest / largestShort);
  return factor >= 2 ** -126 ? factor : 1;
}

/** The multiples of a factor in float8e4m3fn around a positive scale: `reach` of them on either side, none of them 0. */
export function shortScales(scale: number, factor: number, reach: number): number[] {
  const nearest = encodeMinifloat('float8e4m3fn', scale / factor);
  const scales: number[] = [];
  for (let code = Math.max(nearest - reach, 1); code <= Math.min(Math.max(nearest, 1) + reach, 0x7e); code++) {
    scales.push(Math.fround(decodeMinifloat('float8e4m3fn', code) * factor));
  }
  return scales;
}

/** Scales as multiples −127 … 127, but not 0, of a factor for each row. */
export function doubleQuantized(
  scales: Float32Array,
  rows: number,
): { readonly scales: Float32Array; readonly factors: Float32Array } {
  const perRow = scales.length / rows;
  if (!Number.isInteger(perRow)) {
    throw new HalftoneError('internal', `scales: expected as many for each of ${rows} rows, got ${scales.length}`);
  }
  const factors = new Float32Array(rows);
  const rounded = new Float32Array(scales.length);
  for (let row = 0; row < rows; row++) {
    let largest = 0;
    for (let i = row * perRow; i < (row + 1) * perRow; i++) largest = Math.max(largest, Math.abs(scales[i]));
    const factor = Math.max(Math.fround(largest / 127), 2 ** -126);
    factors[row] = factor;
    for (let i = row * perRow; i < (row + 1) * perRow; i++) {
      const code = roundHalfToEven(scales[i] / factor) || Math.sign(scales[i]) || 1;
      rounded[i] = Math.fround(code * factor);
    }
  }
  return { scales: rounded, factors };
}

/** Rounds a scale of a plain type; the others are rounded together, or chosen from their grid. */
export function roundPlain(scale: number, type: ScaleType): number {
  return roundStored(scale, type === 'float16' ? 'float16' : 'float32');
}

/** The scale of a group without magnitude: levels times it are next to nothing, whether 0 is among them or not. */
export function idleScale(type: ScaleType): number {
  return type === 'float16' ? 2 ** -13 : 2 ** -100;
}
