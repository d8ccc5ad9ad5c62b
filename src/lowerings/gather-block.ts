/** Embedding tables of up to 8 bits with a scale per block: com.microsoft.GatherBlockQuantized (onnxruntime 1.30). */
import { HalftoneError } from '../base/errors.ts';
import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { dtypes } from '../tensor/dtype.ts';
import {
  blockBytes,
  blockCodes,
  blockLoadedBytes,
  blockScales,
  blocksDtype,
  blocksOpset,
  blockZeroPoints,
  kernelBits,
} from './blocks.ts';
import { refusesBlocks } from './linear.ts';
import type { SharedConstants, Weight, WeightLowering } from './weight.ts';

export const gatherBlock = {
  id: 'gather-block',
  summary:
    'embedding tables in blocks of up to 8 bits (com.microsoft.GatherBlockQuantized): rows are unpacked when read',
  domains: ['com.microsoft'],
  requiredOpset: blocksOpset,
  refuses,
} as const satisfies WeightLowering;

function refuses(weight: Weight, scheme: Scheme): string | undefined {
  const format = formatOf(scheme.format);
  const { dtype, shape } = weight.tensor;
  if (format.kind !== 'int') return `GatherBlockQuantized takes evenly spaced levels, got ${format.id}`;
  if (dtype !== 'float32' && dtype !== 'float16')
    return `GatherBlockQuantized expects float32 or float16, got ${dtype}`;
  for (const { kind, node } of weight.uses) {
    if (kind !== 'embedding') return `expected Gather along axis 0 as the only reader, got ${node.label} as well`;
  }
  if (shape.length !== 2) return `GatherBlockQuantized expects a table of vectors, got [${shape.join(',')}]`;
  // Two levels around zero need none.
  if (scheme.zeroPointType === 'float' && !scheme.symmetric) {
    return 'GatherBlockQuantized expects integer zero points, got float ones';
  }
  const bits = kernelBits(scheme) ?? format.bits;
  const reason = refusesBlocks(scheme, bits, 'GatherBlockQuantized');
  if (reason) return reason;
  const perByte = 8 / bits;
  if (shape[1] % perByte !== 0) {
    return `GatherBlockQuantized expects rows of whole bytes, got ${shape[1]} codes of ${bits} bits`;
  }
  return undefined;
}

/**
 * Replaces every Gather by GatherBlockQuantized: data uint8 [V, D·bits/8], scales [V, blocks], zero points packed uint8
 * [V, ceil(blocks·bits/8)], with bits the operator's. The result keeps its value and name.
 */
export function lowerGatherBlock(weight: Weight, matrix: QuantizedMatrix, constants: SharedConstants): void {
  const { name, graph } = weight.value;
  const { blockSize, columns, rows, scheme } = matrix;
  const bits = kernelBits(scheme) ?? 8;
  const reason = refuses(weight, scheme);
  if (reason) throw new HalftoneError('internal', `weight "${name}": expected a table to gather from, got: ${reason}`);
  const codes = blockCodes(graph, constants, name, matrix, columns, [rows, (columns * bits) / 8]);
  const dtype = blocksDtype(weight.tensor.dtype, matrix);
  const scales = blockScales(graph, constants, `${name}/scale`, matrix, dtype);
  const zeroPoints = blockZeroPoints(graph, constants, `${name}/zero_point`, matrix, dtype);
  for (const { node } of weight.uses) {
    const result = node.output();
    const own = weight.tensor.dtype === dtype;
    const gathered = node.graph.add(
      {
        op: 'GatherBlockQuantized',
        domain: 'com.microsoft',
        name: node.name,
        inputs: [codes, node.input(1), scales, ...(zeroPoints ? [zeroPoints] : [])],
        outputs: [own ? result : `${result.name}/${dtype}`],
        attributes: { gather_axis: 0, quantize_axis: 1, block_size: blockSize, bits },
      },
      node,
    );
    if (!own) {
      const attributes = { to: dtypes[weight.tensor.dtype].onnx };
      node.graph.add({ op: 'Cast', inputs: [gathered.output()], outputs: [result], attributes }, node);
    }
    node.graph.remove(node);
  }
}

/** Bytes of the initializers that `lowerGatherBlock` writes; the node comes on top. */
export function gatherBlockBytes(
  rows: number,
  columns: number,
  parameters: number,
  matrix: Pick<QuantizedMatrix, 'scheme'>,
): number {
  return blockBytes(rows, columns, parameters, matrix);
}

/** Bytes of the same inputs in memory when the file is loaded. */
export function gatherBlockLoadedBytes(
  rows: number,
  columns: number,
  parameters: number,
  matrix: Pick<QuantizedMatrix, 'scheme'>,
): number {
  return blockLoadedBytes(rows, columns, parameters, matrix);
}
