/** The family of number formats: one explicit list, from which ids, help and validation derive. */
import { HalftoneError } from '../base/errors.ts';
import { bfloat16, type FloatFormat, float16 } from './float.ts';
import { type IntFormat, int1, signedInteger, unsignedInteger } from './integer.ts';

export type { FloatFormat } from './float.ts';
export type { IntFormat } from './integer.ts';
export type Format = IntFormat | FloatFormat;

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
  float16,
  bfloat16,
] as const;

export type FormatId = (typeof formats)[number]['id'];

/** The ids of all formats, in list order. */
export const formatIds: readonly FormatId[] = formats.map((format) => format.id);

/**
 * The format with this id.
 * @throws HalftoneError `usage` for an unknown id.
 */
export function formatOf(id: string): Format {
  const format = formats.find((candidate) => candidate.id === id);
  if (!format) throw new HalftoneError('usage', `format: expected one of ${formatIds.join(', ')}, got "${id}"`);
  return format;
}

/**
 * The integer format with this id.
 * @throws HalftoneError `usage` for an unknown id or a float format.
 */
export function intFormatOf(id: string): IntFormat {
  const format = formatOf(id);
  if (format.kind !== 'int') throw new HalftoneError('usage', `format: expected an integer format, got "${id}"`);
  return format;
}
