/** A scheme says how the numbers of one tensor are quantized: format, what shares a scale, symmetric or not, storage. */
import { HalftoneError } from '../base/errors.ts';
import { type Format, type FormatId, formatOf } from './index.ts';
import { type NamedScheme, namedSchemes } from './named.ts';

/** What shares one scale and zero point: the tensor, an output channel (row), or `size` neighbours within a row. */
export type Granularity =
  | { readonly kind: 'tensor' }
  | { readonly kind: 'channel' }
  | { readonly kind: 'block'; readonly size: number };

/**
 * How scales are stored.
 * - `float32`, `float16`: as they are.
 * - `int8`: as multiples −127 … 127 of one float32 factor for each row (double quantization).
 * - `float8e8m0`: as powers of two (OCP Microscaling Formats 1.0).
 * - `float8e4m3fn`: as multiples of one float32 factor for the tensor (NVFP4).
 */
export type ScaleType = 'float32' | 'float16' | 'int8' | 'float8e8m0' | 'float8e4m3fn';

export interface Scheme {
  readonly format: FormatId;
  /** In codebook formats: one table for the tensor, for each row, or for the tensor's numbers divided by their block's scale. */
  readonly granularity: Granularity;
  /**
   * Symmetric: the zero point is 0 (signed), the middle code (unsigned) or one half (one bit). All but integer formats
   * are, whatever their levels.
   */
  readonly symmetric: boolean;
  /** How scales are stored; float zero points, and codebooks without scales, have this type, too. */
  readonly scaleType: ScaleType;
  /** `float` lets the zero point lie between codes, so that zero itself may not be representable. */
  readonly zeroPointType: 'integer' | 'float';
}

/** The smallest and the largest block that a scheme may name. */
export const blockSizeLimits = { min: 2, max: 65536 } as const;

/** Block size of formats narrower than 8 bits when none is named: GGUF's Q4_0 block, and ONNX Runtime's fastest. */
const defaultBlockSize = 32;

/** One line that describes what `parseScheme` accepts. */
export const schemeGrammar =
  'FORMAT[:tensor|:channel|:gN][:sym|:asym][:scale32|:scale16|:scale8|:scale-e8m0|:scale-e4m3][:float-zero]';

/** What scale types are called in schemes. */
const scaleNames: Readonly<Record<string, ScaleType>> = {
  scale32: 'float32',
  scale16: 'float16',
  scale8: 'int8',
  'scale-e8m0': 'float8e8m0',
  'scale-e4m3': 'float8e4m3fn',
};

function scaleTypeFor(granularity: Granularity, format: Format): ScaleType {
  // Sixteen bits of codes are finer than float16 holds a scale: the largest of a block would be cut off.
  if (granularity.kind === 'block') return format.kind === 'int' && format.bits > 8 ? 'float32' : 'float16';
  // A table for each row is as large as many scales.
  return format.kind === 'codebook' && granularity.kind === 'channel' ? 'float16' : 'float32';
}

/** Whether all numbers of the tensor decide together: a common table, or a common factor. */
export function needsWholeTensor({ format, granularity, scaleType }: Scheme): boolean {
  if (granularity.kind === 'tensor' || scaleType === 'float8e4m3fn') return true;
  return formatOf(format).kind === 'codebook' && granularity.kind === 'block';
}

/** Whether a scheme's numbers are stored as shorter floats, without scales. */
export function isPlainFloat(scheme: string): boolean {
  return formatOf(parseScheme(scheme).format).kind === 'float';
}

/** Whether integers are stretched by plain scales: what most operators, and the fast kernels, take. */
export function isAffine({ format, scaleType }: Scheme): boolean {
  return formatOf(format).kind === 'int' && (scaleType === 'float32' || scaleType === 'float16');
}

function defaultGranularity(format: Format): Granularity {
  switch (format.kind) {
    case 'float':
      return { kind: 'tensor' };
    case 'int':
      return format.bits >= 8 ? { kind: 'channel' } : { kind: 'block', size: defaultBlockSize };
    case 'levels':
      return format.shares === 'channel' ? { kind: 'channel' } : { kind: 'block', size: defaultBlockSize };
    default:
      return { kind: 'block', size: defaultBlockSize };
  }
}

/**
 * The scheme a format gets when nothing else is said. 8 and 16 bits share a scale per channel, other formats per block
 * of 32; integers other than signed 8 and 16 bits, one signed bit and ternary ones are asymmetric; scales of blocks are
 * float16, those of 16 bits float32.
 */
export function defaultScheme(id: FormatId): Scheme {
  const format = formatOf(id);
  const granularity = defaultGranularity(format);
  const isInt = format.kind === 'int';
  const symmetric = !isInt || (format.bits >= 8 ? format.signed : id === 'int1' || format.least !== undefined);
  return {
    format: id,
    granularity,
    symmetric,
    scaleType: format.kind === 'float' ? 'float32' : scaleTypeFor(granularity, format),
    zeroPointType: isInt && format.bits === 1 ? 'float' : 'integer',
  };
}

const named: readonly NamedScheme[] = namedSchemes;

/** The scheme that a format's or a named scheme's id stands for. @throws HalftoneError `usage` for an unknown id. */
function schemeOf(id: string): Scheme & { readonly name?: NamedScheme } {
  const name = named.find((candidate) => candidate.id === id);
  if (!name) return defaultScheme(formatOf(id).id as FormatId);
  const { format, blockSize: size, scaleType } = name;
  return { ...defaultScheme(format), granularity: { kind: 'block', size }, symmetric: true, scaleType, name };
}

function parseBlockSize(text: string, part: string): number {
  const size = Number(part.slice(1));
  if (!/^g\d+$/.test(part) || size < blockSizeLimits.min || size > blockSizeLimits.max) {
    throw new HalftoneError(
      'usage',
      `scheme "${text}": expected a block size g${blockSizeLimits.min} … g${blockSizeLimits.max}, got "${part}"`,
    );
  }
  return size;
}

/**
 * Reads a scheme as written on the command line: `F[:tensor|:channel|:gN][:sym|:asym]`, for example `int4:g32:asym`,
 * and optionally a scale type (`:scale32`, `:scale16`, `:scale8`, `:scale-e8m0`, `:scale-e4m3`) and `:float-zero`. F is a
 * format or a named scheme such as `mxfp4`. Parts may come in any order, each at most once. What is not said comes from
 * `defaultScheme`; the scale type's default follows the granularity.
 * @throws HalftoneError `usage` naming the part that was not understood.
 */
export function parseScheme(text: string): Scheme {
  const [id, ...parts] = text.split(':');
  const { name, ...base } = schemeOf(id);
  const format = formatOf(base.format);
  if (format.kind === 'float' && parts.length > 0) {
    throw new HalftoneError('usage', `scheme "${text}": expected no options after ${id}, got ":${parts.join(':')}"`);
  }
  let granularity: Granularity | undefined;
  let symmetric: boolean | undefined;
  let scaleType: ScaleType | undefined;
  let zeroPointType: Scheme['zeroPointType'] | undefined;
  for (const part of parts) {
    const once = (isNew: boolean) => {
      if (!isNew) {
        throw new HalftoneError('usage', `scheme "${text}": expected each option once, got a second one in ":${part}"`);
      }
    };
    if (part === 'tensor' || part === 'channel') {
      once(granularity === undefined);
      granularity = { kind: part };
    } else if (part === 'sym' || part === 'asym') {
      once(symmetric === undefined);
      symmetric = part === 'sym';
    } else if (Object.hasOwn(scaleNames, part)) {
      once(scaleType === undefined);
      scaleType = scaleNames[part];
    } else if (part === 'float-zero') {
      once(zeroPointType === undefined);
      zeroPointType = 'float';
    } else if (/^g[\d.+-]/.test(part)) {
      once(granularity === undefined);
      granularity = { kind: 'block', size: parseBlockSize(text, part) };
    } else {
      throw new HalftoneError('usage', `scheme "${text}": expected ${schemeGrammar}, got ":${part}"`);
    }
  }
  if (name && ((granularity && granularity.kind !== 'block') || scaleType || symmetric === false || zeroPointType)) {
    throw new HalftoneError(
      'usage',
      `scheme "${text}": expected at most a block size after ${id}, got ":${parts.join(':')}"; ${base.format} takes more`,
    );
  }
  const scheme: Scheme = {
    format: base.format,
    granularity: granularity ?? base.granularity,
    symmetric: symmetric ?? base.symmetric,
    scaleType: scaleType ?? (name ? base.scaleType : scaleTypeFor(granularity ?? base.granularity, format)),
    zeroPointType: zeroPointType ?? base.zeroPointType,
  };
  checkScheme(scheme);
  return scheme;
}

/**
 * Refuses schemes that contradict themselves, for example from a recipe file.
 * @throws HalftoneError `usage`.
 */
export function checkScheme(scheme: Scheme): void {
  const format = formatOf(scheme.format);
  const { granularity } = scheme;
  if (granularity.kind === 'block') {
    const { size } = granularity;
    if (!Number.isInteger(size) || size < blockSizeLimits.min || size > blockSizeLimits.max) {
      throw new HalftoneError(
        'usage',
        `scheme ${scheme.format}: expected a block size of ${blockSizeLimits.min} … ${blockSizeLimits.max}, got ${size}`,
      );
    }
  }
  const refuse = (expected: string, got: string) => {
    throw new HalftoneError('usage', `scheme ${scheme.format}: expected ${expected}, got ${got}`);
  };
  const { symmetric, scaleType, zeroPointType } = scheme;
  if (format.kind !== 'int') {
    if (!symmetric) refuse('no asym, which only integer formats have', 'asym');
    if (zeroPointType === 'float') refuse('no zero point, which only integer formats have', 'a float one');
  } else {
    if (format.bits === 1 && zeroPointType !== 'float') refuse('a float zero point', 'an integer one');
    if (format.least !== undefined && !symmetric) refuse('sym, since its levels are', 'asym');
    if (format.bits > 1 && symmetric && zeroPointType === 'float') {
      refuse('asym with a float zero point', 'sym: choose one of the two');
    }
    if (zeroPointType === 'float' && !symmetric && !['float32', 'float16'].includes(scaleType)) {
      refuse('scale32 or scale16 with a float zero point', nameOfScale(scaleType));
    }
    if (!symmetric && (scaleType === 'float8e8m0' || scaleType === 'float8e4m3fn')) {
      refuse('sym with scales of few digits', `asym and ${nameOfScale(scaleType)}`);
    }
    if (format.bits > 8 && !['float32', 'float16'].includes(scaleType)) {
      refuse('scale32 or scale16 with 16 bits', nameOfScale(scaleType));
    }
  }
  const needsBlocks = scaleType === 'int8' || scaleType === 'float8e4m3fn';
  if (needsBlocks && granularity.kind !== 'block') {
    refuse(`a block size with ${nameOfScale(scaleType)}, whose factor serves many scales`, granularity.kind);
  }
  if (format.kind === 'codebook' && granularity.kind !== 'block' && scaleType === 'float8e8m0') {
    refuse('a codebook in float32 or float16', nameOfScale(scaleType));
  }
}

function nameOfScale(type: ScaleType): string {
  return Object.keys(scaleNames).find((name) => scaleNames[name] === type) ?? type;
}

/** The inverse of `parseScheme`: always names granularity and symmetry, and the rest where it is not the default. */
export function formatScheme(scheme: Scheme): string {
  const { granularity, scaleType } = scheme;
  const format = formatOf(scheme.format);
  if (format.kind === 'float') return format.id;
  const share = granularity.kind === 'block' ? `g${granularity.size}` : granularity.kind;
  const name = named.find((candidate) => candidate.format === format.id && candidate.scaleType === scaleType);
  if (name && granularity.kind === 'block' && scheme.symmetric) return `${name.id}:${share}`;
  const parts: string[] = [format.id, share];
  if (format.kind === 'int') parts.push(scheme.symmetric ? 'sym' : 'asym');
  if (scaleType !== scaleTypeFor(granularity, format)) parts.push(nameOfScale(scaleType));
  if (scheme.zeroPointType === 'float' && format.bits > 1) parts.push('float-zero');
  return parts.join(':');
}
