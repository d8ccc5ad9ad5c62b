/** Seeded damage to protobuf bytes: cuts, flipped bits, edited lengths, moved and foreign pieces. */
import type { DescMessage } from '@bufbuild/protobuf';
import { ModelProtoSchema } from '../../src/files/onnx/generated/onnx_pb.ts';

/** Offsets of the tags and lengths of a message, descending into the messages that the schema knows. */
export interface Structure {
  readonly tags: readonly number[];
  /** Offset and width of each length. */
  readonly lengths: readonly (readonly [number, number])[];
}

/** Walks sound bytes of a model. */
export function structureOf(bytes: Uint8Array): Structure {
  const tags: number[] = [];
  const lengths: [number, number][] = [];
  const varint = (at: number): [number, number] => {
    let value = 0;
    let end = at;
    do value += (bytes[end] & 127) * 2 ** (7 * (end - at));
    while (bytes[end++] & 128);
    return [value, end];
  };
  const walk = (start: number, end: number, schema: DescMessage) => {
    for (let at = start; at < end; ) {
      tags.push(at);
      const [tag, afterTag] = varint(at);
      const wire = tag & 7;
      if (wire !== 2) {
        at = wire === 0 ? varint(afterTag)[1] : afterTag + (wire === 1 ? 8 : 4);
        continue;
      }
      const [length, afterLength] = varint(afterTag);
      lengths.push([afterTag, afterLength - afterTag]);
      const inner = schema.fields.find((field) => field.number === tag >>> 3)?.message;
      if (inner) walk(afterLength, afterLength + length, inner);
      at = afterLength + length;
    }
  };
  walk(0, bytes.length, ModelProtoSchema);
  return { tags, lengths };
}

function encodeVarint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return Uint8Array.from([...bytes, rest]);
}

const kinds = ['cut', 'bits', 'structure bits', 'byte', 'length', 'remove', 'repeat', 'foreign', 'insert'] as const;

/** Damaged copy of `bytes`; `other` gives foreign pieces. Returns what was done for the message of a failing test. */
export function damage(
  bytes: Uint8Array,
  structure: Structure,
  other: Uint8Array,
  random: () => number,
): { bytes: Uint8Array; what: string } {
  const integer = (below: number) => Math.floor(random() * below);
  const pick = <T>(list: readonly T[]): T => list[integer(list.length)];
  const kind = pick(kinds);
  const position = () => (random() < 0.7 ? pick(structure.tags) : integer(bytes.length));
  const splice = (at: number, removed: number, piece: Uint8Array) =>
    Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at + removed)]);
  const at = position();
  switch (kind) {
    case 'cut':
      return { bytes: bytes.slice(0, at), what: `cut at ${at}` };
    case 'bits':
    case 'structure bits': {
      const copy = bytes.slice();
      const places = Array.from({ length: 1 + integer(4) }, () =>
        kind === 'bits' ? integer(bytes.length) : Math.min(pick(structure.tags) + integer(3), bytes.length - 1),
      );
      for (const place of places) copy[place] ^= 1 << integer(8);
      return { bytes: copy, what: `bits flipped at ${places}` };
    }
    case 'byte': {
      const copy = bytes.slice();
      copy[at] = pick([0, 1, 0x7f, 0x80, 0xff, integer(256)]);
      return { bytes: copy, what: `byte ${at} set to ${copy[at]}` };
    }
    case 'length': {
      const [place, width] = pick(structure.lengths);
      const value = pick([0, 1, integer(300), bytes.length, 2 ** 31 - 1, 2 ** 32 - 1, 2 ** 35, 2 ** 53 - 1]);
      return { bytes: splice(place, width, encodeVarint(value)), what: `length at ${place} set to ${value}` };
    }
    case 'remove': {
      const count = 1 + integer(40);
      return { bytes: splice(at, count, new Uint8Array(0)), what: `${count} bytes removed at ${at}` };
    }
    case 'repeat': {
      const piece = bytes.subarray(at, at + 1 + integer(200));
      return { bytes: splice(position(), 0, piece), what: `${piece.length} bytes of ${at} repeated` };
    }
    case 'foreign': {
      const from = integer(other.length);
      const piece = other.subarray(from, from + 1 + integer(200));
      return { bytes: splice(at, integer(2) * piece.length, piece), what: `${piece.length} foreign bytes at ${at}` };
    }
    case 'insert': {
      const piece = Uint8Array.from({ length: 1 + integer(12) }, () => integer(256));
      return { bytes: splice(at, 0, piece), what: `${piece.length} random bytes at ${at}` };
    }
  }
}
