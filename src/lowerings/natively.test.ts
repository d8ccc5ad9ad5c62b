/** What is said of kernels, against the facts measured with onnxruntime 1.30 (RUNTIMES-AND-ECOSYSTEM.md §2.1). */
import { describe, expect, it } from 'vitest';
import { addInput, addOutput, emptyModel, noiseTensor } from '../../test/support/lowered.ts';
import { formatIds } from '../formats/index.ts';
import { namedSchemes } from '../formats/named.ts';
import { parseScheme } from '../formats/scheme.ts';
import { lowerings } from './index.ts';
import { nativeKernels, unpackedBy } from './natively.ts';
import { findWeights, type Weight } from './weight.ts';

const kernels = (text: string) =>
  nativeKernels(parseScheme(text)).map(({ name, on }) => `${name}: ${on.map((provider) => provider[0]).join('')}`);

describe('kernels', () => {
  it.each([
    ['int1', ['2-bit: CWW']],
    ['ternary', ['2-bit: CWW']],
    ['int3', ['4-bit: CWW']],
    ['int4:g128:asym:scale8', ['4-bit: CWW']],
    ['uint5:g16', ['8-bit: CWW']],
    ['int8', ['integer: CW']],
    ['int8:g32', ['8-bit: CWW']],
    ['mxint8', ['8-bit: CWW']],
    ['nf4', ['table: CW']],
    ['fp4:g64', ['table: CW']],
    // WebGPU takes integer zero points only; 8 bits take no others anywhere.
    ['uint1', ['2-bit: CW']],
    ['int4:asym:float-zero', ['4-bit: CW']],
    ['int8:g32:asym:float-zero', []],
    // No such blocks.
    ['int4:g48', []],
    ['int4:g8', []],
    ['int4:g512', []],
    ['nf4:channel', []],
    ['int16', []],
    ['int16:g32', []],
    ['kmeans4', []],
    ['mxfp4', []],
    ['float16', []],
  ])('of %s: %j', (text, expected) => {
    expect(kernels(text)).toEqual(expected);
  });

  it('of no kind: a Cast of types that ONNX Runtime has, and unpacking of all others', () => {
    const by = (text: string) => unpackedBy(parseScheme(text));
    expect(['float8e4m3fn', 'mxfp8e5m2', 'float16', 'bfloat16'].map(by)).toEqual(Array(4).fill('cast'));
    expect(['float6e2m3', 'mxfp4', 'kmeans4', 'pot4', 'int16', 'binary2'].map(by)).toEqual(Array(6).fill('unpack'));
  });
});

/** The constant of a MatMul or of a Gather, 64 × 64 numbers. */
function weightOf(op: 'MatMul' | 'Gather'): Weight {
  const model = emptyModel();
  const { graph } = model;
  const input = op === 'MatMul' ? addInput(graph, 'x', [4, 64]) : addInput(graph, 'ids', [4], 'int64');
  const weight = graph.addInitializer('w', noiseTensor([64, 64]));
  const inputs = op === 'MatMul' ? [input, weight] : [weight, input];
  addOutput(graph, graph.add({ op, inputs, outputs: ['y'] }).output());
  return findWeights(model)[0];
}

describe('the lowerings', () => {
  const ids = [...formatIds, ...namedSchemes.map(({ id }) => id)];
  const more = [
    'int4:asym:float-zero',
    'int8:g32:asym:float-zero',
    'int4:g48',
    'int4:scale8',
    'nf4:g16:scale8',
    'nf4:g8',
  ];
  const schemes = [...ids, ...ids.filter((id) => !id.endsWith('float16')).map((id) => `${id}:g32`), ...more];

  it.each([
    ['matmul-nbits', 'MatMulNBits', 'MatMul'],
    ['matmul-bnb4', 'MatMulBnb4', 'MatMul'],
    ['gather-block', 'GatherBlockQuantized', 'Gather'],
  ] as const)('%s takes the schemes that are said to have kernels in %s, and no others', (id, operator, op) => {
    const weight = weightOf(op);
    const lowering = lowerings.find((candidate) => candidate.id === id)!;
    for (const text of schemes) {
      const scheme = parseScheme(text);
      const takes = lowering.refuses(weight, scheme) === undefined;
      const said = nativeKernels(scheme).some(({ operators }) => operators.includes(operator));
      expect([text, said]).toEqual([text, takes]);
    }
  });
});
