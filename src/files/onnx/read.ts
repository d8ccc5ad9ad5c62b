/** ONNX bytes to a Model. Bytes are never trusted: every failure is a typed error that names the place. */
import { fromBinary } from '@bufbuild/protobuf';
import { HalftoneError, isHalftoneError, messageOf } from '../../base/errors.ts';
import type { Attribute } from '../../graph/attribute.ts';
import { Graph, Names } from '../../graph/graph.ts';
import { Model } from '../../graph/model.ts';
import { Value, type ValueType } from '../../graph/value.ts';
import { dtypeOfNumber } from '../../tensor/dtype.ts';
import {
  type AttributeCarried,
  type GraphCarried,
  inlineExternalData,
  type ModelCarried,
  type NodeCarried,
  type TypeCarried,
  type ValueCarried,
} from './carried.ts';
import {
  type AttributeProto,
  type GraphProto,
  type ModelProto,
  ModelProtoSchema,
  type TensorProto,
  type TypeProto,
  type ValueInfoProto,
} from './generated/onnx_pb.ts';
import { maxMessageBytes, minIrVersion, opsetRange } from './limits.ts';
import { type ExternalData, readTensorProto, shellOf } from './tensor-proto.ts';

export interface ReadOptions {
  /** Where tensors with external data get it; without it such tensors are refused. */
  readonly external?: ExternalData;
}

/**
 * Reads a serialized ModelProto. Tensors are views of `bytes`, which must not be changed afterwards.
 * @throws HalftoneError `invalid-file` for bytes that are no sound model, `unsupported` for versions out of range,
 *   `missing-data` for external data that cannot be had.
 */
export function readOnnx(bytes: Uint8Array, options: ReadOptions = {}): Model {
  refuseTooLarge(bytes.byteLength);
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

/** @throws HalftoneError `invalid-file` for more bytes than a protobuf message may have. */
export function refuseTooLarge(byteLength: number): void {
  if (byteLength <= maxMessageBytes) return;
  throw new HalftoneError(
    'invalid-file',
    `model: expected less than 2 GiB in one file, got ${byteLength} bytes; use external data`,
  );
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
      const version = Number(entry.version);
      const known = opsets.get(domain);
      if (known !== undefined && known !== version) {
        throw new HalftoneError(
          'invalid-file',
          `model: expected one version of operator set "${domain || 'ai.onnx'}", got ${known} and ${version}`,
        );
      }
      opsets.set(domain, version);
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
    inlineExternalData(proto, this.external);
    this.takeNames(proto.graph);
    const model = new Model(this.graph(proto.graph, []), irVersion, opsets);
    const { graph: _, $typeName: __, ...carried } = proto;
    model.carried = carried satisfies ModelCarried;
    return model;
  }

  /** Reserves every name first, so that names made while reading or editing never shadow one. */
  takeNames(proto: GraphProto): void {
    for (const value of [proto.input, proto.output, proto.valueInfo].flat()) this.names.take(value.name);
    for (const tensor of proto.initializer) this.names.take(tensor.name);
    for (const sparse of proto.sparseInitializer) this.names.take(sparse.values?.name ?? '');
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
    const carry = (value: Value, more: ValueCarried) => {
      value.carried = { ...(value.carried as ValueCarried | undefined), ...more };
    };

    for (const info of proto.input) {
      if (scope.has(info.name) || !info.name) throw duplicate(graph, info.name);
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
      if (initializer.$unknown) carry(value, { unknown: initializer.$unknown });
      scope.set(initializer.name, value);
      graph.initializers.add(value);
    }
    for (const sparse of proto.sparseInitializer) {
      const name = sparse.values?.name ?? '';
      const declared = scope.get(name);
      if (!name || declared?.tensor || (declared && graph.carriedValues.has(declared))) throw duplicate(graph, name);
      const value = declared ?? new Value(graph, name);
      scope.set(name, value);
      graph.carriedValues.add(value);
    }
    this.nodes(proto, graph, scopes);

    const listed = new Set(graph.inputs);
    for (const info of proto.output) {
      const value = scope.get(info.name);
      if (!value) {
        if (find(outer, info.name)) {
          throw new HalftoneError(
            'unsupported',
            `graph "${graph.name}": expected output "${info.name}" to be made in it, got a value of the graph around it; ` +
              'put an Identity between them, as ONNX Runtime asks for too',
            { fields: { value: info.name } },
          );
        }
        throw new HalftoneError(
          'invalid-file',
          `graph "${graph.name}": expected something to produce output "${info.name}", got nothing`,
          { fields: { value: info.name } },
        );
      }
      if (listed.has(value)) carry(value, { output: info });
      else value.type = valueType(info);
      listed.add(value);
      graph.outputs.push(value);
    }
    const declarations: ValueInfoProto[] = [];
    const declared = new Set<Value>();
    for (const info of proto.valueInfo) {
      const value = scope.get(info.name);
      if (!value || declared.has(value)) declarations.push(info);
      else if (listed.has(value)) carry(value, { declaration: info });
      else value.type = valueType(info);
      if (value) declared.add(value);
    }
    const carried: GraphCarried = { unknown: proto.$unknown, sparse: proto.sparseInitializer, declarations };
    graph.carried = carried;
    return graph;
  }

  /** Creates all nodes' outputs first: files are not always in order of execution. */
  nodes(proto: GraphProto, graph: Graph, scopes: readonly Scope[]): void {
    const scope = scopes[0];
    const made = proto.node.map((nodeProto) => {
      if (!nodeProto.opType) {
        throw new HalftoneError(
          'invalid-file',
          `node "${nodeProto.name || nodeProto.output[0] || '?'}": expected the name of an operator, got none`,
        );
      }
      const node = graph.add({
        op: nodeProto.opType,
        domain: canonicalDomain(nodeProto.domain),
        name: nodeProto.name,
        inputs: [],
        outputs: [],
      });
      nodeProto.output.forEach((name, index) => {
        if (name !== '' && scope.has(name)) throw duplicate(graph, name);
        const value = name === '' ? undefined : new Value(graph, name);
        if (value) scope.set(name, value);
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
        if (node.attributes.has(attribute.name)) {
          throw new HalftoneError(
            'invalid-file',
            `${node.label}: expected each attribute once, got "${attribute.name}" again`,
            { fields: { node: node.name } },
          );
        }
        node.set(attribute.name, this.attribute(attribute, scopes));
      }
      const carried: NodeCarried = { unknown: nodeProto.$unknown };
      node.carried = carried;
    });
    graph.sort();
  }

  attribute(proto: AttributeProto, scopes: readonly Scope[]): Attribute {
    const tensors = proto.t ? [proto.t, ...proto.tensors] : proto.tensors;
    const carried: AttributeCarried = { unknown: proto.$unknown, tensors: tensors.map(shellOf) };
    const make = (attribute: Attribute): Attribute => ({
      ...attribute,
      ...(proto.docString ? { documentation: proto.docString } : {}),
      ...(carried.unknown || tensors.length > 0 ? { carried } : {}),
    });
    const tensor = (tensorProto: TensorProto) => readTensorProto(tensorProto, this.external);
    const kind = proto.refAttrName ? 'carried' : (attributeKinds[proto.type] ?? inferKind(proto));
    switch (kind) {
      case 'float':
        return make({ type: 'float', value: proto.f });
      case 'int':
        return make({ type: 'int', value: proto.i });
      case 'string':
        return make({ type: 'string', value: proto.s });
      case 'tensor':
        if (!proto.t) break;
        return make({ type: 'tensor', value: tensor(proto.t), name: proto.t.name });
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
        return make({ type: 'tensors', value: proto.tensors.map(tensor) });
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

/** Some writers leave the type out; then the field that is set tells it. */
function inferKind(proto: AttributeProto): Attribute['type'] {
  if (proto.type !== 0) return 'carried';
  if (proto.t) return 'tensor';
  if (proto.g) return 'graph';
  if (proto.floats.length > 0) return 'floats';
  if (proto.ints.length > 0) return 'ints';
  if (proto.strings.length > 0) return 'strings';
  if (proto.tensors.length > 0) return 'tensors';
  if (proto.graphs.length > 0) return 'graphs';
  if (Object.hasOwn(proto, 's')) return 'string';
  if (Object.hasOwn(proto, 'f')) return 'float';
  return Object.hasOwn(proto, 'i') ? 'int' : 'carried';
}

/** ONNX has two spellings of its own domain (onnx/docs/IR.md). */
export function canonicalDomain(domain: string): string {
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
    `graph "${graph.name}": expected each value to have a name and be defined once, got ${name ? `"${name}" again` : 'one without a name'}`,
    {
      fields: { value: name },
    },
  );
}

function valueType(info: ValueInfoProto): ValueType {
  const carried: TypeCarried = { type: info.type, unknown: info.$unknown };
  return { ...plainType(info.type), carried };
}

/** Element type and shape as far as a type message states them; a negative dimension says unknown. */
export function plainType(type: TypeProto | undefined): Omit<ValueType, 'carried'> {
  const tensor = type?.tensorType;
  return {
    dtype: tensor ? dtypeOfNumber(tensor.elemType) : undefined,
    shape: tensor?.shape?.dim.map(({ value }) => {
      if (value.case === 'dimValue') return value.value < 0n ? undefined : Number(value.value);
      return value.case === 'dimParam' && value.value !== '' ? value.value : undefined;
    }),
  };
}

/** Metadata of the model file, for reports. */
export function producerOf(model: Model): string {
  const carried = model.carried as Partial<ModelCarried> | undefined;
  return [carried?.producerName, carried?.producerVersion].filter(Boolean).join(' ');
}
