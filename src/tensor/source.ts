/** Bytes that are read when they are asked for. */

/**
 * Must give the same bytes each time. Reading is synchronous: a file on disk in Node, a File in a browser's worker
 * (FileReaderSync).
 */
export interface ByteSource {
  readonly byteLength: number;
  /**
   * The bytes from `start` (default 0) to `end` (default all), in an array that the caller may keep.
   * @throws HalftoneError `missing-data` when they can no longer be read.
   */
  read(start?: number, end?: number): Uint8Array;
  /** Reads as many bytes as fit into `target` from `start` on, without an array in between where that is possible. */
  readInto?(target: Uint8Array, start: number): void;
  /** Fills `target` with pieces of `length` bytes, `stride` bytes apart, the first at `start`. */
  readStrided?(target: Uint8Array, start: number, length: number, stride: number): void;
  /** Where the bytes lie, for those who can read them by themselves: another thread. */
  readonly range?: FileRange;
}

/** A range of a file that must not have changed since. */
export interface FileRange {
  /** A path in Node, a File in a browser; both can be sent to a worker. */
  readonly file: unknown;
  readonly offset: number;
  readonly byteLength: number;
}

/** A part of a source. */
export function partOf(source: ByteSource, offset: number, byteLength: number): ByteSource {
  const { range, readInto, readStrided } = source;
  return {
    byteLength,
    read: (start = 0, end = byteLength) => source.read(offset + start, offset + end),
    ...(readInto ? { readInto: (target: Uint8Array, start: number) => readInto(target, offset + start) } : {}),
    ...(readStrided
      ? {
          readStrided: (target: Uint8Array, start: number, length: number, stride: number) =>
            readStrided(target, offset + start, length, stride),
        }
      : {}),
    ...(range ? { range: { file: range.file, offset: range.offset + offset, byteLength } } : {}),
  };
}
