/** MatMulBnb4 against ONNX Runtime: the same results as with the dequantized weight, and what is refused and why. */
import { describe, expect, it } from 'vitest';
import { emptyModel } from '../../test/support/before-after.ts';
import {
  addInput,
  addOutput,
  branchesModel,
  copyOf,
  dequantized,
  executedOperators,
  finished,
  noiseTensor,
  relativeError,
  run,
} from '../../test/support/lowered.ts';
import { writeOnnx } from '../files/onnx/write.ts';
import { formatOf } from '../formats/index.ts';
import { parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { matrixBytes, storedMatrix } from '../kernel/index.ts';
import { openRuntime } from '../runtime/node.ts';
import { solverOf } from '../solvers/index.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import { type Shape, Tensor } from '../tensor/tensor.ts';
import { lowerMatmulBnb4, matmulBnb4, matmulBnb4Bytes, matmulBnb4LoadedBytes } from './matmul-bnb4.ts';
import { findWeights, SharedConstants, type Weight } from './weight.ts';

interface Linear {
  readonly columns: number;
  readonly rows?: number;
  readonly gemm?: { readonly transB: 0 | 1; readonly c?: Tensor };
  readonly dtype?: 'float32' | 'float16';
}

/** `y = x·W` (+ c) with x of two or, for MatMul, three dimensions. */
function linear({ columns, rows = 7, gemm, dtype = 'float32' }: Linear): Model {
  const model = emptyModel(19);
  const { graph } = model;
  const x = addInput(graph, 'x', gemm ? [4, columns] : [2, 4, columns], dtype);
  const shape: Shape = gemm?.transB ? [rows, columns] : [columns, rows];
  const weight = graph.addInitializer('w', noiseTensor(shape, 3, dtype));
  const c = gemm?.c && graph.addInitializer('c', gemm.c);
  const node = graph.add({
    op: gemm ? 'Gemm' : 'MatMul',
    name: 'layer',
    inputs: [x, weight, ...(c ? [c] : [])],
    outputs: ['y'],
    attributes: gemm?.transB ? { transB: 1 } : {},
  });
  addOutput(graph, node.output(), dtype);
  return model;
}

function feedsOf(model: Model) {
  const [x] = model.graph.inputs;
  return { x: noiseTensor(x.type!.shape as number[], 9, x.type!.dtype as 'float32') };
}

const isMatrix = (weight: Weight) => weight.use.kind === 'matrix';

function solved(weight: Weight, text: string): QuantizedMatrix {
  const { view } = weight.use;
  const values = toMatrix(weight.tensor.floats(), view);
  return solverOf('search').solve(values, view.rows, view.columns, parseScheme(text));
}

function lowered(model: Model, text: string): Model {
  const copy = copyOf(model);
  const constants = new SharedConstants(copy);
  for (const weight of findWeights(copy).filter(isMatrix)) lowerMatmulBnb4(weight, solved(weight, text), constants);
  return finished(copy, matmulBnb4.domains);
}

function withFloats(model: Model, text: string): Model {
  const copy = copyOf(model);
  for (const weight of findWeights(copy).filter(isMatrix)) {
    weight.value.tensor = dequantized(weight, solved(weight, text));
  }
  return copy;
}

async function errorOf(model: Model, text: string): Promise<number> {
  const expected = await run(withFloats(model, text), feedsOf(model));
  return relativeError(expected.y, (await run(lowered(model, text), feedsOf(model))).y);
}

const schemes = ['nf4', 'fp4'].flatMap((format) => [
  ...[16, 32, 64, 128, 256].map((size) => `${format}:g${size}`),
  ...['scale32', 'scale8', 'scale-e8m0', 'scale-e4m3'].map((scale) => `${format}:g64:${scale}`),
]);

describe('matmul-bnb4', () => {
  it('is exact under every scheme', async () => {
    for (const text of schemes) {
      expect(await errorOf(linear({ columns: 256 }), text), text).toBeLessThan(1e-5);
    }
    expect(await errorOf(linear({ columns: 48, rows: 3 }), 'nf4:g16')).toBeLessThan(1e-5);
  });

  it.each(['nf4', 'fp4'])('has the levels of %s in the order of bitsandbytes', async (format) => {
    const levels = (formatOf(format) as { levels: Float32Array }).levels.map((level) => level || 0);
    const model = linear({ columns: 16, rows: 1 });
    const weight = findWeights(model)[0];
    // Code 8 of fp4, minus zero, is as good as zero.
    const codes = Uint8Array.from({ length: 16 }, (_, code) => code);
    const matrix = { ...solved(weight, `${format}:g16`), codes, scales: Float32Array.of(0.5) };
    lowerMatmulBnb4(weight, matrix, new SharedConstants(model));
    const identity = Tensor.float32(
      [2, 8, 16],
      Array.from({ length: 256 }, (_, index) => (index % 17 === 0 ? 1 : 0)),
    );
    model.graph.inputs[0].type = { dtype: 'float32', shape: [2, 8, 16] };
    const { y } = await run(finished(model, matmulBnb4.domains), { x: identity });
    const found = y.floats();
    for (const [code, level] of levels.entries()) expect(found[code], `code ${code}`).toBeCloseTo(level / 2, 6);
  });

  it.each([0, 1] as const)('lowers Gemm with transB = %i and every kind of C', async (transB) => {
    for (const shape of [undefined, [7], [1, 7], [1], [], [4, 1], [4, 7]]) {
      const model = linear({ columns: 64, gemm: { transB, c: shape && noiseTensor(shape, 5) } });
      const operators = lowered(model, 'nf4:g32')
        .graph.nodes.map((node) => node.op)
        .filter((op) => op !== 'Cast');
      expect(operators, `C [${shape}]`).toEqual(shape ? ['MatMulBnb4', 'Add'] : ['MatMulBnb4']);
      expect(await errorOf(model, 'nf4:g32'), `C [${shape}]`).toBeLessThan(1e-5);
    }
  });

  it('runs float16 layers in float32', async () => {
    for (const text of ['nf4:g32', 'fp4:g16:scale32']) {
      const c = noiseTensor([7], 5, 'float16');
      const model = linear({ columns: 64, dtype: 'float16', gemm: { transB: 1, c } });
      expect(await errorOf(model, text), text).toBeLessThan(3e-3);
      expect(lowered(model, text).graph.nodes.map(({ op }) => op)).toContain('MatMulBnb4');
    }
  });

  it.each(['onnxruntime-node', 'onnxruntime-web'] as const)('runs in %s', async (id) => {
    const model = linear({ columns: 128, rows: 40 });
    const runtime = await openRuntime(id);
    for (const text of ['nf4:g64:scale8', 'fp4:g32']) {
      const session = await runtime.open(writeOnnx(lowered(model, text)));
      const found = await session.run(feedsOf(model));
      await session.close();
      const expected = await run(withFloats(model, text), feedsOf(model));
      expect(relativeError(expected.y, found.y), text).toBeLessThan(1e-5);
    }
  });

  it('leaves one operator to run: scales are unpacked when the file is loaded', async () => {
    for (const text of schemes) {
      const result = lowered(linear({ columns: 256 }), text);
      expect(await executedOperators(result), text).toEqual(['MatMulBnb4']);
      expect(result.graph.outputs[0].name).toBe('y');
      expect(result.graph.nodes.at(-1)?.name).toBe('layer');
    }
  });

  it('lowers weights inside the branches of an If', async () => {
    const model = branchesModel([noiseTensor([64, 9], 1), noiseTensor([64, 9], 2)]);
    const result = lowered(model, 'nf4:g32');
    expect(await executedOperators(result)).toEqual(['If', 'MatMulBnb4', 'MatMulBnb4']);
    for (const condition of [0, 1]) {
      const feeds = { x: noiseTensor([2, 64], 3), condition: new Tensor('bool', [], Uint8Array.of(condition)) };
      const expected = await run(withFloats(model, 'nf4:g32'), feeds);
      expect(relativeError(expected.y, (await run(result, feeds)).y)).toBeLessThan(1e-5);
    }
  });

  it('packs a tied weight once', async () => {
    const model = linear({ columns: 64, rows: 64 });
    const [{ value }] = findWeights(model);
    const y = model.graph.outputs[0];
    addOutput(model.graph, model.graph.add({ op: 'MatMul', inputs: [y, value], outputs: ['z'] }).output());
    const result = lowered(model, 'nf4:g32:scale32');
    expect([...result.graph.initializers].map(({ name }) => name).sort()).toEqual(['w/codes', 'w/scale']);
    const expected = await run(withFloats(model, 'nf4:g32:scale32'), feedsOf(model));
    expect(relativeError(expected.z, (await run(result, feedsOf(model))).z)).toBeLessThan(1e-5);
  });

  it('writes the same from where the matrix is stored', () => {
    const model = linear({ columns: 256 });
    for (const text of schemes) {
      const matrix = solved(findWeights(model)[0], text);
      const { codes, scales } = matrixBytes(matrix);
      const source = (bytes: Uint8Array) => ({
        byteLength: bytes.length,
        read: (start?: number, end?: number) => bytes.slice(start, end),
      });
      const more = { zeroPoints: 0, ...(matrix.factors ? { factors: matrix.factors } : {}) };
      const stored = storedMatrix(matrix.scheme, matrix.rows, matrix.columns, {
        codes: source(codes),
        scales: source(scales),
        ...more,
      });
      const files = [matrix, stored].map((one) => {
        const copy = copyOf(model);
        lowerMatmulBnb4(findWeights(copy)[0], one, new SharedConstants(copy));
        return writeOnnx(finished(copy, matmulBnb4.domains));
      });
      expect(files[0], text).toEqual(files[1]);
    }
  });

  it('stores as many bytes as it predicts', () => {
    for (const text of schemes) {
      const scheme = parseScheme(text);
      const bytes = [...lowered(linear({ columns: 256 }), text).graph.initializers]
        .filter(({ name }) => !name.startsWith('halftone/'))
        .reduce((sum, { tensor }) => sum + tensor!.byteLength, 0);
      const { count } = parameterLayout(scheme, 7, 256);
      expect(bytes, text).toBe(matmulBnb4Bytes(7, 256, count, { scheme }));
    }
    expect(matmulBnb4LoadedBytes(7, 256, 56)).toBe(7 * 128 + 56 * 4);
  });

  it('needs an opset for its scales', () => {
    expect(matmulBnb4.requiredOpset(parseScheme('nf4'))).toBe(7);
    expect(matmulBnb4.requiredOpset(parseScheme('nf4:scale-e4m3'))).toBe(19);
  });
});

describe('matmul-bnb4 refuses', () => {
  it.each([
    [64, 'int4:g32', 'MatMulBnb4 expects nf4 or fp4, got int4'],
    [64, 'mxfp4', 'MatMulBnb4 expects nf4 or fp4, got float4e2m1'],
    [64, 'nf4:channel', 'MatMulBnb4 expects a scale per block, got one per channel'],
    [64, 'fp4:tensor', 'MatMulBnb4 expects a scale per block, got one per tensor'],
    [64, 'nf4:g8', 'MatMulBnb4 expects blocks of 16, 32, 64, 128, 256, got 8'],
    [512, 'nf4:g512', 'MatMulBnb4 expects blocks of 16, 32, 64, 128, 256, got 512'],
    [80, 'nf4:g32', 'MatMulBnb4 expects rows of whole blocks of 32, got rows of 80'],
    [77, 'nf4:g16', 'MatMulBnb4 expects rows of whole blocks of 16, got rows of 77'],
  ])('rows of %i in %s', (columns, text, reason) => {
    expect(matmulBnb4.refuses(findWeights(linear({ columns }))[0], parseScheme(text))).toBe(reason);
  });

  it('what is no product, and does not lower it', () => {
    const model = linear({ columns: 64, gemm: { transB: 0, c: noiseTensor([7], 2) } });
    model.graph.nodes[0].setFloat('beta', 0.5);
    const [weight] = findWeights(model).filter(isMatrix);
    expect(matmulBnb4.refuses(weight, parseScheme('nf4'))).toBe('expected Gemm "layer" with beta = 1, got 0.5');
    expect(() => lowerMatmulBnb4(weight, solved(weight, 'nf4'), new SharedConstants(model))).toThrow(
      'weight "w": expected one for MatMulBnb4, got: expected Gemm "layer" with beta = 1, got 0.5',
    );
  });
});
