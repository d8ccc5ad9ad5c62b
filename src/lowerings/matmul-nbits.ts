/** Weights of MatMul and Gemm of up to 8 bits with a scale per block: com.microsoft.MatMulNBits (onnxruntime 1.30). */
import { HalftoneError } from '../base/errors.ts';
import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { type DType, dtypes } from '../tensor/dtype.ts';
import {
  blockBytes,
  blockCodes,
  blockLoadedBytes,
  blockScales,
  blocksDtype,
  blocksOpset,
  blocksPerRow,
  blockZeroPoints,
  kernelBits,
} from './blocks.ts';
import { cast } from './codes.ts';
import { biasOf, isPerOutput, refusesBlocks, refusesLinear } from './linear.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

/** How exact activations are: 0 and 1 keep float32, 4 rounds each block of them to 8 bits at run time. */
export type AccuracyLevel = 0 | 1 | 4;

/**
 * At level 4 the relative error of a layer's output is about 0.3 … 0.9 %. On CPUs it is what makes the operator fast:
 * without it operators of 2 and 8 bits take 80 to 220 times as long (weights are unpacked to float at every call) and 4 bits about
 * four times. Measured with onnxruntime 1.30, RUNTIMES-AND-ECOSYSTEM.md §2.3. Float zero points ignore it.
 */
export const defaultAccuracyLevel: AccuracyLevel = 4;

export const matmulNbits = {
  id: 'matmul-nbits',
  summary: 'MatMul and Gemm on blocks of up to 8 bits (com.microsoft.MatMulNBits): small file, fast on CPU and WebGPU',
  domains: ['com.microsoft'],
  requiredOpset: blocksOpset,
  refuses,
} as const satisfies WeightLowering;

function refuses(weight: Weight, scheme: Scheme): string | undefined {
  const format = formatOf(scheme.format);
  if (format.kind !== 'int') return `MatMulNBits takes evenly spaced levels, got ${format.id}`;
  const reason = refusesProduct(weight, 'MatMulNBits');
  if (reason) return reason;
  const bits = kernelBits(scheme) ?? format.bits;
  if (scheme.zeroPointType === 'float' && bits === 8) {
    return `MatMulNBits expects integer zero points for ${format.bits === 8 ? '8 bits' : `${format.bits} bits, which it runs as 8`}`;
  }
  return refusesBlocks(scheme, bits, 'MatMulNBits');
}

/** Why a weight's readers are not products that `operator` can do, with at most a bias that is added. */
export function refusesProduct(weight: Weight, operator: string): string | undefined {
  const { dtype, shape } = weight.tensor;
  if (dtype !== 'float32' && dtype !== 'float16') return `${operator} expects float32 or float16, got ${dtype}`;
  const reason = refusesLinear(weight);
  if (reason) return reason;
  if (shape.length !== 2) return `${operator} expects one matrix, got a batch of them ([${shape.join(',')}])`;
  for (const { node } of weight.uses) {
    const beta = biasOf(node) ? node.float('beta', 1) : 1;
    if (beta !== 1) return `expected ${node.label} with beta = 1, got ${beta}`;
  }
  return undefined;
}

/** The inputs of MatMulNBits that come from the weight, made once for all readers. */
interface PackedWeight {
  readonly codes: Value;
  readonly scales: Value;
  readonly zeroPoints: Value | undefined;
  readonly dtype: 'float32' | 'float16';
  readonly bits: number;
}

/**
 * Replaces every reader by MatMulNBits: B uint8 [N, blocks, blockSize·bits/8], scales [N, blocks], zero points packed
 * uint8 or float, with bits the operator's. A Gemm's constant bias of N numbers becomes the operator's own, any other C is added behind it. The
 * result keeps its value and name. Float16 layers whose scales do not fit float16 are computed in float32.
 */
export function lowerMatmulNbits(
  weight: Weight,
  matrix: QuantizedMatrix,
  constants: SharedConstants,
  accuracyLevel: AccuracyLevel = defaultAccuracyLevel,
): void {
  const packed = packWeight(weight, matrix, constants);
  for (const { node } of weight.uses) replaceNode(node, weight, matrix, packed, accuracyLevel);
}

function packWeight(weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): PackedWeight {
  const { name, graph } = weight.value;
  const { blockSize, rows, scheme } = matrix;
  const bits = kernelBits(scheme);
  const reason = refuses(weight, scheme);
  if (reason || !bits) {
    throw new HalftoneError('internal', `weight "${name}": expected one for MatMulNBits, got: ${reason}`);
  }
  const blocks = blocksPerRow(matrix);
  const shape = [rows, blocks, (blockSize * bits) / 8];
  const codes = blockCodes(graph, constants, name, matrix, blocks * blockSize, shape);
  const dtype = blocksDtype(weight.tensor.dtype, matrix);
  const scales = blockScales(graph, constants, `${name}/scale`, matrix, dtype);
  const zeroPoints = blockZeroPoints(graph, constants, `${name}/zero_point`, matrix, dtype);
  return { codes, scales, zeroPoints, dtype, bits };
}

function replaceNode(
  node: Node,
  weight: Weight,
  matrix: QuantizedMatrix,
  packed: PackedWeight,
  accuracyLevel: AccuracyLevel,
): void {
  const c = biasOf(node);
  const bias = c && weight.tensor.dtype === packed.dtype && isPerOutput(c, matrix.rows) ? c : undefined;
  const optional = bias ? [packed.zeroPoints, undefined, vector(bias)] : packed.zeroPoints ? [packed.zeroPoints] : [];
  replaceProduct(node, weight.tensor.dtype, {
    op: 'MatMulNBits',
    dtype: packed.dtype,
    inputs: [packed.codes, packed.scales, ...optional],
    attributes: {
      K: matrix.columns,
      N: matrix.rows,
      bits: packed.bits,
      block_size: matrix.blockSize,
      accuracy_level: accuracyLevel,
    },
    ...(c && !bias ? { added: c } : {}),
  });
}

/** A com.microsoft operator that multiplies its first input with a weight. */
export interface Product {
  readonly op: string;
  /** What it computes in. */
  readonly dtype: 'float32' | 'float16';
  /** What it reads after the first input. */
  readonly inputs: readonly (Value | undefined)[];
  readonly attributes: Readonly<Record<string, number>>;
  /** What is added to the product, in the layer's own type. */
  readonly added?: Value;
}

/** Puts a product in the place of a MatMul or Gemm of `dtype`, between Casts where it computes in another type. */
export function replaceProduct(node: Node, dtype: DType, product: Product): void {
  const { graph } = node;
  const { op, added, attributes } = product;
  const result = node.output();
  const own = dtype === product.dtype;
  const x = own ? node.input(0) : cast(graph, node.input(0), product.dtype, `${result.name}/input`);
  const inputs = [x, ...product.inputs];
  const outputs = [own && !added ? result : `${result.name}/product`];
  let last = graph.add({ op, domain: 'com.microsoft', name: node.name, inputs, outputs, attributes }, node);
  if (!own) {
    const outputs = [added ? `${result.name}/cast` : result];
    last = graph.add({ op: 'Cast', inputs: [last.output()], outputs, attributes: { to: dtypes[dtype].onnx } }, node);
  }
  if (added) graph.add({ op: 'Add', inputs: [last.output(), added], outputs: [result] }, node);
  graph.remove(node);
}

/** A constant of shape [N] or [1,N] as [N]. */
function vector(value: Value): Value {
  const tensor = value.tensor!;
  if (tensor.shape.length === 1) return value;
  return value.graph.addInitializer(`${value.name}/vector`, tensor.reshaped([tensor.size]));
}

/** Bytes of the initializers that `lowerMatmulNbits` writes; the node and biases come on top. */
export function matmulNbitsBytes(
  rows: number,
  columns: number,
  parameters: number,
  matrix: Pick<QuantizedMatrix, 'scheme'>,
): number {
  return blockBytes(rows, paddedColumns(rows, columns, parameters, matrix.scheme), parameters, matrix);
}

/** Bytes of the same inputs in memory when the file is loaded. */
export function matmulNbitsLoadedBytes(
  rows: number,
  columns: number,
  parameters: number,
  matrix: Pick<QuantizedMatrix, 'scheme'>,
): number {
  return blockLoadedBytes(rows, paddedColumns(rows, columns, parameters, matrix.scheme), parameters, matrix);
}

function paddedColumns(rows: number, columns: number, parameters: number, { granularity }: Scheme): number {
  return granularity.kind === 'block' ? (parameters / rows) * granularity.size : columns;
}
