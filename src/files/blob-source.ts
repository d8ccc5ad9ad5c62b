/** Ranges of a File or Blob as byte sources, read synchronously, which browsers allow in workers only. */
import { HalftoneError, messageOf } from '../base/errors.ts';
import type { ByteSource, FileRange } from '../tensor/source.ts';

/** What of a browser's Blob is needed. */
export interface BlobLike {
  readonly size: number;
  /** Only a File has one. */
  readonly name?: string;
  slice(start?: number, end?: number): BlobLike;
}

interface SyncReader {
  readAsArrayBuffer(blob: BlobLike): ArrayBuffer;
}

/** Bytes read at once: in Chromium a reading costs 1.5 ms and 1.5 ms for each MiB. */
const windowBytes = 2 ** 24;
/** Pieces that lie further apart are read one by one: what lies between them would cost more than a reading. */
const farApart = 2 ** 20;

/**
 * A range of a Blob.
 * @throws HalftoneError `unsupported` outside a worker; when read, `missing-data` when the file has changed.
 */
export function blobSource(blob: BlobLike, offset = 0, byteLength = blob.size - offset): ByteSource {
  const Reader = (globalThis as { FileReaderSync?: new () => SyncReader }).FileReaderSync;
  if (!Reader) {
    throw new HalftoneError(
      'unsupported',
      'file: expected to be in a worker, where a File can be read by ranges, got a page; start halftone in a worker',
    );
  }
  const reader = new Reader();
  const read = (start = 0, end = byteLength) => {
    let cause: unknown;
    try {
      const bytes = new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset + start, offset + end)));
      if (bytes.byteLength === end - start) return bytes;
    } catch (error) {
      cause = error;
    }
    const got = cause === undefined ? 'fewer' : messageOf(cause);
    const next = blob.name === undefined ? 'make room on the disk and start again' : 'choose the file again';
    throw new HalftoneError(
      'missing-data',
      `${blob.name ?? 'Blob'}: expected to read ${end - start} bytes at ${offset + start}, got: ${got}; ${next}`,
      { cause },
    );
  };
  return {
    byteLength,
    range: { file: blob, offset, byteLength },
    read,
    readInto(target, start) {
      for (let done = 0; done < target.byteLength; done += windowBytes) {
        const end = Math.min(done + windowBytes, target.byteLength);
        target.set(read(start + done, start + end), done);
      }
    },
    readStrided(target, start, length, stride) {
      const count = target.byteLength / length;
      const step = stride > farApart ? 1 : Math.max(1, Math.floor(windowBytes / stride));
      for (let first = 0; first < count; first += step) {
        const end = Math.min(first + step, count);
        const from = start + first * stride;
        const window = read(from, from + (end - first - 1) * stride + length);
        for (let piece = first; piece < end; piece++) {
          const at = (piece - first) * stride;
          target.set(window.subarray(at, at + length), piece * length);
        }
      }
    },
  };
}

/** Reads a range that `blobSource` made, in any worker. */
export function openBlobRange({ file, offset, byteLength }: FileRange): ByteSource {
  return blobSource(file as BlobLike, offset, byteLength);
}
