/**
 * Reads an ONNX file without its large tensors: a walk over the wire format that copies everything but the raw data of
 * large tensors, which become external data of the file itself. (Protocol Buffers, "Encoding"; field numbers: onnx.proto.)
 */
import { HalftoneError } from '../../base/errors.ts';
import { concatenated } from '../../tensor/pieces.ts';
import type { ByteSource } from '../../tensor/source.ts';

/** The location that stands for the file itself. No path can hold a NUL. */
export const ownLocation = '\0';

/** Tensors of at least this size stay in the file until they are asked for. */
export const lazyBytes = 2 ** 20;

type Kind = 'model' | 'graph' | 'node' | 'attribute' | 'tensor';

/** Fields that lead to tensors, by message. Tensors of local functions and sparse ones are carried, not read. */
const children: Readonly<Record<Kind, Readonly<Record<number, Kind>>>> = {
  model: { 7: 'graph' },
  graph: { 1: 'node', 5: 'tensor' },
  node: { 5: 'attribute' },
  attribute: { 5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph' },
  tensor: {},
};

const rawDataField = 9;
const externalDataField = 13;
const dataLocationField = 14;

/** The file's message without the raw data of tensors of at least `threshold` bytes, as bytes to decode. */
export function readSkeleton(file: ByteSource, threshold = lazyBytes): Uint8Array {
  const walk = new Walk(file, threshold);
  return concatenated(walk.message('model', 0, file.byteLength, 0));
}

/** Messages nest deeper only in files made to exhaust the stack. */
const maxDepth = 100;

class Walk {
  readonly file: ByteSource;
  readonly threshold: number;
  readonly window = new Uint8Array(2 ** 16);
  windowStart = 0;
  windowEnd = 0;

  constructor(file: ByteSource, threshold: number) {
    this.file = file;
    this.threshold = threshold;
  }

  message(kind: Kind, start: number, end: number, depth: number): Uint8Array[] {
    if (depth > maxDepth) throw broken(start, 'messages nested more deeply than any model');
    const pieces: Uint8Array[] = [];
    let copied = start;
    let position = start;
    const copyUpTo = (upTo: number) => {
      if (upTo > copied) pieces.push(this.file.read(copied, upTo));
    };
    while (position < end) {
      const field = position;
      const [tag, afterTag] = this.varint(position, end);
      const number = Math.floor(tag / 8);
      const wireType = tag % 8;
      if (wireType !== 2) {
        position = this.skip(wireType, afterTag, end);
        continue;
      }
      const [length, body] = this.varint(afterTag, end);
      position = body + length;
      if (position > end) throw broken(field, `a field of ${length} bytes where ${end - body} are left`);
      if (length < this.threshold) continue;
      const child = children[kind][number];
      if (child) {
        copyUpTo(field);
        copied = position;
        const inner = this.message(child, body, position, depth + 1);
        pieces.push(header(number, lengthOf(inner)), ...inner);
      } else if (kind === 'tensor' && number === rawDataField) {
        copyUpTo(field);
        copied = position;
        pieces.push(...externalFields(body, length));
      }
    }
    copyUpTo(end);
    return pieces;
  }

  /** The position behind a value that is no message. */
  skip(wireType: number, position: number, end: number): number {
    if (wireType === 0) return this.varint(position, end)[1];
    const length = wireType === 1 ? 8 : wireType === 5 ? 4 : undefined;
    if (length === undefined || position + length > end) throw broken(position, `wire type ${wireType}`);
    return position + length;
  }

  varint(position: number, end: number): [value: number, next: number] {
    let value = 0;
    let factor = 1;
    for (let at = position; at < end && at < position + 10; at++, factor *= 128) {
      const byte = this.byte(at);
      value += (byte & 127) * factor;
      if (byte < 128) return [value, at + 1];
    }
    throw broken(position, 'a number without an end');
  }

  byte(position: number): number {
    if (position < this.windowStart || position >= this.windowEnd) {
      this.windowStart = position;
      this.windowEnd = Math.min(position + this.window.byteLength, this.file.byteLength);
      this.window.set(this.file.read(this.windowStart, this.windowEnd));
    }
    return this.window[position - this.windowStart];
  }
}

function broken(position: number, got: string): HalftoneError {
  return new HalftoneError(
    'invalid-file',
    `model: expected an ONNX file, got one that is truncated or no ONNX: ${got} at byte ${position}`,
    { fields: { offset: position } },
  );
}

/** Bytes of all pieces. */
export function lengthOf(pieces: readonly { readonly byteLength: number }[]): number {
  let length = 0;
  for (const piece of pieces) length += piece.byteLength;
  return length;
}

/** The bytes of a varint. */
export function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  return Uint8Array.of(...bytes, rest);
}

/** Tag and length of a field that holds bytes or a message. */
export function header(field: number, length: number): Uint8Array {
  return Uint8Array.of(...varint(field * 8 + 2), ...varint(length));
}

function externalFields(offset: number, length: number): Uint8Array[] {
  const encoder = new TextEncoder();
  const entry = (key: string, text: string) => {
    const [a, b] = [encoder.encode(key), encoder.encode(text)];
    const body = Uint8Array.of(...header(1, a.length), ...a, ...header(2, b.length), ...b);
    return Uint8Array.of(...header(externalDataField, body.length), ...body);
  };
  return [
    entry('location', ownLocation),
    entry('offset', String(offset)),
    entry('length', String(length)),
    Uint8Array.of(...varint(dataLocationField * 8), 1),
  ];
}
