/** Bytes that are read when they are asked for: a range of a file, or something that is computed. */

/**
 * Must give the same bytes each time. Reading is synchronous: a file on disk in Node, a File in a browser's worker
 * (FileReaderSync), a closure.
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

/** Bytes that are computed at every reading, so that nobody keeps them meanwhile. */
export function computedSource(byteLength: number, compute: () => Uint8Array): ByteSource {
  return {
    byteLength,
    read(start = 0, end = byteLength) {
      const bytes = compute();
      return start === 0 && end === byteLength ? bytes : bytes.subarray(start, end);
    },
  };
}

/** A part of a source. */
export function partOf(source: ByteSource, offset: number, byteLength: number): ByteSource {
  const { range, readInto } = source;
  return {
    byteLength,
    read: (start = 0, end = byteLength) => source.read(offset + start, offset + end),
    ...(readInto ? { readInto: (target: Uint8Array, start: number) => readInto(target, offset + start) } : {}),
    ...(range ? { range: { file: range.file, offset: range.offset + offset, byteLength } } : {}),
  };
}
