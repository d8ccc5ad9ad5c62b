/** The reference's conversions between float32 and shorter floats. */
import { HalftoneError } from '../base/errors.ts';
import { encodeMinifloat, minifloatValues } from '../formats/minifloat.ts';
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from '../tensor/half.ts';
import type { FloatCodes, ShortFloat } from './kernel.ts';

/** @throws HalftoneError `internal` where codes are not as many as values, or not as wide as the type. */
export function checkFloats(type: ShortFloat, values: Float32Array, codes: FloatCodes): void {
  if (values.length !== codes.length) {
    throw new HalftoneError('internal', `${type}: expected ${values.length} codes, got ${codes.length}`);
  }
  const width = type === 'float16' || type === 'bfloat16' ? 2 : 1;
  if (codes.BYTES_PER_ELEMENT !== width) {
    throw new HalftoneError('internal', `${type}: expected codes of ${width} bytes, got ${codes.BYTES_PER_ELEMENT}`);
  }
}

/** See `Kernel.encodeFloats`. */
export function encodeFloats(type: ShortFloat, values: Float32Array, codes: FloatCodes): void {
  checkFloats(type, values, codes);
  const { length } = values;
  if (type === 'float16') for (let i = 0; i < length; i++) codes[i] = floatToHalf(values[i]);
  else if (type === 'bfloat16') for (let i = 0; i < length; i++) codes[i] = floatToBfloat(values[i]);
  else for (let i = 0; i < length; i++) codes[i] = encodeMinifloat(type, values[i]);
}

/** See `Kernel.decodeFloats`. */
export function decodeFloats(type: ShortFloat, codes: FloatCodes, values: Float32Array): void {
  checkFloats(type, values, codes);
  const { length } = values;
  if (type === 'float16') for (let i = 0; i < length; i++) values[i] = halfToFloat(codes[i]);
  else if (type === 'bfloat16') for (let i = 0; i < length; i++) values[i] = bfloatToFloat(codes[i]);
  else {
    const table = minifloatValues(type);
    for (let i = 0; i < length; i++) values[i] = table[codes[i]];
  }
}
