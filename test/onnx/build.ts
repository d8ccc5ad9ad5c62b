/** Model files put together by hand, field by field, with parts that no exporter here writes. */
import { create, type MessageInitShape, toBinary, type UnknownField } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import {
  type AttributeProto,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  NodeProtoSchema,
  TensorProtoSchema,
  ValueInfoProtoSchema,
} from '../../src/files/onnx/generated/onnx_pb.ts';

type Init<T extends Parameters<typeof create>[0]> = MessageInitShape<T>;

/** A text field that the schema does not name. */
export function unknownText(no: number, text: string): UnknownField {
  return { no, wireType: WireType.LengthDelimited, data: new BinaryWriter().string(text).finish() };
}

/** An integer field that the schema does not name. */
export function unknownInteger(no: number, value: number): UnknownField {
  return { no, wireType: WireType.Varint, data: new BinaryWriter().uint32(value).finish() };
}

/** A message field that the schema does not name: `entries` are its text fields. */
export function unknownMessage(no: number, entries: Readonly<Record<number, string>>): UnknownField {
  const inner = new BinaryWriter();
  for (const [field, text] of Object.entries(entries)) inner.tag(Number(field), WireType.LengthDelimited).string(text);
  return { no, wireType: WireType.LengthDelimited, data: new BinaryWriter().bytes(inner.finish()).finish() };
}

/** Adds fields that the schema does not name to a message. */
export function withUnknown<T extends { $unknown?: UnknownField[] }>(message: T, ...fields: UnknownField[]): T {
  message.$unknown = [...(message.$unknown ?? []), ...fields];
  return message;
}

export const node = (init: Init<typeof NodeProtoSchema>) => create(NodeProtoSchema, init);
export const attribute = (init: Init<typeof AttributeProtoSchema>): AttributeProto =>
  create(AttributeProtoSchema, init);
export const tensor = (init: Init<typeof TensorProtoSchema>) => create(TensorProtoSchema, init);
export const graph = (init: Init<typeof GraphProtoSchema>): GraphProto => create(GraphProtoSchema, init);

/** A float32 value of this shape. */
export function value(name: string, dims: readonly (number | string)[] = [], elemType = 1) {
  const dim = dims.map((size) => ({
    value:
      typeof size === 'number'
        ? { case: 'dimValue' as const, value: BigInt(size) }
        : { case: 'dimParam' as const, value: size },
  }));
  return create(ValueInfoProtoSchema, { name, type: { tensorType: { elemType, shape: { dim } } } });
}

/** A model of IR 10, opset 21, around a graph. */
export function model(graphInit: Init<typeof GraphProtoSchema>, init: Init<typeof ModelProtoSchema> = {}): ModelProto {
  return create(ModelProtoSchema, {
    irVersion: 10n,
    opsetImport: [{ version: 21n }],
    ...init,
    graph: create(GraphProtoSchema, { name: 'g', ...graphInit }),
  });
}

export function bytesOfModel(proto: ModelProto): Uint8Array {
  return toBinary(ModelProtoSchema, proto);
}

/** A model with one initializer `w`, given as a message, that an Identity makes the output `y`. */
export function modelWithTensor(init: Init<typeof TensorProtoSchema>): Uint8Array {
  return bytesOfModel(
    model({
      node: [{ opType: 'Identity', input: ['w'], output: ['y'] }],
      output: [{ name: 'y' }],
      initializer: [{ name: 'w', ...init }],
    }),
  );
}

const float32 = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);

/** A model with everything that must travel: see the fields named along the way. */
export function richModel(): ModelProto {
  const branch = (name: string, weight: string) =>
    withUnknown(
      graph({
        name,
        initializer: [{ name: weight, dataType: 1, dims: [2n], floatData: [1, 2] }],
        node: [
          { opType: 'Add', input: ['x', weight], output: [`${name}_sum`] },
          // captures a value of the outer graph, made by a node
          { opType: 'Mul', input: [`${name}_sum`, 'doubled'], output: [`${name}_out`], name: `${name}/mul` },
        ],
        output: [value(`${name}_out`, [2])],
        valueInfo: [value(`${name}_sum`, [2])],
      }),
      unknownText(10, `doc_string of ${name}`),
    );
  const loopBody = graph({
    name: 'body',
    input: [value('i', [], 7), value('go', [], 9), value('carry', [2])],
    initializer: [{ name: 'step', dataType: 1, dims: [2n], rawData: float32(0.5, 0.25) }],
    node: [
      { opType: 'Identity', input: ['go'], output: ['go_on'] },
      { opType: 'Add', input: ['carry', 'step'], output: ['next'] },
      { opType: 'Identity', input: ['next'], output: ['scan'] },
    ],
    output: [value('go_on', [], 9), value('next', [2]), value('scan', [2])],
  });
  const proto = model(
    {
      node: [
        withUnknown(
          node({
            opType: 'Add',
            domain: 'ai.onnx',
            input: ['x', 'tied'],
            output: ['doubled'],
            name: 'first',
            attribute: [],
          }),
          unknownText(6, 'doc_string of a node'),
          unknownMessage(9, { 1: 'metadata', 2: 'of a node' }),
        ),
        { opType: 'Mul', input: ['x', 'tied'], output: ['second'] },
        node({
          opType: 'Constant',
          output: ['constant'],
          attribute: [
            withUnknown(
              attribute({
                name: 'value',
                type: 4,
                docString: 'doc_string of an attribute',
                t: withUnknown(
                  tensor({ name: 'inner', dataType: 22, dims: [3n], int32Data: [0x21, 0x0f] }),
                  unknownText(12, 'doc_string of a tensor'),
                ),
              }),
              unknownText(4000, 'a field of the future'),
            ),
          ],
        }),
        {
          opType: 'If',
          input: ['condition'],
          output: ['branched'],
          attribute: [
            { name: 'then_branch', type: 5, g: branch('yes', 'yes_weight') },
            { name: 'else_branch', type: 5, g: branch('no', 'no_weight') },
          ],
        },
        {
          opType: 'Loop',
          input: ['trips', '', 'second'],
          output: ['looped', 'scanned'],
          attribute: [{ name: 'body', type: 5, g: loopBody }],
        },
        // an unknown domain, every kind of attribute, omitted inputs and outputs, also trailing ones
        {
          opType: 'Strange',
          domain: 'com.example',
          input: ['', 'x', ''],
          output: ['', 'strange', ''],
          attribute: [
            { name: 'float', type: 1, f: -0.5 },
            { name: 'zero', type: 1, f: 0 },
            { name: 'int', type: 2, i: -(2n ** 63n) },
            { name: 'string', type: 3, s: Uint8Array.of(0xff, 0x00, 0x41) },
            { name: 'floats', type: 6, floats: [1.5, Number.POSITIVE_INFINITY] },
            { name: 'ints', type: 7, ints: [2n ** 63n - 1n, -1n] },
            { name: 'noInts', type: 7 },
            { name: 'strings', type: 8, strings: [Uint8Array.of(), Uint8Array.of(0x80)] },
            {
              name: 'tensors',
              type: 9,
              tensors: [
                withUnknown(
                  tensor({ name: 't0', dataType: 6, dims: [2n], int32Data: [-1, 7] }),
                  unknownText(12, 'doc'),
                ),
                { name: 't1', dataType: 8, dims: [2n], stringData: [Uint8Array.of(0x61), Uint8Array.of()] },
              ],
            },
            {
              name: 'graphs',
              type: 10,
              graphs: [
                graph({
                  name: 'only',
                  node: [{ opType: 'Identity', input: ['constant'], output: ['only_out'] }],
                  output: [{ name: 'only_out' }],
                }),
              ],
            },
            {
              name: 'sparse',
              type: 11,
              sparseTensor: {
                values: { name: 's', dataType: 1, dims: [1n], floatData: [3] },
                indices: { dataType: 7, dims: [1n], int64Data: [4n] },
              },
            },
            withUnknown(attribute({ name: 'type', type: 13 }), unknownMessage(14, { 6: 'denotation' })),
          ],
        },
        { opType: 'Twice', domain: 'local', input: ['x'], output: ['twice'] },
        { opType: 'Identity', input: ['sparse_weight'], output: ['dense'] },
      ],
      name: 'main',
      input: [
        withUnknown(
          value('x', ['batch', 2]),
          unknownText(3, 'doc_string of an input'),
          unknownMessage(4, { 1: 'k', 2: 'v' }),
        ),
        value('condition', [], 9),
        value('trips', [], 7),
        // an initializer that a caller may override, and an input that is also an output
        value('tied', [2]),
      ],
      output: [
        value('branched', [2]),
        value('looped'),
        value('scanned'),
        value('strange'),
        value('twice'),
        value('dense'),
        withUnknown(value('x', ['other', 2]), unknownText(3, 'x as an output')),
      ],
      initializer: [
        withUnknown(
          tensor({ name: 'tied', dataType: 1, dims: [2n], rawData: float32(1, 2) }),
          unknownText(12, 'doc_string of an initializer'),
          unknownMessage(16, { 1: 'key', 2: 'value' }),
        ),
        { name: 'unused', dataType: 21, dims: [5n], int32Data: [0x10, 0x32, 0x04] },
        { name: 'text', dataType: 8, dims: [1n, 2n], stringData: [Uint8Array.of(0xc3, 0x28), Uint8Array.of()] },
      ],
      sparseInitializer: [
        {
          values: { name: 'sparse_weight', dataType: 1, dims: [1n], floatData: [3] },
          indices: { dataType: 7, dims: [1n], int64Data: [1n] },
        },
      ],
      valueInfo: [
        value('doubled', ['batch', 2]),
        value('unused', [5], 21),
        value('x', ['again', 2]),
        value('branched', [2]),
        value('nobody', [1]),
        value('doubled', ['declared', 'twice']),
        withUnknown(value('second', ['batch', 2]), unknownText(3, 'doc_string in value_info')),
      ],
    },
    {
      producerName: 'hand',
      producerVersion: '1',
      opsetImport: [
        { domain: 'ai.onnx', version: 21n },
        { domain: 'com.example', version: 3n },
        { domain: 'local', version: 1n },
      ],
      metadataProps: [{ key: 'a', value: 'b' }],
      functions: [
        withUnknown(
          create(ModelProtoSchema, {
            functions: [
              {
                name: 'Twice',
                domain: 'local',
                opsetImport: [{ version: 21n }],
                node: [
                  {
                    opType: 'Add',
                    input: ['a', 'a'],
                    output: ['b'],
                    attribute: [{ name: 'alpha', refAttrName: 'alpha', type: 1 }],
                  },
                  {
                    opType: 'Constant',
                    output: ['c'],
                    attribute: [{ name: 'value', type: 4, t: { dataType: 1, dims: [1n], floatData: [9] } }],
                  },
                ],
              },
            ],
          }).functions[0],
          unknownText(4, 'a'),
          unknownText(5, 'b'),
          unknownText(6, 'alpha'),
          unknownText(8, 'doc_string of a function'),
        ),
      ],
      trainingInfo: [{ algorithm: graph({ name: 'train' }) }],
    },
  );
  withUnknown(proto.opsetImport[1], unknownText(9, 'a field of the future'));
  withUnknown(proto, unknownText(4, 'com.example'), unknownInteger(5, 7), unknownText(6, 'doc_string of the model'));
  withUnknown(
    proto.graph!,
    unknownText(10, 'doc_string of the graph'),
    unknownMessage(14, { 1: 'doubled' }),
    unknownMessage(16, { 1: 'k', 2: 'v' }),
  );
  return proto;
}
