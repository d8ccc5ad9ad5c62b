/** A Model to ONNX bytes. What the reader carried goes back in. The same model gives the same bytes. */
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { HalftoneError } from '../../base/errors.ts';
import type { Attribute } from '../../graph/attribute.ts';
import type { Graph } from '../../graph/graph.ts';
import type { Model } from '../../graph/model.ts';
import type { Value } from '../../graph/value.ts';
import { dtypes } from '../../tensor/dtype.ts';
import {
  type AttributeProto,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from './generated/onnx_pb.ts';
import { maxMessageBytes } from './limits.ts';
import { attributeKinds } from './read.ts';
import { writeTensorProto } from './tensor-proto.ts';

/** Receives tensor bytes that leave the model file; returns where they went. */
export interface ExternalSink {
  put(bytes: Uint8Array): { location: string; offset: number };
}

export interface WriteOptions {
  /** Tensors of at least `externalThreshold` bytes go here instead of into the file. */
  readonly external?: ExternalSink;
  /** Default 1024 bytes, as in onnx's own tools. */
  readonly externalThreshold?: number;
}

/**
 * Serializes a model.
 * @throws HalftoneError `unsupported` when the message would reach 2 GiB and no external sink is given.
 */
export function writeOnnx(model: Model, options: WriteOptions = {}): Uint8Array {
  const carried = model.carried as Partial<ModelProto> | undefined;
  if (!options.external && tensorBytes(model) > maxMessageBytes - 2 ** 24) {
    throw new HalftoneError(
      'unsupported',
      `model: expected less than 2 GiB of tensors in one file, got ${tensorBytes(model)} bytes; write it with external data`,
    );
  }
  const proto = create(ModelProtoSchema, {
    ...(carried as MessageInitShape<typeof ModelProtoSchema>),
    irVersion: BigInt(model.irVersion),
    opsetImport: [...model.opsets].map(([domain, version]) =>
      create(OperatorSetIdProtoSchema, { domain, version: BigInt(version) }),
    ),
  });
  if (carried?.$unknown) proto.$unknown = carried.$unknown;
  proto.graph = graphProto(model.graph, options);
  return toBinary(ModelProtoSchema, proto);
}

/** Bytes of all initializers of all graphs. */
export function tensorBytes(model: Model): number {
  let bytes = 0;
  for (const graph of model.graphs())
    for (const value of graph.initializers) bytes += value.tensor?.bytes.byteLength ?? 0;
  return bytes;
}

function graphProto(graph: Graph, options: WriteOptions): GraphProto {
  const carried = graph.carried as Partial<GraphProto> | undefined;
  const proto = create(GraphProtoSchema, { name: graph.name });
  if (carried?.sparseInitializer) proto.sparseInitializer = carried.sparseInitializer;
  if (carried?.$unknown) proto.$unknown = carried.$unknown;
  proto.input = graph.inputs.map(valueInfo);
  proto.output = graph.outputs.map(valueInfo);
  for (const value of graph.initializers) {
    if (value.tensor) proto.initializer.push(initializerProto(value, options));
  }
  for (const node of graph.nodes) {
    const made = create(NodeProtoSchema, { opType: node.op });
    const shell = node.carried as Partial<NodeProto> | undefined;
    if (shell?.$unknown) made.$unknown = shell.$unknown;
    if (node.name) made.name = node.name;
    if (node.domain) made.domain = node.domain;
    made.input = node.inputs.map((value) => value?.name ?? '');
    made.output = node.outputs.map((value) => value?.name ?? '');
    for (const [name, attribute] of node.attributes) made.attribute.push(attributeProto(name, attribute, options));
    proto.node.push(made);
    for (const output of node.outputs) {
      if (output?.type && !graph.outputs.includes(output)) proto.valueInfo.push(valueInfo(output));
    }
  }
  return proto;
}

function initializerProto(value: Value, options: WriteOptions): TensorProto {
  const tensor = value.tensor;
  if (!tensor) throw new HalftoneError('internal', `initializer "${value.name}": expected data, got none`);
  const proto = writeTensorProto(tensor, value.name, value.carried as TensorProto | undefined);
  if (options.external && !tensor.strings && tensor.bytes.byteLength >= (options.externalThreshold ?? 1024)) {
    const { location, offset } = options.external.put(tensor.bytes);
    proto.rawData = new Uint8Array(0);
    proto.dataLocation = 1;
    const entries = { location, offset: String(offset), length: String(tensor.bytes.byteLength) };
    proto.externalData = Object.entries(entries).map(([key, text]) =>
      create(StringStringEntryProtoSchema, { key, value: text }),
    );
  }
  return proto;
}

function valueInfo(value: Value): ValueInfoProto {
  const type = value.type;
  const carried = type?.carried as ValueInfoProto | undefined;
  if (carried) return carried.name === value.name ? carried : { ...carried, name: value.name };
  if (!type?.dtype) return create(ValueInfoProtoSchema, { name: value.name });
  const shape = type.shape && {
    dim: type.shape.map((dimension) => {
      if (typeof dimension === 'number') return { value: { case: 'dimValue' as const, value: BigInt(dimension) } };
      return dimension === undefined ? {} : { value: { case: 'dimParam' as const, value: dimension } };
    }),
  };
  return create(ValueInfoProtoSchema, {
    name: value.name,
    type: { tensorType: { elemType: dtypes[type.dtype].onnx, ...(shape ? { shape } : {}) } },
  });
}

const kindNumbers = new Map(Object.entries(attributeKinds).map(([number, kind]) => [kind, Number(number)]));

function attributeProto(name: string, attribute: Attribute, options: WriteOptions): AttributeProto {
  if (attribute.type === 'carried') return attribute.value as AttributeProto;
  const proto = create(AttributeProtoSchema, { name, type: kindNumbers.get(attribute.type) ?? 0 });
  if (attribute.documentation) proto.docString = attribute.documentation;
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
      proto.t = writeTensorProto(attribute.value, attribute.name ?? '');
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
      proto.tensors = attribute.value.map((tensor) => writeTensorProto(tensor, ''));
      break;
    case 'graphs':
      proto.graphs = attribute.value.map((graph) => graphProto(graph, options));
      break;
  }
  return proto;
}
