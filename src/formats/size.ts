/** How many levels a format has, and how many bits a weight takes under a scheme. */
import type { DType } from '../tensor/dtype.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';
import { type FloatFormat, type Format, formatOf, type IntFormat, type LevelsFormat } from './index.ts';
import type { Scheme } from './scheme.ts';

/** Rows of this length are assumed where a parameter serves a whole row. */
export const assumedColumns = 1024;

/**
 * The levels that codes of a format stand for, ascending, each once, for a scale of 1 (integers: and the middle zero
 * point). Undefined for formats whose levels come from the numbers.
 */
export function levelsIn(format: Format): Float32Array | undefined {
  switch (format.kind) {
    case 'int': {
      const least = format.least ?? format.min;
      const middle = format.bits === 1 ? 0.5 : format.signed ? 0 : 2 ** (format.bits - 1);
      return Float32Array.from({ length: format.max - least + 1 }, (_, index) => least + index - middle);
    }
    case 'levels':
    case 'float':
      return ascending(valuesOf(format));
    default:
      return undefined;
  }
}

/** The values of all codes, NaN and infinities among them. */
function valuesOf(format: FloatFormat | LevelsFormat): Float32Array {
  if (format.kind === 'levels') return format.levels;
  const codes = Uint16Array.from({ length: 2 ** format.bits }, (_, code) => code);
  return new Tensor(format.id as DType, [codes.length], bytesOf(codes)).floats();
}

function ascending(values: Float32Array): Float32Array {
  const sorted = values.filter(Number.isFinite).sort();
  return sorted.filter((value, index) => index === 0 || value !== sorted[index - 1]);
}

/** How many different levels a format has. */
export function levelCount(format: Format): number {
  if (format.kind === 'int') return format.max - (format.least ?? format.min) + 1;
  if (format.kind !== 'levels' && format.kind !== 'float') return 2 ** format.bits;
  return new Set(valuesOf(format).filter(Number.isFinite)).size;
}

/** Bits of one code in a file. Three codes are stored five to a byte, since 3⁵ < 2⁸. */
function codeBits(format: Format): number {
  if (format.kind !== 'int' || format.least === undefined) return format.bits;
  return 8 / Math.floor(8 / Math.log2(format.max - format.least + 1));
}

/** Bits of a stored scale; what all scales of a row, or of the tensor, are multiplied with is not in it. */
const scaleBits = { float32: 32, float16: 16, int8: 8, float8e8m0: 8, float8e4m3fn: 8 } as const;

function zeroPointBits(format: IntFormat, { symmetric, zeroPointType, scaleType }: Scheme): number {
  if (symmetric) return 0;
  return zeroPointType === 'float' ? scaleBits[scaleType] : format.bits;
}

/**
 * Bits that a weight takes in a file: its code and its share of scales, zero points and codebooks of rows. What a tensor
 * has once (a codebook, a factor, the scale of a tensor) is not counted.
 * @param columns length of a row
 */
export function bitsPerWeight(scheme: Scheme, columns = assumedColumns): number {
  const format = formatOf(scheme.format);
  const { granularity, scaleType } = scheme;
  const bits = codeBits(format);
  if (format.kind === 'float' || granularity.kind === 'tensor') return bits;
  if (granularity.kind === 'channel') {
    if (format.kind === 'codebook') return bits + (2 ** bits * scaleBits[scaleType]) / columns;
    return bits + parameterBits(format, scheme) / columns;
  }
  const factor = scaleType === 'int8' ? 32 / columns : 0;
  return bits + parameterBits(format, scheme) / Math.min(granularity.size, columns) + factor;
}

function parameterBits(format: Format, scheme: Scheme): number {
  const scale = scaleBits[scheme.scaleType];
  if (format.kind === 'residual') return format.bits * scale;
  return scale + (format.kind === 'int' ? zeroPointBits(format, scheme) : 0);
}
