/** The element types of ONNX tensors: their names here, their TensorProto numbers, and their widths in bits. */

/** Enum values: onnx.proto, TensorProto.DataType (onnx 1.23). A width of 0 marks text, which has no fixed width. */
export const dtypes = {
  float32: { onnx: 1, bits: 32 },
  uint8: { onnx: 2, bits: 8 },
  int8: { onnx: 3, bits: 8 },
  uint16: { onnx: 4, bits: 16 },
  int16: { onnx: 5, bits: 16 },
  int32: { onnx: 6, bits: 32 },
  int64: { onnx: 7, bits: 64 },
  string: { onnx: 8, bits: 0 },
  bool: { onnx: 9, bits: 8 },
  float16: { onnx: 10, bits: 16 },
  float64: { onnx: 11, bits: 64 },
  uint32: { onnx: 12, bits: 32 },
  uint64: { onnx: 13, bits: 64 },
  complex64: { onnx: 14, bits: 64 },
  complex128: { onnx: 15, bits: 128 },
  bfloat16: { onnx: 16, bits: 16 },
  float8e4m3fn: { onnx: 17, bits: 8 },
  float8e4m3fnuz: { onnx: 18, bits: 8 },
  float8e5m2: { onnx: 19, bits: 8 },
  float8e5m2fnuz: { onnx: 20, bits: 8 },
  uint4: { onnx: 21, bits: 4 },
  int4: { onnx: 22, bits: 4 },
  float4e2m1: { onnx: 23, bits: 4 },
  float8e8m0: { onnx: 24, bits: 8 },
  uint2: { onnx: 25, bits: 2 },
  int2: { onnx: 26, bits: 2 },
  float6e2m3: { onnx: 27, bits: 6 },
  float6e3m2: { onnx: 28, bits: 6 },
} as const;

export type DType = keyof typeof dtypes;

const byNumber = new Map<number, DType>(
  (Object.keys(dtypes) as DType[]).map((name) => [dtypes[name].onnx, name] as const),
);

/** The element type with this TensorProto number, or undefined for a number ONNX does not define. */
export function dtypeOfNumber(number: number): DType | undefined {
  return byNumber.get(number);
}

/** Bytes of `count` packed elements; sub-byte types share bytes, the last one is padded (onnx.in.proto, raw_data). */
export function byteLengthOf(dtype: DType, count: number): number {
  return Math.ceil((count * dtypes[dtype].bits) / 8);
}

/** True for the types that hold real numbers a quantizer can start from. */
export function isFloat(dtype: DType): dtype is 'float32' | 'float16' | 'float64' | 'bfloat16' {
  return dtype === 'float32' || dtype === 'float16' || dtype === 'float64' || dtype === 'bfloat16';
}
