/** Which kernels of ONNX Runtime 1.30 read the codes of a scheme, and where there are such kernels. */
import { type Format, formatOf } from '../formats/index.ts';
import { fp4, nf4 } from '../formats/levels.ts';
import { isAffine, type Scheme } from '../formats/scheme.ts';

/** What executes a model: the CPU provider of Node and of devices, and the two of onnxruntime-web. */
export type Provider = 'CPU' | 'WebAssembly' | 'WebGPU';

/** Kernels that compute with codes as they are stored, or as they are widened when the file is loaded. */
export interface NativeKernel {
  /** What they compute with: codes of 2, 4 or 8 bits and float activations, 8-bit integers on both sides, or a table. */
  readonly name: string;
  readonly operators: readonly string[];
  readonly on: readonly Provider[];
}

/** An entry: the kernel for a scheme, undefined where it does not read its codes. */
type Candidate = (scheme: Scheme, format: Format) => NativeKernel | undefined;

/** Block sizes that the operators on blocks take (onnxruntime 1.30; RUNTIMES-AND-ECOSYSTEM.md §2.1). */
function hasBlocks({ granularity }: Scheme): boolean {
  if (granularity.kind !== 'block') return false;
  const { size } = granularity;
  return size >= 16 && size <= 256 && Number.isInteger(Math.log2(size));
}

/** Widths of MatMulNBits and GatherBlockQuantized. Other widths are widened to the next when the file is loaded. */
const widths = [2, 4, 8] as const;

const blocks: Candidate = (scheme, format) => {
  if (format.kind !== 'int' || !hasBlocks(scheme)) return undefined;
  const width = widths.find((candidate) => candidate >= format.bits);
  if (width === undefined) return undefined;
  const isFloatZero = scheme.zeroPointType === 'float' && !scheme.symmetric;
  if (isFloatZero && width === 8) return undefined;
  return {
    name: `${width}-bit`,
    operators: isFloatZero ? ['MatMulNBits'] : ['MatMulNBits', 'GatherBlockQuantized'],
    on: isFloatZero ? ['CPU', 'WebAssembly'] : ['CPU', 'WebAssembly', 'WebGPU'],
  };
};

const integers: Candidate = (scheme, format) => {
  if (format.kind !== 'int' || format.bits !== 8 || !isAffine(scheme)) return undefined;
  if (scheme.granularity.kind === 'block' || scheme.zeroPointType === 'float') return undefined;
  return {
    name: 'integer',
    operators: ['QLinearConv', 'QLinearMatMul', 'QGemm', 'MatMulInteger', 'ConvInteger', 'DynamicQuantizeLSTM'],
    on: ['CPU', 'WebAssembly'],
  };
};

/** The tables that MatMulBnb4 has built in (com.microsoft, attribute quant_type). */
const tables: readonly Format[] = [fp4, nf4];

const bitsandbytes: Candidate = (scheme, format) => {
  if (!tables.includes(format) || !hasBlocks(scheme)) return undefined;
  return { name: 'table', operators: ['MatMulBnb4'], on: ['CPU', 'WebAssembly'] };
};

const candidates: readonly Candidate[] = [integers, blocks, bitsandbytes];

/**
 * The kernels that read the codes of a scheme; none where ONNX Runtime turns the codes into a float constant when it
 * loads the file, and computes in float. They exist for some operators only: see each one's `operators`.
 */
export function nativeKernels(scheme: Scheme): readonly NativeKernel[] {
  const format = formatOf(scheme.format);
  return candidates.flatMap((candidate) => candidate(scheme, format) ?? []);
}

/** How the float constant comes about where there is no kernel: by one Cast of an ONNX type, or from packed codes. */
export function unpackedBy({ format: id }: Scheme): 'cast' | 'unpack' {
  const format = formatOf(id);
  if (format.kind === 'float') return 'cast';
  return format.kind === 'levels' && format.dtype !== undefined && format.bits === 8 ? 'cast' : 'unpack';
}
