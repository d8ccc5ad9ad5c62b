/** Finished weights outside the JavaScript heap: in Blobs, which a browser keeps where it has room, on disk if need be. */
import { blobSource } from '../files/blob-source.ts';
import { concatenated } from '../tensor/pieces.ts';
import type { ByteSource } from '../tensor/source.ts';
import type { Store } from './store.ts';

/** Smaller pieces stay in memory: a Blob would cost more time than it saves space. */
const blobsFrom = 2 ** 16;

interface Piece {
  readonly offset: number;
  readonly end: number;
  readonly data: Uint8Array<ArrayBuffer> | Blob;
}

/** A store that ends with the run, and can be read in a worker only. Its large ranges are ranges of Blobs. */
export function blobStore(): Store {
  const pieces: Piece[] = [];
  let end = 0;
  return {
    append(bytes) {
      const offset = end;
      end += bytes.byteLength;
      // A view must not keep the larger buffer behind it.
      const data = bytes.byteLength < blobsFrom ? bytes.slice() : new Blob([bytes as Uint8Array<ArrayBuffer>]);
      pieces.push({ offset, end, data });
      return offset;
    },
    range([offset, byteLength]) {
      const stop = offset + byteLength;
      const parts = pieces
        .filter((piece) => piece.offset < stop && piece.end > offset)
        .map(({ offset: at, data }) => {
          const [from, to] = [Math.max(offset - at, 0), stop - at];
          return data instanceof Blob ? data.slice(from, to) : data.subarray(from, to);
        });
      const inMemory = parts.filter((part) => part instanceof Uint8Array);
      return inMemory.length === parts.length ? memorySource(inMemory) : blobSource(new Blob(parts));
    },
    align() {},
    rewind(offset) {
      while ((pieces.at(-1)?.offset ?? -1) >= offset) pieces.pop();
      end = offset;
    },
    find: () => undefined,
    finished() {},
  };
}

function memorySource(parts: readonly Uint8Array[]): ByteSource {
  const bytes = concatenated(parts);
  return { byteLength: bytes.byteLength, read: (start, end) => bytes.subarray(start, end) };
}
