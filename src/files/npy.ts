/**
 * NumPy's `.npy`: one array a file.
 * Layout: numpy.lib.format, "Format Version 1.0", 2.0 and 3.0 (numpy 2.4 documentation, NEP 1).
 */
import { HalftoneError } from '../base/errors.ts';
import { byteLengthOf, type DType, dtypes } from '../tensor/dtype.ts';
import { gatherStrided } from '../tensor/strided.ts';
import { type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';

export interface NpyHeader {
  /** Undefined where the array holds something that is no ONNX element type (text, objects, records). */
  readonly dtype: DType | undefined;
  /** NumPy's own name of the element type, for example `<f4`. */
  readonly descr: string;
  readonly shape: Shape;
  readonly bigEndian: boolean;
  readonly fortranOrder: boolean;
  /** Where the elements start in the file. */
  readonly offset: number;
}

/** Enough bytes to hold any header of versions 1 to 3 that this reader accepts. */
export const maxNpyHeader = 65536 + 10;

const byDescr: Readonly<Record<string, DType>> = {
  f2: 'float16',
  f4: 'float32',
  f8: 'float64',
  i1: 'int8',
  i2: 'int16',
  i4: 'int32',
  i8: 'int64',
  u1: 'uint8',
  u2: 'uint16',
  u4: 'uint32',
  u8: 'uint64',
  b1: 'bool',
  c8: 'complex64',
  c16: 'complex128',
};
const descrOf = new Map<DType, string>(Object.entries(byDescr).map(([descr, dtype]) => [dtype, descr]));

function invalid(subject: string, expected: string, got: string): HalftoneError {
  return new HalftoneError('invalid-file', `${subject}: expected ${expected}, got ${got}`);
}

/** True when the bytes start as a `.npy` file does. */
export function isNpy(bytes: Uint8Array): boolean {
  return bytes.length >= 6 && bytes[0] === 0x93 && String.fromCharCode(...bytes.subarray(1, 6)) === 'NUMPY';
}

/**
 * Reads the header alone.
 * @param bytes the file, or at least its first `maxNpyHeader` bytes
 * @throws HalftoneError `invalid-file` when this is no npy header.
 */
export function readNpyHeader(bytes: Uint8Array, subject = 'npy'): NpyHeader {
  if (!isNpy(bytes) || bytes.length < 12) throw invalid(subject, 'an npy file', 'other bytes');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[6];
  if (version < 1 || version > 3) throw invalid(subject, 'npy version 1, 2 or 3', `${version}`);
  const start = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (start + length > bytes.length)
    throw invalid(subject, `a header of ${length} bytes`, `${bytes.length - start} bytes`);
  const text = new TextDecoder().decode(bytes.subarray(start, start + length));
  const fortran = /'fortran_order'\s*:\s*(True|False)\b/.exec(text);
  const shape = /'shape'\s*:\s*\(([\d\sL,]*)\)/.exec(text);
  const descr = /'descr'\s*:\s*(?:'([^']*)'|(\[))/.exec(text);
  if (!fortran || !shape || !descr) {
    throw invalid(subject, 'descr, fortran_order and shape', JSON.stringify(text.slice(0, 120)));
  }
  const dimensions = shape[1]
    .split(',')
    .map((part) => part.trim().replace(/L$/, ''))
    .filter((part) => part !== '')
    .map(Number);
  if (!dimensions.every(Number.isSafeInteger) || !Number.isSafeInteger(sizeOf(dimensions) * 16)) {
    throw invalid(subject, 'a shape whose size is a number', `(${shape[1]})`);
  }
  const name = descr[1] ?? 'records';
  const parts = /^([<>=|]?)([a-z]\d+)$/.exec(name);
  return {
    dtype: parts ? byDescr[parts[2]] : undefined,
    descr: name,
    shape: dimensions,
    bigEndian: name.startsWith('>'),
    fortranOrder: fortran[1] === 'True',
    offset: start + length,
  };
}

/**
 * Reads an array; the result is little-endian and in C order whatever the file holds.
 * @param bytes the whole file; the tensor is a view of it where no reordering is needed
 * @throws HalftoneError `invalid-file` for damaged bytes, `unsupported` for text, objects and records.
 */
export function readNpy(bytes: Uint8Array, subject = 'npy'): Tensor {
  const header = readNpyHeader(bytes, subject);
  const dtype = npyType(header, subject);
  const data = bytes.subarray(header.offset);
  const expected = byteLengthOf(dtype, sizeOf(header.shape));
  if (data.length !== expected) {
    throw invalid(
      subject,
      `${expected} bytes for ${dtype}[${header.shape.join(',')}]`,
      `${data.length}; is the file whole?`,
    );
  }
  const width = dtypes[dtype].bits / 8;
  const ordered = header.fortranOrder && header.shape.length > 1 ? toRowMajor(data, header.shape, width) : data;
  const word = dtype.startsWith('complex') ? width / 2 : width;
  return new Tensor(dtype, header.shape, header.bigEndian && word > 1 ? swapBytes(ordered, word) : ordered);
}

/**
 * The element type of an array.
 * @throws HalftoneError `unsupported` when it is none of ONNX's.
 */
export function npyType(header: NpyHeader, subject: string): DType {
  if (header.dtype !== undefined) return header.dtype;
  const why = header.descr.includes('O') ? ' (Python objects, which only Python can read)' : '';
  throw new HalftoneError(
    'unsupported',
    `${subject}: expected numbers, got elements of type ${header.descr}${why}; save it as a float or integer array`,
  );
}

function swapBytes(bytes: Uint8Array, width: number): Uint8Array {
  const swapped = new Uint8Array(bytes.length);
  for (let at = 0; at < bytes.length; at += width) {
    for (let i = 0; i < width; i++) swapped[at + i] = bytes[at + width - 1 - i];
  }
  return swapped;
}

/** Elements from first-axis-fastest to last-axis-fastest order. */
function toRowMajor(bytes: Uint8Array, shape: Shape, width: number): Uint8Array {
  const strides: number[] = [];
  let stride = 1;
  for (const dimension of shape) {
    strides.push(stride);
    stride *= dimension;
  }
  return gatherStrided(bytes, shape, strides, 0, width);
}

/**
 * Writes a tensor as npy version 1, C order, little-endian, padded to 64 bytes as NumPy does.
 * @throws HalftoneError `unsupported` for types NumPy has no name for (bfloat16, float8, packed types, text).
 */
export function writeNpy(tensor: Tensor): Uint8Array {
  const descr = descrOf.get(tensor.dtype);
  if (descr === undefined) {
    throw new HalftoneError('unsupported', `npy: expected a type NumPy has, got ${tensor.dtype}; convert it first`);
  }
  const order = dtypes[tensor.dtype].bits > 8 ? '<' : '|';
  const shape = tensor.shape.length === 1 ? `(${tensor.shape[0]},)` : `(${tensor.shape.join(', ')})`;
  const text = `{'descr': '${order}${descr}', 'fortran_order': False, 'shape': ${shape}, }`;
  // numpy.lib.format leaves room for the first axis to grow to 21 digits (GROWTH_AXIS_MAX_DIGITS).
  const growth = tensor.shape.length === 0 ? 0 : 21 - String(tensor.shape[0]).length;
  const length = Math.ceil((10 + text.length + growth + 1) / 64) * 64 - 10;
  const bytes = new Uint8Array(10 + length + tensor.bytes.length);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, length & 255, length >> 8]);
  bytes.set(new TextEncoder().encode(`${text.padEnd(length - 1)}\n`), 10);
  bytes.set(tensor.bytes, 10 + length);
  return bytes;
}
