/** For tests of lowerings: small graphs, matrices quantized to the nearest code, and runs in ONNX Runtime. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readOnnx } from '../../src/files/onnx/read.ts';
import { writeOnnx } from '../../src/files/onnx/write.ts';
import { intFormatOf } from '../../src/formats/index.ts';
import { parameterLayout, type QuantizedMatrix } from '../../src/formats/quantized.ts';
import type { Scheme } from '../../src/formats/scheme.ts';
import { checkModel } from '../../src/graph/check.ts';
import { Graph } from '../../src/graph/graph.ts';
import type { Model } from '../../src/graph/model.ts';
import type { Value } from '../../src/graph/value.ts';
import { dequantizeMatrix, quantizeMatrix } from '../../src/kernel/index.ts';
import { findWeights, SharedConstants, type Weight, type WeightLowering } from '../../src/lowerings/weight.ts';
import { eliminateDead } from '../../src/passes/eliminate-dead.ts';
import { openRuntime } from '../../src/runtime/node.ts';
import type { DType } from '../../src/tensor/dtype.ts';
import { fromMatrix, toMatrix } from '../../src/tensor/matrix-view.ts';
import { type Shape, sizeOf, Tensor } from '../../src/tensor/tensor.ts';
import { copyOf, emptyModel as emptyModelOf, run } from './before-after.ts';

/** `count` numbers between −1 and 1 that look random and are the same every time. */
export function noise(count: number, seed = 1): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) as number;
  });
}

/** A float tensor of noise. */
export function noiseTensor(shape: Shape, seed = 1, dtype: 'float32' | 'float16' = 'float32'): Tensor {
  return Tensor.float32(shape, noise(sizeOf(shape), seed)).converted(dtype);
}

/**
 * Min-max round to nearest: enough to have codes, scales and zero points of every kind a scheme names. `reduced` keeps
 * signed codes within half their range: pairs of their products with uint8 then saturate on no CPU (ALGORITHMS.md §5.3).
 */
export function nearest(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  reduced = false,
): QuantizedMatrix {
  const { bits, signed, ...codes } = intFormatOf(scheme.format);
  const [min, max] = [codes.min, codes.max].map((code) => (reduced && signed ? Math.trunc(code / 2) : code));
  const layout = parameterLayout(scheme, rows, columns);
  const scales = new Float32Array(layout.count);
  const zeroPoints = new Float32Array(layout.count);
  const round = (value: number) =>
    Tensor.float32([], [value])
      .converted(scheme.scaleType === 'float16' ? 'float16' : 'float32')
      .floats()[0];
  for (let index = 0; index < layout.count; index++) {
    const perRow = layout.perRow || 1;
    const start = layout.perRow === 0 ? 0 : Math.floor(index / perRow) * columns + (index % perRow) * layout.blockSize;
    const end =
      layout.perRow === 0
        ? values.length
        : Math.min(start + layout.blockSize, (Math.floor(index / perRow) + 1) * columns);
    let low = 0;
    let high = 0;
    for (let i = start; i < end; i++) {
      low = Math.min(low, values[i]);
      high = Math.max(high, values[i]);
    }
    if (scheme.symmetric) {
      const middle = bits === 1 ? 0.5 : signed ? 0 : 2 ** (bits - 1);
      const reach = bits === 1 ? 0.5 : bits === 2 && signed ? 2 : max - middle;
      scales[index] = round(Math.max(-low, high, 1e-3) / Math.max(reach, 0.5));
      zeroPoints[index] = middle;
    } else {
      scales[index] = round(Math.max(high - low, 1e-3) / (max - min));
      const zeroPoint = min - low / scales[index];
      zeroPoints[index] =
        scheme.zeroPointType === 'float' ? round(zeroPoint) : Math.min(Math.max(Math.round(zeroPoint), min), max);
    }
  }
  // Symmetric 8-bit codes stay within ±127, as solvers keep them.
  const range = scheme.symmetric && signed && bits >= 8 ? { min: min + 1, max } : { min, max };
  return quantizeMatrix(values, rows, columns, scheme, scales, zeroPoints, range);
}

/** The matrix of a weight's tensor, quantized. */
export function quantized(weight: Weight, scheme: Scheme, reduced = false): QuantizedMatrix {
  const { view } = weight.use;
  return nearest(toMatrix(weight.tensor.floats(), view), view.rows, view.columns, scheme, reduced);
}

/** The float tensor that a quantized weight stands for. */
export function dequantized(weight: Weight, matrix: QuantizedMatrix): Tensor {
  const { dtype, shape } = weight.tensor;
  return Tensor.float32(shape, fromMatrix(dequantizeMatrix(matrix), weight.use.view)).converted(dtype as 'float32');
}

export { copyOf, run };

/** An empty model to add nodes to. */
export function emptyModel(): Model {
  return emptyModelOf(17);
}

export function addInput(graph: Graph, name: string, shape: Shape, dtype: DType = 'float32'): Value {
  const value = graph.addValue(name, { dtype, shape });
  graph.inputs.push(value);
  return value;
}

export function addOutput(graph: Graph, value: Value, dtype: DType = 'float32'): void {
  value.type = { dtype, shape: undefined };
  graph.outputs.push(value);
}

/** What the runtime makes of a model: the operators of the graph it executes, all graphs, sorted. */
export async function executedOperators(model: Model): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-'));
  try {
    const path = join(folder, 'optimized.onnx');
    const runtime = await openRuntime('onnxruntime-node');
    const session = await runtime.open(writeOnnx(model), { optimization: 'extended', optimizedModelPath: path });
    await session.close();
    return [...readOnnx(readFileSync(path)).nodes()].map((node) => node.op).sort();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The same model with every weight that `choose` gives a scheme replaced by the float numbers it is quantized to. */
export function withDequantized(model: Model, choose: (weight: Weight) => Scheme | undefined, reduced = false): Model {
  const copy = copyOf(model);
  for (const weight of findWeights(copy)) {
    const scheme = choose(weight);
    if (scheme) weight.value.tensor = dequantized(weight, quantized(weight, scheme, reduced));
  }
  return copy;
}

/** The same model with those weights lowered, sorted and rid of what nothing reads any more. */
export function withLowered(
  model: Model,
  choose: (weight: Weight) => Scheme | undefined,
  lowering: WeightLowering,
  lower: (weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants) => void,
  reduced = false,
): Model {
  const copy = copyOf(model);
  const constants = new SharedConstants(copy);
  for (const weight of findWeights(copy)) {
    const scheme = choose(weight);
    if (!scheme) continue;
    const reason = lowering.refuses(weight, scheme);
    if (reason) throw new Error(`${weight.value.name}: ${reason}`);
    lower(weight, quantized(weight, scheme, reduced), constants);
  }
  return finished(copy, lowering.domains);
}

/** What the pipeline does after lowering. */
export function finished(model: Model, domains: readonly string[] = []): Model {
  for (const domain of domains) model.useDomain(domain);
  for (const graph of model.graphs()) graph.sort();
  eliminateDead.run(model);
  checkModel(model);
  return model;
}

/** The largest |a − b| relative to the largest |a|. */
export function relativeError(expected: Tensor, found: Tensor): number {
  if (expected.shape.join() !== found.shape.join()) {
    throw new Error(`expected shape ${expected.shape.join()}, got ${found.shape.join()}`);
  }
  const [a, b] = [expected.floats(), found.floats()];
  let largest = 0;
  let difference = 0;
  for (let i = 0; i < a.length; i++) {
    largest = Math.max(largest, Math.abs(a[i]));
    difference = Math.max(difference, Math.abs(a[i] - b[i]));
    if (Number.isNaN(b[i])) return Number.POSITIVE_INFINITY;
  }
  return difference / (largest || 1);
}

/** Signal to noise in decibels. */
export function decibels(expected: Float32Array, found: Float32Array): number {
  let signal = 0;
  let error = 0;
  for (let i = 0; i < expected.length; i++) {
    signal += expected[i] ** 2;
    error += (expected[i] - found[i]) ** 2;
  }
  return error === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(signal / error);
}

/** `y = condition ? x·inner : x·outer`, the first weight a constant of the branch, the second of the main graph. */
export function branchesModel(weights: readonly [Tensor, Tensor]): Model {
  const model = emptyModel();
  const { graph } = model;
  const [rows, columns] = weights[0].shape;
  const x = addInput(graph, 'x', [2, rows]);
  const condition = addInput(graph, 'condition', [], 'bool');
  const outer = graph.addInitializer('outer', weights[1]);
  const branch = (name: string, weightIn: (graph: Graph) => Value): Graph => {
    const body = new Graph(name, graph.names);
    const product = body.add({ op: 'MatMul', inputs: [x, weightIn(body)], outputs: [`${name}/product`] }).output();
    product.type = { dtype: 'float32', shape: [2, columns] };
    body.outputs.push(product);
    return body;
  };
  const chosen = graph.add({
    op: 'If',
    inputs: [condition],
    outputs: ['y'],
    attributes: {
      then_branch: { type: 'graph', value: branch('then', (body) => body.addInitializer('inner', weights[0])) },
      else_branch: { type: 'graph', value: branch('else', () => outer) },
    },
  });
  addOutput(graph, chosen.output());
  return model;
}
