/** Files that must be refused: each with a typed error that says what is wrong, never a crash or a half-read model. */

import { existsSync, readFileSync } from 'node:fs';
import { create, toBinary } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { describe, expect, it } from 'vitest';
import { asset, haveAssets } from '../../../test/onnx/assets.ts';
import { bytesOfModel, graph, model, richModel } from '../../../test/onnx/build.ts';
import { type ErrorCode, HalftoneError } from '../../base/errors.ts';
import { GraphProtoSchema, type ModelProto } from './generated/onnx_pb.ts';
import { readModel } from './node.ts';
import { readOnnx } from './read.ts';

function refusal(bytes: Uint8Array): HalftoneError {
  try {
    readOnnx(bytes);
  } catch (error) {
    if (error instanceof HalftoneError) return error;
    throw error;
  }
  throw new Error('expected a refusal, got a model');
}

function expectRefusal(proto: ModelProto | Uint8Array, code: ErrorCode, text: string): void {
  const error = refusal(proto instanceof Uint8Array ? proto : bytesOfModel(proto));
  expect(error.message).toContain(text);
  expect(error.code).toBe(code);
}

const identity = (input: string, output: string, name = '') => ({
  opType: 'Identity',
  input: [input],
  output: [output],
  name,
});
const [x, y] = [{ name: 'x' }, { name: 'y' }];
const sound = () => model({ input: [x], node: [identity('x', 'y')], output: [y] });

describe('versions', () => {
  it.each([
    [27n, '7 to 26, got 27'],
    [6n, 'convert or export'],
    [0n, 'got 0'],
    [-1n, 'got -1'],
    [2n ** 62n, 'does not load newer ones'],
  ])('opset %s', (version, text) => {
    const proto = sound();
    proto.opsetImport[0].version = version;
    expectRefusal(proto, 'unsupported', text);
  });

  it('IR versions 1 and 2', () => {
    for (const irVersion of [1n, 2n])
      expectRefusal({ ...sound(), irVersion }, 'unsupported', `IR version ${irVersion}`);
  });

  it('no operator set of ONNX', () => {
    const proto = sound();
    proto.opsetImport[0].domain = 'com.example';
    expectRefusal(proto, 'unsupported', 'without one');
  });

  it('one operator set in two versions', () => {
    const proto = sound();
    proto.opsetImport.push({ ...proto.opsetImport[0], domain: 'ai.onnx', version: 13n });
    expectRefusal(proto, 'invalid-file', 'got 21 and 13');
  });

  it.skipIf(!haveAssets)('the real model of IR 1 without an operator set', () => {
    const path = asset('models/ir1-no-opset.onnx');
    expect(() => readModel(path)).toThrow(
      `${path}: model: expected IR version 3 or later with an imported operator set`,
    );
  });
});

describe('bytes', () => {
  it('nothing, noise and text', () => {
    expectRefusal(new Uint8Array(0), 'invalid-file', 'without one');
    expectRefusal(new TextEncoder().encode('<!DOCTYPE html><html></html>'), 'invalid-file', 'no ONNX');
    expectRefusal(new Uint8Array(1000).fill(0xff), 'invalid-file', 'no ONNX');
  });

  it('a model cut off anywhere', () => {
    // The graph is the last field of this message, so that every cut hits it.
    const whole = bytesOfModel(sound());
    for (let length = 0; length < whole.length; length++) {
      const error = refusal(whole.subarray(0, length));
      expect(['invalid-file', 'unsupported']).toContain(error.code);
    }
  });

  it('graphs nested 20,000 deep, as attributes and as groups', () => {
    const nested = (wrap: (inner: Uint8Array) => Uint8Array) => {
      let bytes = new Uint8Array(0);
      for (let i = 0; i < 400; i++) bytes = Uint8Array.from(wrap(bytes));
      return bytes;
    };
    const field = (no: number, inner: Uint8Array) =>
      new BinaryWriter().tag(no, WireType.LengthDelimited).bytes(inner).finish();
    const deep400 = nested((inner) => field(1, field(5, field(6, inner))));
    expectRefusal(withGraph(deep400), 'invalid-file', 'recursion');

    // The same 20,000 levels deep, lengths computed inside out and the bytes put together once.
    const parts: Uint8Array[] = [];
    let length = 0;
    for (let i = 0; i < 20_000; i++) {
      for (const no of [6, 5, 1]) {
        const head = new BinaryWriter().tag(no, WireType.LengthDelimited).uint32(length).finish();
        parts.push(head);
        length += head.length;
      }
    }
    expectRefusal(withGraph(Buffer.concat(parts.reverse())), 'invalid-file', 'recursion');
    const groups = new Uint8Array(20_000).fill((200 << 3) & 0x7f);
    for (let i = 0; i < groups.length; i += 2) [groups[i], groups[i + 1]] = [0xc3, 0x0c];
    expectRefusal(withGraph(groups), 'invalid-file', 'recursion');
  });

  it('thirty levels of graphs are still read', () => {
    let inner = graph({ name: 'innermost', node: [identity('x', 'o0')], output: [{ name: 'o0' }] });
    for (let i = 1; i < 30; i++) {
      inner = graph({
        name: `level${i}`,
        node: [
          { opType: 'If', input: ['x'], output: [`o${i}`], attribute: [{ name: 'then_branch', type: 5, g: inner }] },
        ],
        output: [{ name: `o${i}` }],
      });
    }
    const read = readOnnx(bytesOfModel(model({ node: inner.node, output: inner.output, input: [x] })));
    expect([...read.graphs()]).toHaveLength(30);
  });
});

function withGraph(graphBytes: Uint8Array): Uint8Array {
  const head = bytesOfModel({ ...sound(), graph: undefined } as ModelProto);
  const body = new BinaryWriter().tag(7, WireType.LengthDelimited).bytes(graphBytes).finish();
  return Buffer.concat([head, body]);
}

describe('graphs', () => {
  const refuse = (init: Parameters<typeof model>[0], text: string, code: ErrorCode = 'invalid-file') =>
    expectRefusal(model(init), code, text);
  const w = { name: 'w', dataType: 2, dims: [1n], rawData: Uint8Array.of(1) };

  it('two definitions of one name', () => {
    refuse({ input: [x, x], output: [x] }, '"x" again');
    refuse({ initializer: [w, w], output: [{ name: 'w' }] }, '"w" again');
    refuse({ input: [x], node: [identity('x', 'y'), identity('x', 'y')], output: [y] }, '"y" again');
    refuse({ input: [x], node: [identity('x', 'x')], output: [x] }, '"x" again');
    refuse({ initializer: [w], node: [identity('w', 'w')], output: [{ name: 'w' }] }, '"w" again');
    refuse({ input: [x], node: [{ opType: 'Split', input: ['x'], output: ['y', 'y'] }], output: [y] }, '"y" again');
    const sparse = { values: { ...w }, indices: { dataType: 7, dims: [1n], int64Data: [0n] } };
    refuse({ initializer: [w], sparseInitializer: [sparse], output: [{ name: 'w' }] }, '"w" again');
    refuse({ sparseInitializer: [sparse, sparse], output: [{ name: 'w' }] }, '"w" again');
  });

  it('definitions without a name', () => {
    refuse({ input: [{ name: '' }] }, 'without a name');
    refuse({ initializer: [{ ...w, name: '' }] }, 'without a name');
    refuse({ sparseInitializer: [{ values: { ...w, name: '' } }] }, 'without a name');
    refuse({ input: [x], node: [{ opType: '', input: ['x'], output: ['y'] }], output: [y] }, 'name of an operator');
  });

  it('readers without a producer', () => {
    refuse(
      { node: [identity('nowhere', 'y')], output: [y] },
      'Identity "y": expected something to produce its input "nowhere"',
    );
    refuse({ input: [x], output: [y] }, 'expected something to produce output "y"');
    refuse({ input: [x], output: [{ name: '' }] }, 'expected something to produce output ""');
  });

  it('a reader of a value that only a sibling graph makes', () => {
    const branch = (name: string, output: string) =>
      graph({ name, node: [identity('x', output)], output: [{ name: output }] });
    const other = graph({ name: 'else', node: [identity('inside', 'e')], output: [{ name: 'e' }] });
    const attribute = [
      { name: 'then_branch', type: 5, g: branch('then', 'inside') },
      { name: 'else_branch', type: 5, g: other },
    ];
    refuse(
      { input: [x], node: [{ opType: 'If', input: ['x'], output: ['y'], attribute }], output: [y] },
      'input "inside"',
    );
  });

  it('a subgraph that returns a value of the graph around it', () => {
    const attribute = [{ name: 'then_branch', type: 5, g: graph({ name: 'then', output: [x] }) }];
    refuse(
      { input: [x], node: [{ opType: 'If', input: ['x'], output: ['y'], attribute }], output: [y] },
      'Identity',
      'unsupported',
    );
  });

  it('cycles of one node, of two, and through a subgraph', () => {
    refuse({ node: [identity('y', 'y', 'loop')], output: [y] }, 'Identity "loop": expected a graph without cycles');
    refuse({ node: [identity('a', 'y'), identity('y', 'a')], output: [y] }, 'cycle');
    const attribute = [
      { name: 'then_branch', type: 5, g: graph({ name: 'then', node: [identity('y', 'i')], output: [{ name: 'i' }] }) },
    ];
    refuse({ input: [x], node: [{ opType: 'If', input: ['x'], output: ['y'], attribute }], output: [y] }, 'cycle');
  });

  it('one attribute twice', () => {
    const attribute = [
      { name: 'axis', type: 2, i: 1n },
      { name: 'axis', type: 2, i: 2n },
    ];
    refuse(
      { input: [x], node: [{ opType: 'Softmax', input: ['x'], output: ['y'], attribute }], output: [y] },
      '"axis" again',
    );
  });

  it('nothing of the rich model is refused', () => {
    expect(readOnnx(bytesOfModel(richModel())).graph.nodes).toHaveLength(8);
  });
});

describe('large numbers of things', () => {
  it('reads 50,000 inputs of one node and as many outputs in a moment', () => {
    const names = Array.from({ length: 50_000 }, (_, i) => `o${i}`);
    const proto = model({ input: [x] });
    proto.graph = create(GraphProtoSchema, {
      name: 'wide',
      input: [x],
      node: [
        { opType: 'Split', input: ['x'], output: names },
        { opType: 'Concat', input: names, output: ['y'] },
      ],
      output: [y, ...names.map((name) => ({ name }))],
    });
    const started = process.cpuUsage();
    expect(readOnnx(bytesOfModel(proto)).graph.outputs).toHaveLength(50_001);
    expect(process.cpuUsage(started).user / 1e6).toBeLessThan(5);
  });

  it('a chain of 100,000 nodes, listed backwards', () => {
    const count = 100_000;
    const nodes = Array.from({ length: count }, (_, i) => identity(i === 0 ? 'x' : `v${i - 1}`, `v${i}`)).reverse();
    const read = readOnnx(bytesOfModel(model({ input: [x], node: nodes, output: [{ name: `v${count - 1}` }] })));
    expect(read.graph.nodes[0].output().name).toBe('v0');
  });
});

it('a missing file is missing data', () => {
  expect(existsSync('/nonexistent.onnx')).toBe(false);
  expect(() => readModel('/nonexistent.onnx')).toThrow('/nonexistent.onnx: expected a readable ONNX file');
});

it('a tensor message in place of a model', () => {
  const bytes = toBinary(GraphProtoSchema, create(GraphProtoSchema, { name: 'only a graph' }));
  expectRefusal(bytes, 'invalid-file', 'without one');
  if (haveAssets) {
    const input = readFileSync(asset('oracles/onnx-node/quantizelinear/input_0.pb'));
    expect(refusal(input).code).toBe('invalid-file');
  }
});
