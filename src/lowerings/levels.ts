/** What codes stand for before they are scaled, where that is no integer: tables, native minifloats, five trits in a byte. */
import { HalftoneError } from '../base/errors.ts';
import { type CodebookFormat, type Format, formatOf, type LevelsFormat } from '../formats/index.ts';
import type { Codes, QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/value.ts';
import { type DType, dtypes } from '../tensor/dtype.ts';
import { type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';
import { cast, firstOf, floatValue, inner, op, packedBytes, packedCodes, reshape, unsignedCodes } from './codes.ts';
import type { SharedConstants } from './weight.ts';

/** The element type that a format's codes are stored in where ONNX Runtime can turn it into floats: floats of 8 bits. */
export function nativeType(format: Format): DType | undefined {
  return format.kind === 'levels' && format.dtype && dtypes[format.dtype].bits === 8 ? format.dtype : undefined;
}

/** The levels of a format as float32 [2^bits], for codes to gather from; 0 where a code has none. */
export function levelTable(constants: SharedConstants, { id, levels }: LevelsFormat): Value {
  return constants.get(`levels_${id}`, () =>
    Tensor.float32(
      [levels.length],
      levels.map((level) => (Number.isNaN(level) ? 0 : level)),
    ),
  );
}

/** The levels of codes in a format of levels: a float32 value of `shape`. Opset 11; floats of 8 bits need 19. */
export function levelValue(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  format: LevelsFormat,
  codes: Codes,
  shape: Shape,
): Value {
  const native = nativeType(format);
  const unsigned = unsignedCodes(codes, 0) as Uint8Array;
  if (native) {
    return cast(graph, graph.addInitializer(`${name}/codes`, new Tensor(native, shape, unsigned)), 'float32', inner);
  }
  const indices = packedCodes(graph, constants, name, unsigned, format.bits, shape, 'int32');
  return op(graph, 'Gather', [levelTable(constants, format), indices], inner);
}

/** The type that a codebook is stored in. Tables that scales stretch are as short as their blocks' scales mostly are. */
function codebookType({ granularity, scaleType }: Scheme): 'float32' | 'float16' {
  return granularity.kind !== 'block' && scaleType === 'float32' ? 'float32' : 'float16';
}

/** Whether every row has a codebook of its own. */
export function hasRowTables({ format, granularity }: Scheme): boolean {
  return formatOf(format).kind === 'codebook' && granularity.kind === 'channel';
}

/** Whether numbers are levels times scales: codebooks of a tensor or a row are levels alone. */
export function hasScales({ format, granularity }: Scheme): boolean {
  return formatOf(format).kind !== 'codebook' || granularity.kind === 'block';
}

/**
 * The levels of codes in a codebook format: a float32 value of `shape`. Where every row has a table, codes are those of
 * [rows, 1, columns].
 */
export function codebookValue(
  graph: Graph,
  constants: SharedConstants,
  name: string,
  { scheme, rows, codebook }: QuantizedMatrix,
  codes: Codes,
  shape: Shape,
): Value {
  if (!codebook) throw new HalftoneError('internal', `"${name}": expected a codebook, got none`);
  const { bits } = formatOf(scheme.format) as CodebookFormat;
  const perRow = hasRowTables(scheme);
  const tableShape = perRow ? [rows, 1, 2 ** bits] : [2 ** bits];
  const table = floatValue(graph, `${name}/codebook`, codebook, codebookType(scheme), tableShape);
  const indices = packedCodes(graph, constants, name, unsignedCodes(codes, 0), bits, shape, 'int32');
  // Half the time of one long table and indices that count rows (measured, onnxruntime 1.30).
  if (perRow) return op(graph, 'GatherElements', [table, indices], inner, { axis: 2 });
  return op(graph, 'Gather', [table, indices], inner);
}

/** Bytes of a scheme's codebooks. */
export function codebookBytes(scheme: Scheme, rows: number): number {
  const { kind, bits } = formatOf(scheme.format);
  if (kind !== 'codebook') return 0;
  return (hasRowTables(scheme) ? rows : 1) * 2 ** bits * (codebookType(scheme) === 'float32' ? 4 : 2);
}

/** 3^5 = 243 fits into a byte. */
const tritsPerByte = 5;

/** Codes −1, 0 and 1 in base 3: byte b holds codes 5·b … 5·b + 4, the first as its lowest digit. */
export function packedTrits(codes: Codes): Uint8Array {
  const bytes = new Uint8Array(tritBytes(codes.length));
  for (let b = 0; b < bytes.length; b++) {
    let byte = 0;
    for (let i = Math.min((b + 1) * tritsPerByte, codes.length) - 1; i >= b * tritsPerByte; i--) {
      if (codes[i] < -1 || codes[i] > 1) {
        throw new HalftoneError('internal', `ternary codes: expected −1, 0 and 1, got ${codes[i]}`);
      }
      byte = byte * 3 + codes[i] + 1;
    }
    bytes[b] = byte;
  }
  return bytes;
}

/** Bytes that `packedTrits` makes of `count` codes. */
export function tritBytes(count: number): number {
  return Math.ceil(count / tritsPerByte);
}

/** Codes −1, 0 and 1 as a float32 value of `shape`, stored as `packedTrits`: a table tells the digits of each byte. */
export function tritValue(graph: Graph, constants: SharedConstants, name: string, codes: Codes, shape: Shape): Value {
  const bytes = packedTrits(codes);
  const stored = graph.addInitializer(`${name}/codes`, Tensor.uint8([bytes.length], bytes));
  const table = constants.get('trits', () => {
    const digits = Float32Array.from({ length: 3 ** tritsPerByte * tritsPerByte }, (_, index) => {
      const byte = Math.floor(index / tritsPerByte);
      return (Math.floor(byte / 3 ** (index % tritsPerByte)) % 3) - 1;
    });
    return Tensor.float32([3 ** tritsPerByte, tritsPerByte], digits);
  });
  const digits = op(graph, 'Gather', [table, cast(graph, stored, 'int32', inner)], inner);
  const length = bytes.length * tritsPerByte;
  const count = sizeOf(shape);
  if (length === count) return reshape(graph, constants, digits, shape, inner);
  const flat = reshape(graph, constants, digits, [length], inner);
  return reshape(graph, constants, firstOf(graph, constants, flat, count), shape, inner);
}

/** Bytes of `count` codes as fold-at-load stores them. */
export function codeBytes(format: Format, count: number): number {
  if (format.kind === 'residual') return format.bits * packedBytes(count, 1);
  return format.kind === 'int' && format.least !== undefined ? tritBytes(count) : packedBytes(count, format.bits);
}
