/** Ranges of a File or Blob as byte sources, read synchronously, which browsers allow in workers only. */
import { HalftoneError, messageOf } from '../base/errors.ts';
import type { ByteSource } from '../tensor/source.ts';

/** What of a browser's Blob is needed. */
export interface BlobLike {
  readonly size: number;
  slice(start?: number, end?: number): BlobLike;
}

interface SyncReader {
  readAsArrayBuffer(blob: BlobLike): ArrayBuffer;
}

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
  return {
    byteLength,
    range: { file: blob, offset, byteLength },
    read(start = 0, end = byteLength) {
      try {
        return new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset + start, offset + end)));
      } catch (error) {
        throw new HalftoneError(
          'missing-data',
          `file: expected to read ${end - start} bytes at ${offset + start}, got: ${messageOf(error)}; choose the file again`,
          { cause: error },
        );
      }
    },
  };
}
