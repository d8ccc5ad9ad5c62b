/** ONNX's own backend node cases for quantization and low-bit casts, bit by bit. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromBinary } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { type AttributeProto, ModelProtoSchema, TensorProtoSchema } from '../src/files/onnx/generated/onnx_pb.ts';
import { readTensorProto } from '../src/files/onnx/tensor-proto.ts';
import type { Tensor } from '../src/tensor/tensor.ts';
import { type Attributes, dynamicQuantizeLinear, numbersOf, operators } from './reference-operators.ts';

const folder = join(import.meta.dirname, '../../shared/assets/oracles/onnx-node');
const available = existsSync(folder);
if (!available) console.log(`skipped: ONNX backend node cases, ${folder} is absent`);

/** AttributeProto.AttributeType (onnx.proto). */
const attributeTypes = { float: 1, int: 2, string: 3, ints: 7 } as const;

function attributeValue(attribute: AttributeProto): number | string | number[] {
  switch (attribute.type as number) {
    case attributeTypes.float:
      return attribute.f;
    case attributeTypes.int:
      return Number(attribute.i);
    case attributeTypes.string:
      return new TextDecoder().decode(attribute.s);
    case attributeTypes.ints:
      return attribute.ints.map(Number);
    default:
      throw new Error(`attribute ${attribute.name} has type ${attribute.type}`);
  }
}

const tensorIn = (path: string) => readTensorProto(fromBinary(TensorProtoSchema, readFileSync(path)));

function tensorsIn(path: string, kind: 'input' | 'output'): Tensor[] {
  const count = readdirSync(path).filter((name) => name.startsWith(`${kind}_`)).length;
  return Array.from({ length: count }, (_, i) => tensorIn(join(path, `${kind}_${i}.pb`)));
}

/** Bit patterns, except that any NaN is as good as another. */
function comparable(tensor: Tensor): unknown {
  return { dtype: tensor.dtype, shape: tensor.shape, numbers: numbersOf(tensor) };
}

describe.skipIf(!available)('the ONNX backend node cases', () => {
  const names = available ? readdirSync(folder).sort() : ['none'];

  it('are all there', () => expect(names).toHaveLength(100));

  it.each(names)('%s', (name) => {
    const path = join(folder, name);
    const graph = fromBinary(ModelProtoSchema, readFileSync(join(path, 'model.onnx'))).graph!;
    expect(graph.node).toHaveLength(1);
    const [node] = graph.node;
    const given = new Map(graph.input.map((value, i) => [value.name, i]));
    const files = tensorsIn(path, 'input');
    const inputs = node.input.map((input) => (input === '' ? undefined : files[given.get(input)!]));
    const attributes: Attributes = Object.fromEntries(node.attribute.map((one) => [one.name, attributeValue(one)]));
    const expected = tensorsIn(path, 'output');
    const found =
      node.opType === 'DynamicQuantizeLinear'
        ? dynamicQuantizeLinear(inputs[0]!)
        : [operators[node.opType](inputs, attributes)];
    expect(found.map(comparable)).toEqual(expected.map(comparable));
  });
});
