/**
 * Weights of MatMul and Gemm in the 4-bit floats of bitsandbytes: com.microsoft.MatMulBnb4 (onnxruntime 1.30). At each call
 * it unpacks the weight to float32 and multiplies: small in the file and in memory, but a product with one row takes five
 * times as long as in float, one with 64 rows twice as long (measured on a CPU, 2048 × 2048).
 */
import { HalftoneError } from '../base/errors.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { blocksPerRow } from './blocks.ts';
import { reshape, scaleBytes, scaleOpset, scaleValue } from './codes.ts';
import { biasOf } from './linear.ts';
import { refusesProduct, replaceProduct } from './matmul-nbits.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

/** The operator's attribute quant_type (onnxruntime, contrib_ops/cpu/quantization/blockwise_quant_block_bnb4.h). */
const quantTypes: Readonly<Record<string, number>> = { fp4: 0, nf4: 1 };

/** The block sizes that its kernel has; with others a model loads and then fails. */
const blockSizes = [16, 32, 64, 128, 256];

export const matmulBnb4 = {
  id: 'matmul-bnb4',
  summary: 'MatMul and Gemm on blocks of nf4 or fp4 (com.microsoft.MatMulBnb4): small in the file and in memory, slow',
  domains: ['com.microsoft'],
  requiredOpset: scaleOpset,
  refuses,
} as const satisfies WeightLowering;

function refuses(weight: Weight, scheme: Scheme): string | undefined {
  const { format, granularity } = scheme;
  if (!Object.hasOwn(quantTypes, format)) return `MatMulBnb4 expects nf4 or fp4, got ${format}`;
  const reason = refusesProduct(weight, 'MatMulBnb4');
  if (reason) return reason;
  if (granularity.kind !== 'block') return `MatMulBnb4 expects a scale per block, got one per ${granularity.kind}`;
  const { size } = granularity;
  if (!blockSizes.includes(size)) return `MatMulBnb4 expects blocks of ${blockSizes.join(', ')}, got ${size}`;
  const { columns } = weight.use.view;
  // Its blocks run on from row to row.
  if (columns % size !== 0) return `MatMulBnb4 expects rows of whole blocks of ${size}, got rows of ${columns}`;
  return undefined;
}

/**
 * Replaces every reader by MatMulBnb4: B uint8 [N·K/2], the first of two codes in the high bits; scales float32
 * [N·K/blockSize]. A Gemm's C is added behind it. The result keeps its value and name. Float16 layers are computed in
 * float32.
 */
export function lowerMatmulBnb4(weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): void {
  const { name, graph } = weight.value;
  const { rows, columns, blockSize, scheme } = matrix;
  const reason = refuses(weight, scheme);
  if (reason) throw new HalftoneError('internal', `weight "${name}": expected one for MatMulBnb4, got: ${reason}`);
  const bytes = packHighFirst(matrix);
  const codes = graph.addInitializer(`${name}/codes`, Tensor.uint8([bytes.length], bytes));
  const scales = flatScales(graph, constants, `${name}/scale`, matrix);
  const attributes = { K: columns, N: rows, block_size: blockSize, quant_type: quantTypes[scheme.format] };
  for (const { node } of weight.uses) {
    const added = biasOf(node);
    replaceProduct(node, weight.tensor.dtype, {
      op: 'MatMulBnb4',
      dtype: 'float32',
      inputs: [codes, scales],
      attributes,
      ...(added ? { added } : {}),
    });
  }
}

function packHighFirst(matrix: QuantizedMatrix): Uint8Array {
  if (matrix.stored) return matrix.stored.codes.read().map((byte) => (byte << 4) | (byte >> 4));
  const { codes } = matrix;
  const bytes = new Uint8Array(codes.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (codes[2 * i] << 4) | codes[2 * i + 1];
  return bytes;
}

/** Scales as float32 [rows·blocks]; stored as the scheme says. */
function flatScales(graph: Graph, constants: SharedConstants, name: string, matrix: QuantizedMatrix): Value {
  const { scheme, scales, factors, rows } = matrix;
  const flat = [scales.length];
  if (!factors || factors.length === 1) {
    return scaleValue(graph, constants, name, { scheme, scales, shape: flat, ...(factors ? { factors } : {}) });
  }
  const shape = [rows, blocksPerRow(matrix)];
  const stored = scaleValue(graph, constants, name, { scheme, scales, shape, factors, factorShape: [rows, 1] });
  return reshape(graph, constants, stored, flat, `${name}/flat`);
}

/** Bytes of the initializers that `lowerMatmulBnb4` writes; the node and biases come on top. */
export function matmulBnb4Bytes(
  rows: number,
  columns: number,
  parameters: number,
  { scheme }: Pick<QuantizedMatrix, 'scheme'>,
): number {
  return (rows * columns) / 2 + scaleBytes(scheme, parameters, rows);
}

/** Bytes of the same inputs in memory when the file is loaded. */
export function matmulBnb4LoadedBytes(rows: number, columns: number, parameters: number): number {
  return (rows * columns) / 2 + parameters * 4;
}
