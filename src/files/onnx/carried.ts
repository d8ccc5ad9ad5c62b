/** What the reader hands to the writer through the graph's `carried` fields: the parts of a file that halftone does not read. */
import type { UnknownField } from '@bufbuild/protobuf';
import type {
  AttributeProto,
  GraphProto,
  ModelProto,
  NodeProto,
  SparseTensorProto,
  TensorProto,
  TypeProto,
  ValueInfoProto,
} from './generated/onnx_pb.ts';
import { type ExternalData, readTensorProto } from './tensor-proto.ts';

/** Fields of a message that the schema does not name: documentation, metadata, whatever a newer ONNX adds. */
export type UnknownFields = UnknownField[] | undefined;

/** `Model.carried`: the whole message without the graph. */
export type ModelCarried = Omit<ModelProto, 'graph' | '$typeName' | '$unknown'> & { readonly $unknown?: UnknownFields };

/** `Graph.carried`. */
export interface GraphCarried {
  readonly unknown: UnknownFields;
  readonly sparse: readonly SparseTensorProto[];
  /** Declarations of names that nothing defines, and second declarations of one name. */
  readonly declarations: readonly ValueInfoProto[];
}

/** `Node.carried`. */
export interface NodeCarried {
  readonly unknown: UnknownFields;
}

/** `Value.carried`. */
export interface ValueCarried {
  /** Of the initializer's message. */
  readonly unknown?: UnknownFields;
  /** The declaration among the outputs, for a value that is also an input or listed as an output twice. */
  readonly output?: ValueInfoProto;
  /** The declaration in `value_info`, for a value that is also declared as an input or output. */
  readonly declaration?: ValueInfoProto;
}

/** `ValueType.carried`. */
export interface TypeCarried {
  readonly type: TypeProto | undefined;
  readonly unknown: UnknownFields;
}

/** What a tensor's message holds besides type, shape and data. */
export interface TensorShell {
  readonly name: string;
  readonly unknown: UnknownFields;
}

/** `Attribute.carried`. */
export interface AttributeCarried {
  readonly unknown: UnknownFields;
  /** One for each tensor of the attribute. */
  readonly tensors: readonly TensorShell[];
}

/**
 * Loads external data into tensors that only travel through (functions, sparse tensors, training graphs): the file that
 * is written may lie in another folder.
 * @throws HalftoneError as `readTensorProto`.
 */
export function inlineExternalData(proto: ModelProto, external: ExternalData | undefined): void {
  const inline = (tensor: TensorProto | undefined) => {
    if (tensor?.dataLocation !== 1) return;
    tensor.rawData = readTensorProto(tensor, external).bytes;
    tensor.externalData = [];
    tensor.dataLocation = 0;
  };
  const sparse = (tensor: SparseTensorProto | undefined) => {
    inline(tensor?.values);
    inline(tensor?.indices);
  };
  const attribute = (attributeProto: AttributeProto, opaque: boolean) => {
    sparse(attributeProto.sparseTensor);
    for (const tensor of attributeProto.sparseTensors) sparse(tensor);
    if (attributeProto.g) graph(attributeProto.g, opaque);
    for (const inner of attributeProto.graphs) graph(inner, opaque);
    if (!opaque) return;
    inline(attributeProto.t);
    for (const tensor of attributeProto.tensors) inline(tensor);
  };
  const nodes = (list: readonly NodeProto[], opaque: boolean) => {
    for (const node of list) for (const attributeProto of node.attribute) attribute(attributeProto, opaque);
  };
  const graph = (graphProto: GraphProto, opaque: boolean) => {
    nodes(graphProto.node, opaque);
    for (const tensor of graphProto.sparseInitializer) sparse(tensor);
    if (opaque) for (const tensor of graphProto.initializer) inline(tensor);
  };
  if (proto.graph) graph(proto.graph, false);
  for (const local of proto.functions) nodes(local.node, true);
  for (const training of proto.trainingInfo) {
    if (training.initialization) graph(training.initialization, true);
    if (training.algorithm) graph(training.algorithm, true);
  }
}
