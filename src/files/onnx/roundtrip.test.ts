/** Reading and writing keeps everything: real models, oracle cases, and a model built by hand with what those lack. */
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { asset, assetModels, haveAssets } from '../../../test/onnx/assets.ts';
import { type attribute, bytesOfModel, model, richModel } from '../../../test/onnx/build.ts';
import { decoded, normalForm } from '../../../test/onnx/normal-form.ts';
import { checkModel } from '../../graph/check.ts';
import { opsetRange } from './limits.ts';
import { openExternalData } from './node.ts';
import { readOnnx } from './read.ts';
import { writeOnnx } from './write.ts';

const refused = ['models/ir1-no-opset.onnx'];
const paths = assetModels().filter((path) => !refused.includes(path));

describe.skipIf(paths.length === 0)('models on disk', () => {
  it.each(paths)('%s', (path) => {
    const folder = dirname(asset(path));
    let bytes: Uint8Array = readFileSync(asset(path));
    const proto = decoded(bytes);
    const opset = Number(proto.opsetImport.find(({ domain }) => domain === '' || domain === 'ai.onnx')?.version);
    if (opset > opsetRange.max) {
      // the oracle cases of the newest ONNX: refused as they are, and otherwise as good as any
      expect(() => readOnnx(bytes)).toThrow(`expected opset 7 to 26, got ${opset}`);
      for (const entry of proto.opsetImport) entry.version = BigInt(opsetRange.max);
      bytes = bytesOfModel(proto);
    }
    const external = openExternalData(folder);
    try {
      const read = readOnnx(bytes, { external });
      checkModel(read);
      const written = writeOnnx(read);
      expect(normalForm(written)).toEqual(normalForm(bytes, folder));
      expect(Buffer.compare(writeOnnx(readOnnx(written)), written)).toBe(0);
    } finally {
      external.close();
    }
  });
});

describe('a model with everything', () => {
  const bytes = bytesOfModel(richModel());
  const read = readOnnx(bytes);
  const written = writeOnnx(read);

  it('is whole after rewriting', () => {
    checkModel(read);
    expect(normalForm(written)).toEqual(normalForm(bytes));
  });

  it('has the same bytes when rewritten again', () => {
    expect(Buffer.compare(writeOnnx(readOnnx(written)), written)).toBe(0);
    expect(Buffer.compare(writeOnnx(read), written)).toBe(0);
  });

  it('keeps one tensor for an initializer with several readers', () => {
    const tied = [...read.graph.initializers].find((value) => value.name === 'tied');
    expect([...(tied?.users ?? [])].map((node) => node.op)).toEqual(['Add', 'Mul']);
    expect(decoded(written).graph?.initializer.filter(({ name }) => name === 'tied')).toHaveLength(1);
  });

  it('connects subgraphs to the values around them', () => {
    const doubled = read.graph.nodes.find((node) => node.name === 'first')?.output();
    expect([...(doubled?.users ?? [])].map((node) => node.name).sort()).toEqual(['no/mul', 'yes/mul']);
    const weights = [...read.graphs()].slice(1).map((graph) => [...graph.initializers].map((value) => value.name));
    expect(weights).toEqual([['yes_weight'], ['no_weight'], ['step'], []]);
  });

  it('writes the type that an edit gave a value, not the one it was read with', () => {
    const edited = readOnnx(bytes);
    const [x] = edited.graph.inputs;
    x.type = { ...x.type, dtype: 'float16', shape: [1, undefined] };
    const again = readOnnx(writeOnnx(edited)).graph.inputs[0];
    expect([again.type?.dtype, again.type?.shape]).toEqual(['float16', [1, undefined]]);
  });

  it('writes new names wherever a renamed value is declared', () => {
    const edited = readOnnx(bytes);
    const { graph } = edited;
    const branched = graph.outputs[0];
    const identity = graph.add({ op: 'Identity', inputs: [branched], outputs: ['renamed'] });
    graph.redirectOutput(0, identity.output());
    checkModel(edited);
    const proto = decoded(writeOnnx(edited)).graph!;
    expect(proto.output[0].name).toBe('branched');
    expect(proto.node.find((node) => node.opType === 'If')?.output).toEqual(['branched_1']);
    expect(readOnnx(writeOnnx(edited)).graph.outputs[0].producer?.op).toBe('Identity');
  });
});

describe('attributes whose type is left out', () => {
  const kinds: [string, Parameters<typeof attribute>[0]][] = [
    ['int', { i: 0n }],
    ['float', { f: 0 }],
    ['string', { s: new Uint8Array(0) }],
    ['tensor', { t: { dataType: 2, dims: [0n] } }],
    ['graph', { g: { name: 'inner' } }],
    ['ints', { ints: [1n] }],
    ['floats', { floats: [1] }],
    ['strings', { strings: [new Uint8Array(0)] }],
    ['tensors', { tensors: [{ dataType: 2, dims: [0n] }] }],
    ['graphs', { graphs: [{ name: 'inner' }] }],
    ['carried', {}],
    ['carried', { type: 2, refAttrName: 'outer' }],
  ];
  it.each(kinds)('are told by the field that is set: %s', (kind, init) => {
    const node = {
      opType: 'Op',
      domain: 'com.example',
      input: ['x'],
      output: ['y'],
      attribute: [{ name: 'a', ...init }],
    };
    const bytes = bytesOfModel(model({ input: [{ name: 'x' }], node: [node], output: [{ name: 'y' }] }));
    expect(readOnnx(bytes).graph.nodes[0].attributes.get('a')?.type).toBe(kind);
    const written = decoded(writeOnnx(readOnnx(bytes))).graph?.node[0].attribute[0];
    expect(written).toMatchObject(kind === 'carried' ? { name: 'a', ...init } : { name: 'a' });
    expect(readOnnx(writeOnnx(readOnnx(bytes))).graph.nodes[0].attributes.get('a')?.type).toBe(kind);
  });
});

describe('names', () => {
  it('of everything in the file are taken, so that no edit shadows one', () => {
    const { graph } = readOnnx(bytesOfModel(richModel()));
    const used = [
      'x',
      'tied',
      'doubled',
      'first',
      'sparse_weight',
      'nobody',
      'yes_weight',
      'i',
      'step',
      'only_out',
      'looped',
    ];
    for (const name of used) expect(graph.names.fresh(name)).not.toBe(name);
    expect(graph.names.fresh('free')).toBe('free');
  });
});

describe.skipIf(!haveAssets)('a rewritten model with weights in branches', () => {
  it('computes the same', async () => {
    const bytes = readFileSync(asset('models/silero-vad.onnx'));
    const outputs: unknown[] = [];
    for (const each of [bytes, writeOnnx(readOnnx(bytes))]) {
      const session = await ort.InferenceSession.create(each, { intraOpNumThreads: 1, logSeverityLevel: 3 });
      const feeds: Record<string, ort.Tensor> = {};
      for (const input of session.inputMetadata) {
        if (!input.isTensor) throw new Error(`${input.name} is no tensor`);
        const audio = input.name === 'input';
        const dims = audio ? [1, 512] : input.shape.map((size) => (typeof size === 'number' && size > 0 ? size : 1));
        const count = dims.reduce((a, b) => a * b, 1);
        feeds[input.name] =
          input.type === 'int64'
            ? new ort.Tensor('int64', BigInt64Array.of(16000n), dims)
            : new ort.Tensor(
                'float32',
                Float32Array.from({ length: count }, (_, i) => (audio ? Math.sin(i / 9) / 2 : 0)),
                dims,
              );
      }
      const results = await session.run(feeds);
      outputs.push(session.outputNames.map((name) => Array.from(results[name].data as Float32Array)));
      await session.release();
    }
    expect(outputs[1]).toEqual(outputs[0]);
    expect((outputs[0] as number[][])[0][0]).toBeGreaterThan(0);
  });
});

describe('order and versions', () => {
  const chain = (opset: bigint, irVersion: bigint) =>
    bytesOfModel(
      model(
        {
          input: [{ name: 'x' }],
          node: [
            { opType: 'Neg', input: ['a'], output: ['y'] },
            { opType: 'Abs', input: ['x'], output: ['a'] },
          ],
          output: [{ name: 'y' }],
        },
        { irVersion, opsetImport: [{ version: opset }] },
      ),
    );

  it('orders nodes that a file lists before what they need', () => {
    const read = readOnnx(chain(13n, 8n));
    expect(read.graph.nodes.map((node) => node.op)).toEqual(['Abs', 'Neg']);
    checkModel(read);
  });

  it.each(Array.from({ length: 20 }, (_, i) => i + 7))('reads and keeps opset %i', (opset) => {
    const again = readOnnx(writeOnnx(readOnnx(chain(BigInt(opset), 3n))));
    expect([again.opset, again.irVersion]).toEqual([opset, 3]);
  });

  it('writes nodes in an order of execution whatever the order of edits', () => {
    const read = readOnnx(chain(13n, 8n));
    const late = read.graph.add({ op: 'Relu', inputs: [read.graph.inputs[0]], outputs: ['late'] });
    read.graph.nodes[0].setInput(0, late.output());
    const proto = decoded(writeOnnx(read)).graph!;
    expect(proto.node.map((node) => node.opType)).toEqual(['Relu', 'Abs', 'Neg']);
  });

  it('takes one opset stated under both names of the ONNX domain', () => {
    const both = model(
      { input: [{ name: 'x' }], output: [{ name: 'x' }] },
      {
        opsetImport: [
          { domain: 'ai.onnx', version: 17n },
          { domain: '', version: 17n },
        ],
      },
    );
    expect(readOnnx(bytesOfModel(both)).opset).toBe(17);
  });
});
