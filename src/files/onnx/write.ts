/** A Model to ONNX bytes. What the reader carried goes back in. The same model gives the same bytes. */
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { HalftoneError } from '../../base/errors.ts';
import type { Attribute } from '../../graph/attribute.ts';
import type { Graph } from '../../graph/graph.ts';
import type { Model } from '../../graph/model.ts';
import type { Value, ValueType } from '../../graph/value.ts';
import { dtypes } from '../../tensor/dtype.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type {
  AttributeCarried,
  GraphCarried,
  ModelCarried,
  NodeCarried,
  TypeCarried,
  ValueCarried,
} from './carried.ts';
import {
  type AttributeProto,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  TypeProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from './generated/onnx_pb.ts';
import { maxMessageBytes } from './limits.ts';
import { attributeKinds, canonicalDomain, plainType } from './read.ts';
import { header, lengthOf } from './skeleton.ts';
import { tensorHead, writeTensorProto } from './tensor-proto.ts';

/** Receives tensors that leave the model file; returns where their bytes went. */
export interface ExternalSink {
  put(tensor: Tensor): { location: string; offset: number };
}

export interface WriteOptions {
  /** Tensors of at least `externalThreshold` bytes go here instead of into the file. */
  readonly external?: ExternalSink;
  /** Default 1024 bytes, as in onnx's own tools. */
  readonly externalThreshold?: number;
}

/** A file in parts, so that tensors need not be in memory: bytes, and tensors whose element bytes stand there. */
export interface ModelParts {
  readonly parts: readonly (Uint8Array | Tensor)[];
  readonly byteLength: number;
}

/** Initializers of the main graph from this size on are parts of their own. */
const partBytes = 1024;

/**
 * Serializes a model into parts: what comes before the large initializers of the main graph, and these.
 * @throws HalftoneError `unsupported` when the message would reach 2 GiB and no external sink is given.
 */
export function modelParts(model: Model, options: WriteOptions = {}): ModelParts {
  if (!options.external && !fitsOneFile(model)) {
    throw new HalftoneError(
      'unsupported',
      `model: expected less than 2 GiB of tensors in one file, got ${tensorBytes(model)} bytes; write it with external data`,
    );
  }
  const { $unknown, opsetImport, ...carried } = (model.carried ?? {}) as Partial<ModelCarried>;
  const unknownOf = new Map((opsetImport ?? []).map((entry) => [canonicalDomain(entry.domain), entry.$unknown]));
  const proto = create(ModelProtoSchema, {
    ...(carried as MessageInitShape<typeof ModelProtoSchema>),
    irVersion: BigInt(model.irVersion),
    opsetImport: [...model.opsets].map(([domain, version]) => {
      const entry = create(OperatorSetIdProtoSchema, { domain, version: BigInt(version) });
      const unknown = unknownOf.get(domain);
      if (unknown) entry.$unknown = unknown;
      return entry;
    }),
  });
  if ($unknown) proto.$unknown = $unknown;
  const payloads = new Map<TensorProto, Tensor>();
  const graph = graphProto(model.graph, options, payloads);
  const initializers = graph.initializer;
  graph.initializer = [];
  const parts: (Uint8Array | Tensor)[] = [toBinary(GraphProtoSchema, graph)];
  for (const initializer of initializers) {
    const head = toBinary(TensorProtoSchema, initializer);
    const payload = payloads.get(initializer);
    const raw = payload ? [header(rawDataField, payload.byteLength), payload] : [];
    parts.push(header(initializerField, lengthOf([head, ...raw])), head, ...raw);
  }
  parts.unshift(toBinary(ModelProtoSchema, proto), header(graphField, lengthOf(parts)));
  return { parts, byteLength: lengthOf(parts) };
}

/** Field numbers of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data. */
const graphField = 7;
const initializerField = 5;
const rawDataField = 9;

/**
 * Serializes a model.
 * @throws HalftoneError as `modelParts`.
 */
export function writeOnnx(model: Model, options: WriteOptions = {}): Uint8Array {
  const { parts, byteLength } = modelParts(model, options);
  const bytes = new Uint8Array(byteLength);
  let position = 0;
  for (const part of parts) {
    const data = part instanceof Uint8Array ? part : part.bytes;
    bytes.set(data, position);
    position += data.byteLength;
  }
  return bytes;
}

/** Bytes of the model in one file, or of one and its external data where it is too large; nothing is read or written. */
export function serializedBytes(model: Model): number {
  let outside = 0;
  const put = (tensor: Tensor) => {
    outside += tensor.byteLength;
    return { location: 'data', offset: outside };
  };
  return modelParts(model, fitsOneFile(model) ? {} : { external: { put } }).byteLength + outside;
}

/** What a file may hold beside its tensors. */
const structureBytes = 2 ** 24;

/** Whether the model can be one message, without external data. */
export function fitsOneFile(model: Model): boolean {
  return tensorBytes(model) <= maxMessageBytes - structureBytes;
}

/** Bytes of all initializers and tensor attributes of all graphs. */
export function tensorBytes(model: Model): number {
  let bytes = 0;
  const count = (tensor: Tensor | undefined) => {
    bytes += tensor?.byteLength ?? 0;
    for (const text of tensor?.strings ?? []) bytes += text.byteLength;
  };
  for (const graph of model.graphs()) {
    for (const value of graph.initializers) count(value.tensor);
    for (const node of graph.nodes) {
      for (const attribute of node.attributes.values()) {
        if (attribute.type === 'tensor') count(attribute.value);
        else if (attribute.type === 'tensors') for (const tensor of attribute.value) count(tensor);
      }
    }
  }
  return bytes;
}

/** @param payloads receives the initializers whose raw data is left out, with their tensors; without it all are whole */
function graphProto(graph: Graph, options: WriteOptions, payloads?: Map<TensorProto, Tensor>): GraphProto {
  const carried = graph.carried as GraphCarried | undefined;
  const proto = create(GraphProtoSchema, { name: graph.name });
  if (carried) {
    proto.sparseInitializer = [...carried.sparse];
    if (carried.unknown) proto.$unknown = carried.unknown;
  }
  const listed = new Set([...graph.inputs, ...graph.outputs]);
  const declare = (value: Value) => {
    const again = (value.carried as ValueCarried | undefined)?.declaration;
    if (listed.has(value)) {
      if (again) proto.valueInfo.push(renamed(again, value.name));
    } else if (value.type) proto.valueInfo.push(valueInfo(value));
  };
  const inputs = new Set(graph.inputs);
  proto.input = graph.inputs.map(valueInfo);
  const known = new Set(graph.inputs);
  proto.output = graph.outputs.map((value) => {
    const own = known.has(value) ? (value.carried as ValueCarried | undefined)?.output : undefined;
    known.add(value);
    return own ? renamed(own, value.name) : valueInfo(value);
  });
  for (const value of graph.inputs) declare(value);
  for (const value of [...graph.initializers, ...graph.carriedValues]) {
    if (graph.initializers.has(value)) proto.initializer.push(initializerProto(value, options, payloads));
    if (!inputs.has(value)) declare(value);
  }
  for (const node of graph.sorted()) {
    const made = create(NodeProtoSchema, { opType: node.op });
    const unknown = (node.carried as NodeCarried | undefined)?.unknown;
    if (unknown) made.$unknown = unknown;
    if (node.name) made.name = node.name;
    if (node.domain) made.domain = node.domain;
    made.input = node.inputs.map((value) => value?.name ?? '');
    made.output = node.outputs.map((value) => value?.name ?? '');
    for (const [name, attribute] of node.attributes) made.attribute.push(attributeProto(name, attribute, options));
    proto.node.push(made);
    for (const output of node.outputs) if (output) declare(output);
  }
  for (const info of carried?.declarations ?? []) proto.valueInfo.push(info);
  return proto;
}

function initializerProto(value: Value, options: WriteOptions, payloads?: Map<TensorProto, Tensor>): TensorProto {
  const tensor = value.tensor;
  if (!tensor) throw new HalftoneError('internal', `initializer "${value.name}": expected data, got none`);
  const { unknown } = (value.carried ?? {}) as ValueCarried;
  const shell = { name: value.name, unknown };
  if (options.external && !tensor.strings && tensor.byteLength >= (options.externalThreshold ?? 1024)) {
    const { location, offset } = options.external.put(tensor);
    const proto = tensorHead(tensor, shell);
    proto.dataLocation = 1;
    const entries = { location, offset: String(offset), length: String(tensor.byteLength) };
    proto.externalData = Object.entries(entries).map(([key, text]) =>
      create(StringStringEntryProtoSchema, { key, value: text }),
    );
    return proto;
  }
  if (!payloads || tensor.strings || tensor.byteLength < partBytes) return writeTensorProto(tensor, shell);
  const proto = tensorHead(tensor, shell);
  payloads.set(proto, tensor);
  return proto;
}

function valueInfo(value: Value): ValueInfoProto {
  const type = value.type;
  const carried = type?.carried as TypeCarried | undefined;
  const proto = create(ValueInfoProtoSchema, { name: value.name });
  if (carried?.unknown) proto.$unknown = carried.unknown;
  if (carried && type && sameType(plainType(carried.type), type)) {
    if (carried.type) proto.type = carried.type;
    return proto;
  }
  if (!type?.dtype) return proto;
  const shape = type.shape && {
    dim: type.shape.map((dimension) => {
      if (typeof dimension === 'number') return { value: { case: 'dimValue' as const, value: BigInt(dimension) } };
      return dimension === undefined ? {} : { value: { case: 'dimParam' as const, value: dimension } };
    }),
  };
  proto.type = create(TypeProtoSchema, {
    tensorType: { elemType: dtypes[type.dtype].onnx, ...(shape ? { shape } : {}) },
  });
  return proto;
}

/** False when somebody gave the value another type than the one it was read with. */
function sameType(a: ValueType, b: ValueType): boolean {
  if (a.dtype !== b.dtype || a.shape?.length !== b.shape?.length) return false;
  return a.shape?.every((dimension, index) => dimension === b.shape?.[index]) ?? true;
}

function renamed(info: ValueInfoProto, name: string): ValueInfoProto {
  if (info.name === name) return info;
  const copy = create(ValueInfoProtoSchema, { name, ...(info.type ? { type: info.type } : {}) });
  if (info.$unknown) copy.$unknown = info.$unknown;
  return copy;
}

const kindNumbers = new Map(Object.entries(attributeKinds).map(([number, kind]) => [kind, Number(number)]));

function attributeProto(name: string, attribute: Attribute, options: WriteOptions): AttributeProto {
  if (attribute.type === 'carried') return attribute.value as AttributeProto;
  const proto = create(AttributeProtoSchema, { name, type: kindNumbers.get(attribute.type) ?? 0 });
  const carried = attribute.carried as AttributeCarried | undefined;
  if (carried?.unknown) proto.$unknown = carried.unknown;
  if (attribute.documentation) proto.docString = attribute.documentation;
  const tensorProto = (tensor: Tensor, index: number, tensorName?: string) => {
    const shell = carried?.tensors[index];
    return writeTensorProto(tensor, { name: tensorName ?? shell?.name ?? '', unknown: shell?.unknown });
  };
  switch (attribute.type) {
    case 'float':
      proto.f = attribute.value;
      break;
    case 'int':
      proto.i = attribute.value;
      break;
    case 'string':
      proto.s = attribute.value;
      break;
    case 'tensor':
      proto.t = tensorProto(attribute.value, 0, attribute.name);
      break;
    case 'graph':
      proto.g = graphProto(attribute.value, options);
      break;
    case 'floats':
      proto.floats = [...attribute.value];
      break;
    case 'ints':
      proto.ints = [...attribute.value];
      break;
    case 'strings':
      proto.strings = [...attribute.value];
      break;
    case 'tensors':
      proto.tensors = attribute.value.map((tensor, index) => tensorProto(tensor, index));
      break;
    case 'graphs':
      proto.graphs = attribute.value.map((graph) => graphProto(graph, options));
      break;
  }
  return proto;
}
