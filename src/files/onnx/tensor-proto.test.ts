/** Tensor messages: every element type from raw bytes and from the typed field that onnx.proto prescribes; what is refused. */
import { create, toBinary } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { modelWithTensor } from '../../../test/onnx/build.ts';
import { isHalftoneError } from '../../base/errors.ts';
import { type DType, dtypes } from '../../tensor/dtype.ts';
import { type TensorProto, TensorProtoSchema } from './generated/onnx_pb.ts';
import { readOnnx } from './read.ts';
import { readTensorProto, writeTensorProto } from './tensor-proto.ts';

type Fields = Partial<
  Pick<TensorProto, 'floatData' | 'doubleData' | 'int32Data' | 'int64Data' | 'uint64Data' | 'stringData'>
>;

/** Element type → shape, typed field, and the bytes that raw_data would hold, written out by hand. */
const cases: Record<DType, { shape: number[]; fields: Fields; hex: string }> = {
  float32: { shape: [2], fields: { floatData: [1, -0] }, hex: '0000803f00000080' },
  uint8: { shape: [3], fields: { int32Data: [0, 128, 255] }, hex: '0080ff' },
  int8: { shape: [3], fields: { int32Data: [-128, -1, 127] }, hex: '80ff7f' },
  uint16: { shape: [2], fields: { int32Data: [1, 65535] }, hex: '0100ffff' },
  int16: { shape: [2], fields: { int32Data: [-2, 32767] }, hex: 'feffff7f' },
  int32: { shape: [2], fields: { int32Data: [-(2 ** 31), 5] }, hex: '0000008005000000' },
  int64: { shape: [2], fields: { int64Data: [-(2n ** 63n), 1n] }, hex: '00000000000000800100000000000000' },
  string: { shape: [1], fields: { stringData: [Uint8Array.of(0xff)] }, hex: '' },
  bool: { shape: [3], fields: { int32Data: [1, 0, 1] }, hex: '010001' },
  float16: { shape: [2], fields: { int32Data: [0x3c00, 0xfbff] }, hex: '003cfffb' },
  float64: { shape: [1], fields: { doubleData: [1.5] }, hex: '000000000000f83f' },
  uint32: { shape: [2], fields: { uint64Data: [4294967295n, 2n] }, hex: 'ffffffff02000000' },
  uint64: { shape: [1], fields: { uint64Data: [2n ** 64n - 1n] }, hex: 'ffffffffffffffff' },
  complex64: { shape: [1], fields: { floatData: [1, 2] }, hex: '0000803f00000040' },
  complex128: { shape: [1], fields: { doubleData: [1, 2] }, hex: '000000000000f03f0000000000000040' },
  bfloat16: { shape: [2], fields: { int32Data: [0x3f80, 0xff80] }, hex: '803f80ff' },
  float8e4m3fn: { shape: [2], fields: { int32Data: [0x7e, 0xff] }, hex: '7eff' },
  float8e4m3fnuz: { shape: [2], fields: { int32Data: [0x80, 1] }, hex: '8001' },
  float8e5m2: { shape: [2], fields: { int32Data: [0x7b, 0xfc] }, hex: '7bfc' },
  float8e5m2fnuz: { shape: [2], fields: { int32Data: [0x80, 2] }, hex: '8002' },
  // one entry a byte: the first element in the low bits, the last byte padded
  uint4: { shape: [3], fields: { int32Data: [0x21, 0x0f] }, hex: '210f' },
  int4: { shape: [5], fields: { int32Data: [0x98, 0x7f, 0x01] }, hex: '987f01' },
  float4e2m1: { shape: [4], fields: { int32Data: [0xf7, 0x10] }, hex: 'f710' },
  float8e8m0: { shape: [2], fields: { int32Data: [0x7f, 0xff] }, hex: '7fff' },
  uint2: { shape: [5], fields: { int32Data: [0xe4, 0x03] }, hex: 'e403' },
  int2: { shape: [4], fields: { int32Data: [0x4e] }, hex: '4e' },
  float6e2m3: { shape: [4], fields: { int32Data: [1, 2, 3] }, hex: '010203' },
  float6e3m2: { shape: [4], fields: { int32Data: [1, 2, 3] }, hex: '010203' },
};

const names = Object.keys(dtypes) as DType[];
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

describe.each(names)('%s', (dtype) => {
  const { shape, fields, hex: expected } = cases[dtype];
  const shell = { name: 'w', dataType: dtypes[dtype].onnx, dims: shape.map(BigInt) };

  it('is read from its typed field', () => {
    const tensor = readTensorProto(create(TensorProtoSchema, { ...shell, ...fields }));
    expect([tensor.dtype, tensor.shape, hex(tensor.bytes)]).toEqual([dtype, shape, expected]);
    expect(tensor.strings).toEqual(fields.stringData);
  });

  it('is the same from raw bytes, and written as raw bytes', () => {
    const typed = readTensorProto(create(TensorProtoSchema, { ...shell, ...fields }));
    const written = writeTensorProto(typed, { name: 'w', unknown: undefined });
    expect(hex(written.rawData)).toBe(expected);
    expect(readTensorProto(written).equals(typed)).toBe(true);
  });

  it('is refused with one element too many or too few', () => {
    for (const other of [shape[0] + 4, shape[0] > 4 ? shape[0] - 4 : 0]) {
      const wrong = create(TensorProtoSchema, { ...shell, ...fields, dims: [BigInt(other)] });
      expect(codeOf(() => readTensorProto(wrong))).toBe('invalid-file');
    }
  });

  it('may be empty', () => {
    const tensor = readTensorProto(create(TensorProtoSchema, { ...shell, dims: [0n, 7n] }));
    expect([tensor.shape, tensor.byteLength]).toEqual([[0, 7], 0]);
  });
});

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (isHalftoneError(error)) return error.code;
    throw error;
  }
  return 'nothing thrown';
}

describe('refused tensors', () => {
  const bytes = new Uint8Array(4);
  it.each([
    ['a number that is no element type', { dataType: 99, dims: [1n], rawData: bytes }, 'number 99'],
    ['no element type', { dims: [1n], rawData: bytes }, 'number 0'],
    ['a negative dimension', { dataType: 1, dims: [-1n], rawData: bytes }, '[-1]'],
    ['2^31 × 2^31 elements', { dataType: 1, dims: [2n ** 31n, 2n ** 31n], rawData: bytes }, 'at most 2^53 elements'],
    ['a dimension near 2^63', { dataType: 1, dims: [2n ** 63n - 1n], rawData: bytes }, 'dimensions from 0 to 2^53'],
    ['2^40 elements in four bytes', { dataType: 1, dims: [2n ** 40n], rawData: bytes }, '4 in raw_data'],
    ['2^40 text elements', { dataType: 8, dims: [2n ** 40n] }, '1099511627776 strings'],
    [
      'infinitely many elements and none',
      {
        dataType: 1,
        dims: Array(40)
          .fill(2n ** 50n)
          .concat(0n),
      },
      'elements',
    ],
    ['raw bytes of another length', { dataType: 1, dims: [2n], rawData: bytes }, 'expected 8 bytes'],
    ['no data', { dataType: 1, dims: [2n] }, 'got 0 in its data field'],
    ['external data without a location', { dataType: 1, dims: [1n], dataLocation: 1 }, 'a location'],
  ])('%s', (_, init, message) => {
    const before = process.memoryUsage().arrayBuffers;
    const run = () => readOnnx(modelWithTensor(init));
    expect(codeOf(run)).toBe('invalid-file');
    expect(run).toThrow(message);
    expect(run).toThrow('"w"');
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20);
  });

  it('external data when only the bytes are given', () => {
    const external = [{ key: 'location', value: 'w.bin' }];
    const run = () => readOnnx(modelWithTensor({ dataType: 1, dims: [1n], dataLocation: 1, externalData: external }));
    expect(codeOf(run)).toBe('missing-data');
    expect(run).toThrow('read the model from its path');
  });
});

it('keeps NaN payloads and negative zero of typed floats', () => {
  const nan = new Float32Array(Uint32Array.of(0x7fc12345, 0x80000000).buffer);
  const proto = create(TensorProtoSchema, { dataType: 1, dims: [2n], floatData: [...nan] });
  const bytes = toBinary(TensorProtoSchema, proto);
  expect(bytes.byteLength).toBeGreaterThan(8);
  expect(hex(readTensorProto(proto).bytes)).toBe('4523c17f00000080');
});
