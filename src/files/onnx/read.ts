/** ONNX bytes to a Model. Bytes are never trusted: every failure is a typed error that names the place. */
import { fromBinary } from '@bufbuild/protobuf';
import { HalftoneError, isHalftoneError, messageOf } from '../../base/errors.ts';
import type { Attribute } from '../../graph/attribute.ts';
import { Graph, Names } from '../../graph/graph.ts';
import { Model } from '../../graph/model.ts';
import { Value, type ValueType } from '../../graph/value.ts';
import { dtypeOfNumber } from '../../tensor/dtype.ts';
import {
  type AttributeProto,
  type GraphProto,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  type ValueInfoProto,
} from './generated/onnx_pb.ts';
import { maxMessageBytes, minIrVersion, opsetRange } from './limits.ts';
import { type ExternalData, readTensorProto } from './tensor-proto.ts';

export interface ReadOptions {
  /** Where tensors with external data get it; without it such tensors are refused. */
  readonly external?: ExternalData;
}

const decoder = new TextDecoder();

/**
 * Reads a serialized ModelProto. Tensors are views of `bytes`, which must not be changed afterwards.
 * @throws HalftoneError `invalid-file` for bytes that are no sound model, `unsupported` for versions out of range,
 *   `missing-data` for external data that cannot be had.
 */
export function readOnnx(bytes: Uint8Array, options: ReadOptions = {}): Model {
  if (bytes.byteLength > maxMessageBytes) {
    throw new HalftoneError(
      'invalid-file',
      `model: expected less than 2 GiB in one file, got ${bytes.byteLength} bytes; use external data`,
    );
  }
  try {
    return new Reader(options.external).model(decode(bytes));
  } catch (error) {
    if (isHalftoneError(error)) throw error;
    throw new HalftoneError(
      'invalid-file',
      `model: expected a sound ONNX graph, got one that cannot be read (${messageOf(error)})`,
      {
        cause: error,
      },
    );
  }
}

function decode(bytes: Uint8Array): ModelProto {
  try {
    return fromBinary(ModelProtoSchema, bytes);
  } catch (error) {
    throw new HalftoneError(
      'invalid-file',
      `model: expected an ONNX file, got ${bytes.byteLength} bytes that are truncated or no ONNX (${messageOf(error)})`,
      { cause: error, fields: { bytes: bytes.byteLength } },
    );
  }
}

type Scope = Map<string, Value>;

class Reader {
  readonly names = new Names();
  readonly external: ExternalData | undefined;

  constructor(external: ExternalData | undefined) {
    this.external = external;
  }

  model(proto: ModelProto): Model {
    if (!proto.graph) throw new HalftoneError('invalid-file', 'model: expected an ONNX graph, got a file without one');
    const opsets = new Map<string, number>();
    for (const entry of proto.opsetImport) {
      const domain = canonicalDomain(entry.domain);
      if (opsets.has(domain)) {
        throw new HalftoneError(
          'invalid-file',
          `model: expected one version of operator set "${domain || 'ai.onnx'}", got two`,
        );
      }
      opsets.set(domain, Number(entry.version));
    }
    const irVersion = Number(proto.irVersion);
    const opset = opsets.get('');
    if (irVersion < minIrVersion || opset === undefined) {
      throw new HalftoneError(
        'unsupported',
        `model: expected IR version ${minIrVersion} or later with an imported operator set, got IR version ${irVersion}` +
          `${opset === undefined ? ' without one' : ''}; ONNX Runtime refuses it too, export the model again`,
        { fields: { irVersion } },
      );
    }
    if (opset < opsetRange.min || opset > opsetRange.max) {
      throw new HalftoneError(
        'unsupported',
        `model: expected opset ${opsetRange.min} to ${opsetRange.max}, got ${opset}; ` +
          `${opset > opsetRange.max ? 'ONNX Runtime 1.30 does not load newer ones' : 'convert or export the model again'}`,
        { fields: { opset } },
      );
    }
    this.takeNames(proto.graph);
    const model = new Model(this.graph(proto.graph, []), irVersion, opsets);
    const { graph: _, opsetImport: __, ...carried } = proto;
    model.carried = carried;
    return model;
  }

  /** Reserves every name first, so that names made while reading or editing never shadow one. */
  takeNames(proto: GraphProto): void {
    for (const value of [...proto.input, ...proto.output]) this.names.take(value.name);
    for (const tensor of proto.initializer) this.names.take(tensor.name);
    for (const node of proto.node) {
      if (node.name) this.names.take(node.name);
      for (const name of node.output) this.names.take(name);
      for (const attribute of node.attribute) {
        for (const graph of attribute.g ? [attribute.g, ...attribute.graphs] : attribute.graphs) this.takeNames(graph);
      }
    }
  }

  graph(proto: GraphProto, outer: readonly Scope[]): Graph {
    const graph = new Graph(proto.name, this.names);
    const scope: Scope = new Map();
    const scopes = [scope, ...outer];

    for (const info of proto.input) {
      if (scope.has(info.name)) throw duplicate(graph, info.name);
      const value = new Value(graph, info.name, { type: valueType(info) });
      scope.set(info.name, value);
      graph.inputs.push(value);
    }
    for (const initializer of proto.initializer) {
      const tensor = readTensorProto(initializer, this.external);
      const declared = scope.get(initializer.name);
      if (declared?.tensor || !initializer.name) throw duplicate(graph, initializer.name);
      const value = declared ?? new Value(graph, initializer.name);
      value.tensor = tensor;
      const { rawData: _, floatData: __, int32Data: ___, int64Data: ____, doubleData: _____, ...shell } = initializer;
      if (shell.$unknown) value.carried = shell;
      scope.set(initializer.name, value);
      graph.initializers.add(value);
    }
    for (const sparse of proto.sparseInitializer) {
      const name = sparse.values?.name ?? '';
      if (!scope.has(name)) scope.set(name, new Value(graph, name));
    }
    this.nodes(proto, graph, scopes);

    for (const info of proto.output) {
      const value = find(scopes, info.name);
      if (!value) {
        throw new HalftoneError(
          'invalid-file',
          `graph "${graph.name}": expected something to produce output "${info.name}", got nothing`,
        );
      }
      value.type ??= valueType(info);
      graph.outputs.push(value);
    }
    for (const info of proto.valueInfo) {
      const value = scope.get(info.name);
      if (value) value.type ??= valueType(info);
    }
    const { node: _, initializer: __, input: ___, output: ____, valueInfo: _____, ...carried } = proto;
    graph.carried = carried;
    return graph;
  }

  /** Creates all nodes' outputs first: files are not always in order of execution. */
  nodes(proto: GraphProto, graph: Graph, scopes: readonly Scope[]): void {
    const scope = scopes[0];
    const made = proto.node.map((nodeProto) => {
      const node = graph.add({
        op: nodeProto.opType,
        domain: canonicalDomain(nodeProto.domain),
        name: nodeProto.name,
        inputs: [],
        outputs: [],
      });
      nodeProto.output.forEach((name, index) => {
        if (name === '') return;
        if (scope.has(name)) throw duplicate(graph, name);
        const value = new Value(graph, name);
        scope.set(name, value);
        node.setOutput(index, value);
      });
      return node;
    });
    proto.node.forEach((nodeProto, index) => {
      const node = made[index];
      node.setInputs(
        nodeProto.input.map((name) => {
          if (name === '') return undefined;
          const value = find(scopes, name);
          if (!value) {
            throw new HalftoneError(
              'invalid-file',
              `${node.label}: expected something to produce its input "${name}", got nothing`,
              {
                fields: { node: node.name, value: name },
              },
            );
          }
          return value;
        }),
      );
      for (const attribute of nodeProto.attribute) {
        node.attributes.set(attribute.name, this.attribute(attribute, scopes));
      }
      const { input: _, output: __, attribute: ___, ...carried } = nodeProto;
      node.carried = carried as Omit<NodeProto, 'input' | 'output' | 'attribute'>;
    });
    graph.sort();
  }

  attribute(proto: AttributeProto, scopes: readonly Scope[]): Attribute {
    const documentation = proto.docString ? { documentation: proto.docString } : {};
    const make = (attribute: Attribute): Attribute => ({ ...attribute, ...documentation });
    switch (attributeKinds[proto.type] ?? inferKind(proto)) {
      case 'float':
        return make({ type: 'float', value: proto.f });
      case 'int':
        return make({ type: 'int', value: proto.i });
      case 'string':
        return make({ type: 'string', value: proto.s });
      case 'tensor':
        if (!proto.t) break;
        return make({ type: 'tensor', value: readTensorProto(proto.t, this.external), name: proto.t.name });
      case 'graph':
        if (!proto.g) break;
        return make({ type: 'graph', value: this.graph(proto.g, scopes) });
      case 'floats':
        return make({ type: 'floats', value: proto.floats });
      case 'ints':
        return make({ type: 'ints', value: proto.ints });
      case 'strings':
        return make({ type: 'strings', value: proto.strings });
      case 'tensors':
        return make({ type: 'tensors', value: proto.tensors.map((tensor) => readTensorProto(tensor, this.external)) });
      case 'graphs':
        return make({ type: 'graphs', value: proto.graphs.map((graph) => this.graph(graph, scopes)) });
    }
    return { type: 'carried', value: proto };
  }
}

/** AttributeProto.AttributeType (onnx.proto). */
export const attributeKinds: Readonly<Record<number, Attribute['type']>> = {
  1: 'float',
  2: 'int',
  3: 'string',
  4: 'tensor',
  5: 'graph',
  6: 'floats',
  7: 'ints',
  8: 'strings',
  9: 'tensors',
  10: 'graphs',
};

/** Before IR version 2 the type was not stored. */
function inferKind(proto: AttributeProto): Attribute['type'] {
  if (proto.type !== 0) return 'carried';
  if (proto.t) return 'tensor';
  if (proto.g) return 'graph';
  if (proto.floats.length > 0) return 'floats';
  if (proto.ints.length > 0) return 'ints';
  if (proto.strings.length > 0) return 'strings';
  if (proto.s.byteLength > 0) return 'string';
  return proto.f !== 0 ? 'float' : 'int';
}

/** ONNX has two spellings of its own domain (onnx/docs/IR.md). */
function canonicalDomain(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}

function find(scopes: readonly Scope[], name: string): Value | undefined {
  for (const scope of scopes) {
    const value = scope.get(name);
    if (value) return value;
  }
  return undefined;
}

function duplicate(graph: Graph, name: string): HalftoneError {
  return new HalftoneError(
    'invalid-file',
    `graph "${graph.name}": expected each value to be defined once, got "${name}" again`,
    {
      fields: { value: name },
    },
  );
}

function valueType(info: ValueInfoProto): ValueType {
  const tensor = info.type?.tensorType;
  return {
    dtype: tensor ? dtypeOfNumber(tensor.elemType) : undefined,
    shape: tensor?.shape?.dim.map(({ value }) => {
      if (value.case === 'dimValue') return Number(value.value);
      return value.case === 'dimParam' ? value.value : undefined;
    }),
    carried: info,
  };
}

/** Metadata of the model file, for reports. */
export function producerOf(model: Model): string {
  const carried = model.carried as Partial<ModelProto> | undefined;
  return [carried?.producerName, carried?.producerVersion].filter(Boolean).join(' ');
}

/** Text of a byte string attribute. */
export function textOf(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}
