/** A scheme says how the numbers of one tensor are quantized: format, what shares a scale, symmetric or not, storage. */
import { HalftoneError } from '../base/errors.ts';
import { type FormatId, formatOf } from './index.ts';

/** What shares one scale and zero point: the tensor, an output channel (row), or `size` neighbours within a row. */
export type Granularity =
  | { readonly kind: 'tensor' }
  | { readonly kind: 'channel' }
  | { readonly kind: 'block'; readonly size: number };

export interface Scheme {
  readonly format: FormatId;
  readonly granularity: Granularity;
  /** Symmetric: the zero point is 0 (signed), the middle code (unsigned) or one half (one bit). */
  readonly symmetric: boolean;
  /** The element type that scales, and float zero points, are stored in. */
  readonly scaleType: 'float32' | 'float16';
  /** `float` lets the zero point lie between codes, so that zero itself may not be representable. */
  readonly zeroPointType: 'integer' | 'float';
}

/** The smallest and the largest block that a scheme may name. */
export const blockSizeLimits = { min: 2, max: 65536 } as const;

/** Block size of formats narrower than 8 bits when none is named: GGUF's Q4_0 block, and ONNX Runtime's fastest. */
const defaultBlockSize = 32;

/** One line that describes what `parseScheme` accepts. */
export const schemeGrammar = 'FORMAT[:tensor|:channel|:gN][:sym|:asym][:scale16|:scale32][:float-zero]';

function scaleTypeFor(granularity: Granularity): 'float32' | 'float16' {
  return granularity.kind === 'block' ? 'float16' : 'float32';
}

/**
 * The scheme a format gets when nothing else is said. 8 and 16 bits share a scale per channel, narrower formats per
 * block of 32; signed 8 and 16 bits and one signed bit are symmetric, the rest is not; scales are float16 for blocks.
 */
export function defaultScheme(id: FormatId): Scheme {
  const format = formatOf(id);
  if (format.kind === 'float') {
    return {
      format: id,
      granularity: { kind: 'tensor' },
      symmetric: true,
      scaleType: 'float32',
      zeroPointType: 'integer',
    };
  }
  const wide = format.bits >= 8;
  const granularity: Granularity = wide ? { kind: 'channel' } : { kind: 'block', size: defaultBlockSize };
  return {
    format: id,
    granularity,
    symmetric: wide ? format.signed : id === 'int1',
    scaleType: scaleTypeFor(granularity),
    zeroPointType: format.bits === 1 ? 'float' : 'integer',
  };
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
 * and optionally `:scale16|:scale32` (scale type) and `:float-zero`. Parts may come in any order, each at most once.
 * What is not said comes from `defaultScheme`; the scale type's default follows the granularity.
 * @throws HalftoneError `usage` naming the part that was not understood.
 */
export function parseScheme(text: string): Scheme {
  const [name, ...parts] = text.split(':');
  const base = defaultScheme(formatOf(name).id as FormatId);
  if (formatOf(name).kind === 'float' && parts.length > 0) {
    throw new HalftoneError('usage', `scheme "${text}": expected no options after ${name}, got ":${parts.join(':')}"`);
  }
  let granularity: Granularity | undefined;
  let symmetric: boolean | undefined;
  let scaleType: Scheme['scaleType'] | undefined;
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
    } else if (part === 'scale16' || part === 'scale32') {
      once(scaleType === undefined);
      scaleType = part === 'scale16' ? 'float16' : 'float32';
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
  const scheme: Scheme = {
    format: base.format,
    granularity: granularity ?? base.granularity,
    symmetric: symmetric ?? base.symmetric,
    scaleType: scaleType ?? scaleTypeFor(granularity ?? base.granularity),
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
  if (format.kind !== 'int') return;
  if (format.bits === 1 && scheme.zeroPointType !== 'float') {
    throw new HalftoneError('usage', `scheme ${scheme.format}: expected a float zero point, got an integer one`);
  }
  if (format.bits > 1 && scheme.symmetric && scheme.zeroPointType === 'float') {
    throw new HalftoneError(
      'usage',
      `scheme ${scheme.format}: expected asym with a float zero point, got sym: choose one of the two`,
    );
  }
}

/** The inverse of `parseScheme`: always names granularity and symmetry, and the rest where it is not the default. */
export function formatScheme(scheme: Scheme): string {
  const { format, granularity } = scheme;
  if (formatOf(format).kind === 'float') return format;
  const parts: string[] = [format, granularity.kind === 'block' ? `g${granularity.size}` : granularity.kind];
  parts.push(scheme.symmetric ? 'sym' : 'asym');
  if (scheme.scaleType !== scaleTypeFor(granularity))
    parts.push(scheme.scaleType === 'float16' ? 'scale16' : 'scale32');
  if (scheme.zeroPointType === 'float' && formatOf(format).bits > 1) parts.push('float-zero');
  return parts.join(':');
}
