/** F32, F16 and BF16: floats without scales, one element a block. */
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from '../../tensor/half.ts';
import { checkDecoding, checkEncoding, type EncodingGgufType } from './block-type.ts';

/** IEEE 754 binary32; every bit stays, those of NaN included. */
export const F32: EncodingGgufType<'F32'> = {
  id: 'F32',
  ggmlType: 0,
  blockSize: 1,
  byteLength: 4,
  decode(bytes, values) {
    checkDecoding(F32, bytes, values);
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength).set(bytes);
  },
  encode(values, bytes) {
    checkEncoding(F32, values, bytes);
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  },
};

function words<Id extends string>(
  id: Id,
  ggmlType: number,
  toFloat: (code: number) => number,
  fromFloat: (value: number) => number,
): EncodingGgufType<Id> {
  const type: EncodingGgufType<Id> = {
    id,
    ggmlType,
    blockSize: 1,
    byteLength: 2,
    decode(bytes, values) {
      checkDecoding(type, bytes, values);
      for (let i = 0; i < values.length; i++) values[i] = toFloat(bytes[2 * i] | (bytes[2 * i + 1] << 8));
    },
    encode(values, bytes) {
      checkEncoding(type, values, bytes);
      for (let i = 0; i < values.length; i++) {
        const code = fromFloat(values[i]);
        bytes[2 * i] = code & 0xff;
        bytes[2 * i + 1] = code >>> 8;
      }
    },
  };
  return type;
}

/** IEEE 754 binary16, ties to even; beyond 65504 infinity. Any NaN becomes the quiet one. */
export const F16 = words('F16', 1, halfToFloat, floatToHalf);

/** The upper half of a float32, ties to even. */
export const BF16 = words('BF16', 30, bfloatToFloat, floatToBfloat);
