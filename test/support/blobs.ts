/** Stands in for what a browser's worker has and Node has not: Blobs that can be read synchronously. */
import { vi } from 'vitest';

export class SynchronousBlob {
  readonly bytes: Uint8Array;

  constructor(parts: readonly (Uint8Array | SynchronousBlob)[]) {
    const pieces = parts.map((part) => (part instanceof Uint8Array ? part : part.bytes));
    this.bytes = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
  }

  get size(): number {
    return this.bytes.byteLength;
  }

  slice(start = 0, end = this.size): SynchronousBlob {
    return new SynchronousBlob([this.bytes.subarray(start, end)]);
  }
}

/** Byte counts of all readings so far. */
export const readings: number[] = [];

class Reader {
  readAsArrayBuffer({ bytes }: SynchronousBlob): ArrayBuffer {
    readings.push(bytes.byteLength);
    return new Uint8Array(bytes).buffer;
  }
}

/** Until `vi.unstubAllGlobals`. */
export function pretendToBeInWorker(): void {
  readings.length = 0;
  vi.stubGlobal('Blob', SynchronousBlob);
  vi.stubGlobal('FileReaderSync', Reader);
}
