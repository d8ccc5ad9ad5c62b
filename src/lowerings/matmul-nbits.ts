/** Weights of MatMul and Gemm in 2, 4 or 8 bits with a scale per block: com.microsoft.MatMulNBits (onnxruntime 1.30). */
import { HalftoneError } from '../base/errors.ts';
import { intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { dtypes } from '../tensor/dtype.ts';
import { Tensor } from '../tensor/tensor.ts';
import { blockBytes, blockScales, blocksPerRow, floatZeroPoints, packedMatrix, packedZeroPoints } from './blocks.ts';
import { cast } from './codes.ts';
import { biasOf, isPerOutput, refusesBlocks, refusesLinear } from './linear.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

/** How exact activations are: 0 and 1 keep float32, 4 rounds each block of them to 8 bits at run time. */
export type AccuracyLevel = 0 | 1 | 4;

/**
 * At level 4 the relative error of a layer's output is about 0.3 … 0.9 %. On CPUs it is what makes the operator fast:
 * without it 2 and 8 bits take 80 to 220 times as long (weights are unpacked to float at every call) and 4 bits about
 * four times. Measured with onnxruntime 1.30, RUNTIMES-AND-ECOSYSTEM.md §2.3. Float zero points ignore it.
 */
export const defaultAccuracyLevel: AccuracyLevel = 4;

export const matmulNbits = {
  id: 'matmul-nbits',
  summary: 'MatMul and Gemm on 2, 4 or 8-bit blocks (com.microsoft.MatMulNBits): small file, fast on CPU and WebGPU',
  domains: ['com.microsoft'],
  requiredOpset: () => 7,
  refuses,
} as const satisfies WeightLowering;

function refuses(weight: Weight, scheme: Scheme): string | undefined {
  const { bits } = intFormatOf(scheme.format);
  const { dtype, shape } = weight.tensor;
  if (dtype !== 'float32' && dtype !== 'float16') return `MatMulNBits expects float32 or float16, got ${dtype}`;
  const reason = refusesLinear(weight);
  if (reason) return reason;
  if (shape.length !== 2) return `MatMulNBits expects one matrix, got a batch of them ([${shape.join(',')}])`;
  for (const { node } of weight.uses) {
    const beta = biasOf(node) ? node.float('beta', 1) : 1;
    if (beta !== 1) return `expected ${node.label} with beta = 1, got ${beta}`;
  }
  if (scheme.zeroPointType === 'float' && bits === 8) return 'MatMulNBits expects integer zero points for 8 bits';
  return refusesBlocks(scheme, bits, 'MatMulNBits');
}

/** The inputs of MatMulNBits that come from the weight, made once for all readers. */
interface PackedWeight {
  readonly codes: Value;
  readonly scales: Value;
  readonly zeroPoints: Value | undefined;
  readonly dtype: 'float32' | 'float16';
}

/**
 * Replaces every reader by MatMulNBits: B uint8 [N, blocks, blockSize·bits/8], scales [N, blocks], zero points packed
 * uint8 or float. A Gemm's constant bias of N numbers becomes the operator's own, any other C is added behind it. The
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
  const { bits } = intFormatOf(matrix.scheme.format);
  const { blockSize, rows, scheme } = matrix;
  const reason = refuses(weight, scheme);
  if (reason) throw new HalftoneError('internal', `weight "${name}": expected one for MatMulNBits, got: ${reason}`);
  const blocks = blocksPerRow(matrix);
  const bytes = packedMatrix(matrix, blocks * blockSize);
  const codes = graph.addInitializer(
    `${name}/codes`,
    new Tensor('uint8', [rows, blocks, (blockSize * bits) / 8], bytes),
  );
  const dtype = weight.tensor.dtype === 'float16' && scheme.scaleType === 'float16' ? 'float16' : 'float32';
  const scales = blockScales(graph, constants, `${name}/scale`, matrix, dtype);
  const zeroPoints =
    scheme.zeroPointType === 'float'
      ? floatZeroPoints(graph, constants, `${name}/zero_point`, matrix, dtype)
      : packedZeroPoints(graph, `${name}/zero_point`, matrix);
  return { codes, scales, zeroPoints, dtype };
}

function replaceNode(
  node: Node,
  weight: Weight,
  matrix: QuantizedMatrix,
  packed: PackedWeight,
  accuracyLevel: AccuracyLevel,
): void {
  const { graph } = node;
  const result = node.output();
  const c = biasOf(node);
  const own = weight.tensor.dtype === packed.dtype;
  const bias = c && own && isPerOutput(c, matrix.rows) ? c : undefined;
  const rest = c && !bias ? c : undefined;
  const x = own ? node.input(0) : cast(graph, node.input(0), packed.dtype, `${result.name}/input`);
  const optional = bias ? [packed.zeroPoints, undefined, vector(bias)] : packed.zeroPoints ? [packed.zeroPoints] : [];
  const product = graph.add(
    {
      op: 'MatMulNBits',
      domain: 'com.microsoft',
      name: node.name,
      inputs: [x, packed.codes, packed.scales, ...optional],
      outputs: [own && !rest ? result : `${result.name}/product`],
      attributes: {
        K: matrix.columns,
        N: matrix.rows,
        bits: intFormatOf(matrix.scheme.format).bits,
        block_size: matrix.blockSize,
        accuracy_level: accuracyLevel,
      },
    },
    node,
  );
  let last = product;
  if (!own) {
    const attributes = { to: dtypes[weight.tensor.dtype].onnx };
    const outputs = [rest ? `${result.name}/cast` : result];
    last = graph.add({ op: 'Cast', inputs: [last.output()], outputs, attributes }, node);
  }
  if (rest) graph.add({ op: 'Add', inputs: [last.output(), rest], outputs: [result] }, node);
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
  const { granularity } = matrix.scheme;
  const blockSize = granularity.kind === 'block' ? granularity.size : columns;
  return blockBytes(rows, (parameters / rows) * blockSize, parameters, matrix);
}
