/** Rounding as ONNX and IEEE 754 mean it. `Math.round` rounds halves up and must not be used on numbers to quantize. */

/** Adding and subtracting 1.5·2^52 rounds a double below 2^51 to an integer, ties to even (IEEE 754, section 4.3.1). */
export const roundingMagic = 6755399441055744;

/** The nearest integer, ties to the even one. NaN and infinities stay what they are. */
export function roundHalfToEven(value: number): number {
  if (value < 2251799813685248 && value > -2251799813685248) return value + roundingMagic - roundingMagic;
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2 === 0 ? 0 : 1) : value === low ? value : Math.round(value);
}
