/** TensorProto to Tensor and back: raw bytes, every typed field, and external data. Formats: onnx.proto, TensorProto. */
import { create } from '@bufbuild/protobuf';
import { HalftoneError } from '../../base/errors.ts';
import { byteLengthOf, type DType, dtypeOfNumber, dtypes } from '../../tensor/dtype.ts';
import type { ByteSource } from '../../tensor/source.ts';
import { bytesOf, sizeOf, Tensor } from '../../tensor/tensor.ts';
import type { TensorShell } from './carried.ts';
import { type TensorProto, TensorProtoSchema } from './generated/onnx_pb.ts';

/** Gives the bytes of external tensor data, or where they can be read. Implementations refuse locations outside the model's folder. */
export interface ExternalData {
  /**
   * @throws HalftoneError `missing-data` when the file is missing or too short, `invalid-file` for a forbidden location.
   */
  read(location: string, offset: number, length: number, tensor: string): Uint8Array | ByteSource;
}

const externalLocation = 1;

/** @throws HalftoneError `invalid-file`, `unsupported` or `missing-data`, naming the tensor. */
export function readTensorProto(proto: TensorProto, external?: ExternalData): Tensor {
  const name = proto.name || 'unnamed';
  const fail = (expected: string, got: string | number) =>
    new HalftoneError('invalid-file', `tensor "${name}": expected ${expected}, got ${got}`, {
      fields: { tensor: name },
    });
  const dtype = dtypeOfNumber(proto.dataType);
  if (!dtype) throw fail('an element type that ONNX defines', `number ${proto.dataType}`);
  const shape = proto.dims.map(Number);
  if (shape.some((dimension) => dimension < 0 || !Number.isSafeInteger(dimension))) {
    throw fail('dimensions from 0 to 2^53', `[${proto.dims.join(',')}]`);
  }
  const size = sizeOf(shape);
  if (!Number.isSafeInteger(size)) throw fail('at most 2^53 elements', `[${shape.join(',')}]`);
  const length = dtype === 'string' ? 0 : byteLengthOf(dtype, size);

  if (proto.dataLocation === externalLocation) {
    return new Tensor(dtype, shape, readExternal(proto, name, length, external));
  }
  if (dtype === 'string') {
    if (proto.stringData.length !== size) throw fail(`${size} strings`, proto.stringData.length);
    return new Tensor(dtype, shape, new Uint8Array(0), proto.stringData);
  }
  if (proto.rawData.byteLength > 0) {
    if (proto.rawData.byteLength !== length) {
      throw fail(`${length} bytes for ${dtype}[${shape.join(',')}]`, `${proto.rawData.byteLength} in raw_data`);
    }
    return new Tensor(dtype, shape, proto.rawData);
  }
  const bytes = typedBytes(proto, dtype);
  if (bytes.byteLength !== length) {
    throw fail(`${length} bytes for ${dtype}[${shape.join(',')}]`, `${bytes.byteLength} in its data field`);
  }
  return new Tensor(dtype, shape, bytes);
}

function readExternal(
  proto: TensorProto,
  name: string,
  length: number,
  external: ExternalData | undefined,
): Uint8Array | ByteSource {
  const entries = new Map(proto.externalData.map((entry) => [entry.key, entry.value]));
  const location = entries.get('location');
  const offset = Number(entries.get('offset') ?? 0);
  const stated = entries.get('length');
  if (!location) {
    throw new HalftoneError('invalid-file', `tensor "${name}": expected a location of its external data, got none`);
  }
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new HalftoneError(
      'invalid-file',
      `tensor "${name}": expected an offset of its external data, got "${entries.get('offset')}"`,
    );
  }
  if (stated !== undefined && Number(stated) !== length) {
    throw new HalftoneError(
      'invalid-file',
      `tensor "${name}": expected ${length} bytes of external data, got length "${stated}"`,
    );
  }
  if (!external) {
    throw new HalftoneError(
      'missing-data',
      `tensor "${name}": expected access to external data "${location}", got the model's bytes alone; read the model from its path`,
    );
  }
  return length === 0 ? new Uint8Array(0) : external.read(location, offset, length, name);
}

/** The bytes of the typed field that ONNX prescribes for `dtype` (onnx.proto, comments of the data fields). */
function typedBytes(proto: TensorProto, dtype: DType): Uint8Array {
  switch (dtype) {
    case 'float32':
    case 'complex64':
      return bytesOf(Float32Array.from(proto.floatData));
    case 'float64':
    case 'complex128':
      return bytesOf(Float64Array.from(proto.doubleData));
    case 'int64':
      return bytesOf(BigInt64Array.from(proto.int64Data));
    case 'uint64':
      return bytesOf(BigUint64Array.from(proto.uint64Data));
    case 'uint32':
      return bytesOf(Uint32Array.from(proto.uint64Data, Number));
    case 'int32':
      return bytesOf(Int32Array.from(proto.int32Data));
    default:
      // 16-bit types: one code an entry; 8-bit and packed types: one byte an entry.
      return dtypes[dtype].bits === 16 ? bytesOf(Uint16Array.from(proto.int32Data)) : Uint8Array.from(proto.int32Data);
  }
}

/** What a tensor's message holds besides its type, shape and data. */
export function shellOf(proto: TensorProto): TensorShell {
  return { name: proto.name, unknown: proto.$unknown };
}

/** A TensorProto without its raw data; text keeps its own field. `shell` holds what an earlier reading carried. */
export function tensorHead(tensor: Tensor, shell: TensorShell): TensorProto {
  const proto = create(TensorProtoSchema, { dataType: dtypes[tensor.dtype].onnx, dims: tensor.shape.map(BigInt) });
  if (shell.name) proto.name = shell.name;
  if (shell.unknown) proto.$unknown = shell.unknown;
  if (tensor.strings) proto.stringData = [...tensor.strings];
  return proto;
}

/** A TensorProto with raw data. */
export function writeTensorProto(tensor: Tensor, shell: TensorShell): TensorProto {
  const proto = tensorHead(tensor, shell);
  if (!tensor.strings) proto.rawData = tensor.bytes;
  return proto;
}
