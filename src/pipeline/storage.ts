/** What a quantized weight takes in the file, what executes it, and what that takes in memory. */
import { formatOf } from '../formats/index.ts';
import { parameterLayout } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { kernelBits } from '../lowerings/blocks.ts';
import { dynamicBytes } from '../lowerings/dynamic.ts';
import { foldAtLoadBytes } from '../lowerings/fold-at-load.ts';
import { gatherBlockBytes, gatherBlockLoadedBytes } from '../lowerings/gather-block.ts';
import type { LoweringId } from '../lowerings/index.ts';
import { matmulBnb4Bytes, matmulBnb4LoadedBytes } from '../lowerings/matmul-bnb4.ts';
import { matmulNbitsBytes, matmulNbitsLoadedBytes } from '../lowerings/matmul-nbits.ts';
import type { Weight } from '../lowerings/weight.ts';
import { byteLengthOf } from '../tensor/dtype.ts';

export interface Storage {
  /** Bytes of the weight's initializers in the file: codes, scales, zero points, codebooks. */
  readonly bytes: number;
  /** The operators that compute with it, and in what. */
  readonly executes: string;
  /** Bytes that the runtime holds for it once the file is loaded. */
  readonly loadedBytes: number;
}

/** How a weight is kept when it is written by a lowering under a scheme. */
export function storageOf(weight: Weight, scheme: Scheme, lowering: LoweringId): Storage {
  const { rows, columns } = weight.use.view;
  const { tensor } = weight;
  const { kind, bits } = formatOf(scheme.format);
  const floats = { executes: `float ${weight.use.node.op}, unpacked when loaded`, loadedBytes: tensor.byteLength };
  if (kind === 'float') return { bytes: Math.ceil((tensor.size * bits) / 8), ...floats };
  const { count } = parameterLayout(scheme, rows, columns);
  switch (lowering) {
    case 'matmul-nbits':
      return {
        bytes: matmulNbitsBytes(rows, columns, count, { scheme }),
        executes: `MatMulNBits of ${kernelBits(scheme)} bits`,
        loadedBytes: matmulNbitsLoadedBytes(rows, columns, count, { scheme }),
      };
    case 'matmul-bnb4':
      return {
        bytes: matmulBnb4Bytes(rows, columns, count, { scheme }),
        executes: 'MatMulBnb4',
        loadedBytes: matmulBnb4LoadedBytes(rows, columns, count),
      };
    case 'gather-block':
      return {
        bytes: gatherBlockBytes(rows, columns, count, { scheme }),
        executes: `GatherBlockQuantized of ${kernelBits(scheme)} bits`,
        loadedBytes: gatherBlockLoadedBytes(rows, columns, count, { scheme }),
      };
    case 'fold-at-load':
      return { bytes: foldAtLoadBytes(rows, columns, count, { scheme }), ...floats };
    case 'dynamic': {
      const bytes = dynamicBytes(rows, columns, count, { scheme });
      return { bytes, executes: '8-bit integers, activations quantized at run time', loadedBytes: bytes };
    }
    default: {
      const parameters = count * (scheme.symmetric ? 4 : 5);
      return {
        bytes: Math.ceil((tensor.size * bits) / 8) + parameters,
        executes: '8-bit integer kernels',
        loadedBytes: byteLengthOf('int8', tensor.size) + parameters,
      };
    }
  }
}
