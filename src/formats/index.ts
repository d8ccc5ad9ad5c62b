/** The family of number formats: one explicit list, from which ids, help and validation derive. */
import { HalftoneError } from '../base/errors.ts';
import { type CodebookFormat, kmeans, quantile } from './codebook.ts';
import { bfloat16, type FloatFormat, float16 } from './float.ts';
import { type IntFormat, int1, signedInteger, ternary, unsignedInteger } from './integer.ts';
import { additivePowerOfTwo, fp4, type LevelsFormat, minifloat, nf4, powerOfTwo } from './levels.ts';
import { type ResidualFormat, residualBinary } from './residual.ts';

export type { CodebookFormat } from './codebook.ts';
export type { FloatFormat } from './float.ts';
export type { IntFormat } from './integer.ts';
export type { LevelsFormat } from './levels.ts';
export type { ResidualFormat } from './residual.ts';
export type Format = IntFormat | FloatFormat | LevelsFormat | CodebookFormat | ResidualFormat;

/** Every number format that a weight or an activation can be given. */
export const formats = [
  int1,
  signedInteger(2),
  signedInteger(3),
  signedInteger(4),
  signedInteger(5),
  signedInteger(6),
  signedInteger(7),
  signedInteger(8),
  signedInteger(16),
  unsignedInteger(1),
  unsignedInteger(2),
  unsignedInteger(3),
  unsignedInteger(4),
  unsignedInteger(5),
  unsignedInteger(6),
  unsignedInteger(7),
  unsignedInteger(8),
  unsignedInteger(16),
  ternary,
  residualBinary(2),
  residualBinary(3),
  float16,
  bfloat16,
  minifloat('float8e4m3fn', 'a float of 4 exponent and 3 mantissa bits, up to 448'),
  minifloat('float8e5m2', 'a float of 5 exponent and 2 mantissa bits, up to 57344'),
  minifloat('float8e4m3fnuz', 'as float8e4m3fn without minus zero, up to 240'),
  minifloat('float8e5m2fnuz', 'as float8e5m2 without minus zero and infinities'),
  minifloat('float6e2m3', 'a float of 2 exponent and 3 mantissa bits, up to 7.5'),
  minifloat('float6e3m2', 'a float of 3 exponent and 2 mantissa bits, up to 28'),
  minifloat('float4e2m1', 'a float of 2 exponent bits and 1 mantissa bit, up to 6'),
  nf4,
  fp4,
  powerOfTwo(3),
  powerOfTwo(4),
  powerOfTwo(5),
  additivePowerOfTwo(4),
  additivePowerOfTwo(5),
  additivePowerOfTwo(6),
  additivePowerOfTwo(7),
  additivePowerOfTwo(8),
  kmeans(2),
  kmeans(3),
  kmeans(4),
  kmeans(5),
  kmeans(6),
  kmeans(7),
  kmeans(8),
  quantile(2),
  quantile(3),
  quantile(4),
  quantile(5),
  quantile(6),
  quantile(7),
  quantile(8),
] as const;

export type FormatId = (typeof formats)[number]['id'];

/** The ids of all formats, in list order. */
export const formatIds: readonly FormatId[] = formats.map((format) => format.id);

/**
 * The format with this id.
 * @throws HalftoneError `usage` for an unknown id.
 */
export function formatOf(id: string): Format {
  const format: Format | undefined = formats.find((candidate) => candidate.id === id);
  if (!format) {
    throw new HalftoneError(
      'usage',
      `format: expected one of ${formatIds.join(', ')}, got "${id}"; \`halftone formats\` tells what they are`,
    );
  }
  return format;
}

/**
 * The integer format with this id.
 * @throws HalftoneError `usage` for an unknown id or another kind of format.
 */
export function intFormatOf(id: string): IntFormat {
  const format = formatOf(id);
  if (format.kind !== 'int') throw new HalftoneError('usage', `format: expected an integer format, got "${id}"`);
  return format;
}
