/**
 * A model file as plain data in which only differences of meaning remain: typed and external tensor data become bytes,
 * `value_info` is sorted, absent fields equal default ones. Decoding of tensors is written again here, from onnx.proto.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromBinary } from '@bufbuild/protobuf';
import { type ModelProto, ModelProtoSchema, type TensorProto } from '../../src/files/onnx/generated/onnx_pb.ts';

/** The normal form of a serialized model. External data is read from `folder`. */
export function normalForm(bytes: Uint8Array, folder = ''): unknown {
  return normal(fromBinary(ModelProtoSchema, bytes), folder);
}

type Plain = Record<string, unknown>;

function normal(value: unknown, folder: string): unknown {
  if (value instanceof Uint8Array) return digest(value);
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'number') return Object.is(value, -0) ? '-0' : value;
  if (Array.isArray(value)) return value.map((item) => normal(item, folder));
  if (typeof value !== 'object' || value === null) return value;
  const message = value as Plain;
  if (message.$typeName === 'onnx.TensorProto') return tensorForm(message as unknown as TensorProto, folder);
  const form: Plain = {};
  for (const [key, field] of Object.entries(message)) {
    const item = normal(field, folder);
    if (!isDefault(field)) form[key] = item;
  }
  if (message.$typeName === 'onnx.NodeProto' || message.$typeName === 'onnx.OperatorSetIdProto') {
    if (form.domain === 'ai.onnx') delete form.domain;
  }
  if (message.$typeName === 'onnx.GraphProto' && Array.isArray(form.valueInfo)) form.valueInfo.sort(byText);
  if (message.$typeName === 'onnx.ModelProto') {
    const imports = (form.opsetImport as unknown[]).map((entry) => JSON.stringify(entry));
    form.opsetImport = [...new Set(imports)].sort();
  }
  return form;
}

function byText(a: unknown, b: unknown): number {
  const [left, right] = [JSON.stringify(a), JSON.stringify(b)];
  return left < right ? -1 : left > right ? 1 : 0;
}

function isDefault(value: unknown): boolean {
  if (value === undefined || value === '' || value === 0 || value === 0n || value === false)
    return !Object.is(value, -0);
  if (value instanceof Uint8Array || Array.isArray(value)) return value.length === 0;
  return false;
}

function digest(bytes: Uint8Array): string {
  if (bytes.length <= 32) return Buffer.from(bytes).toString('hex');
  return `${bytes.length} bytes ${createHash('sha1').update(bytes).digest('hex')}`;
}

function tensorForm(tensor: TensorProto, folder: string): unknown {
  return {
    name: tensor.name,
    type: tensor.dataType,
    dims: tensor.dims.map(String),
    data: digest(tensorData(tensor, folder)),
    strings: tensor.stringData.map((text) => Buffer.from(text).toString('hex')),
    unknown: normal(tensor.$unknown ?? [], folder),
  };
}

/** TensorProto.DataType → the typed field and the bytes of one of its entries (onnx.proto, comments of the fields). */
const fields: Readonly<Record<number, readonly ['f' | 'd' | 'i32' | 'i64' | 'u64', number]>> = {
  1: ['f', 4],
  2: ['i32', 1],
  3: ['i32', 1],
  4: ['i32', 2],
  5: ['i32', 2],
  6: ['i32', 4],
  7: ['i64', 8],
  9: ['i32', 1],
  10: ['i32', 2],
  11: ['d', 8],
  12: ['u64', 4],
  13: ['u64', 8],
  14: ['f', 4],
  15: ['d', 8],
  16: ['i32', 2],
  17: ['i32', 1],
  18: ['i32', 1],
  19: ['i32', 1],
  20: ['i32', 1],
  21: ['i32', 1],
  22: ['i32', 1],
  23: ['i32', 1],
  24: ['i32', 1],
  25: ['i32', 1],
  26: ['i32', 1],
  27: ['i32', 1],
  28: ['i32', 1],
};

/** The bytes of a tensor wherever they are. */
export function tensorData(tensor: TensorProto, folder = ''): Uint8Array {
  if (tensor.dataLocation === 1) {
    const entries = Object.fromEntries(tensor.externalData.map(({ key, value }) => [key, value]));
    const file = readFileSync(join(folder, entries.location));
    const offset = Number(entries.offset ?? 0);
    return file.subarray(offset, entries.length === undefined ? undefined : offset + Number(entries.length));
  }
  if (tensor.rawData.length > 0 || tensor.dataType === 8) return tensor.rawData;
  const [field, width] = fields[tensor.dataType];
  const values = {
    f: tensor.floatData,
    d: tensor.doubleData,
    i32: tensor.int32Data,
    i64: tensor.int64Data,
    u64: tensor.uint64Data,
  }[field];
  const bytes = Buffer.alloc(values.length * width);
  values.forEach((value, index) => {
    const at = index * width;
    if (field === 'f') bytes.writeFloatLE(value as number, at);
    else if (field === 'd') bytes.writeDoubleLE(value as number, at);
    else {
      let rest = BigInt.asUintN(64, BigInt(value));
      for (let i = 0; i < width; i++, rest >>= 8n) bytes[at + i] = Number(rest & 255n);
    }
  });
  return bytes;
}

/** The message of a serialized model, for tests that look at single fields. */
export function decoded(bytes: Uint8Array): ModelProto {
  return fromBinary(ModelProtoSchema, bytes);
}
