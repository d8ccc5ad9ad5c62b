/** Node only: ranges of files on disk as byte sources. */
import { closeSync, fstatSync, openSync, readSync, type Stats } from 'node:fs';
import { HalftoneError, messageOf } from '../base/errors.ts';
import type { ByteSource } from '../tensor/source.ts';

/** A file as it was when it was first opened. Plain data, which can be sent to another thread. */
export interface FileIdentity {
  readonly path: string;
  readonly size: number;
  /** Milliseconds; a file that was written since has another one. */
  readonly modified: number;
  readonly inode: number;
}

export function identityOf(path: string, { size, mtimeMs, ino }: Stats): FileIdentity {
  return { path, size, modified: mtimeMs, inode: ino };
}

/** Reads as much as fits into `target`, from `position` of an open file on; returns the bytes read. */
export function readFully(descriptor: number, target: Uint8Array, position: number): number {
  let done = 0;
  while (done < target.byteLength) {
    const count = readSync(descriptor, target, done, Math.min(target.byteLength - done, 2 ** 30), position + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

/**
 * A range of a file. The file is opened for each reading, so that no descriptor is held by what may live long, and must
 * still be the same.
 */
export function fileSource(file: FileIdentity, offset: number, byteLength: number): ByteSource {
  const readPieces = (target: Uint8Array, start: number, length: number, stride: number) => {
    const changed = (got: string, cause?: unknown) =>
      new HalftoneError(
        'missing-data',
        `${file.path}: expected the ${target.byteLength} bytes at ${offset + start} as they were when the file was opened, got ${got}; start again`,
        { cause, fields: { path: file.path, offset: offset + start } },
      );
    let descriptor: number;
    try {
      descriptor = openSync(file.path, 'r');
    } catch (error) {
      throw changed(messageOf(error), error);
    }
    try {
      const { size, modified, inode } = identityOf(file.path, fstatSync(descriptor));
      if (size !== file.size || modified !== file.modified || inode !== file.inode) throw changed('another file');
      for (let done = 0, from = offset + start; done < target.byteLength; done += length, from += stride) {
        const piece = target.subarray(done, done + length);
        if (readFully(descriptor, piece, from) < piece.byteLength) throw changed('fewer');
      }
    } finally {
      closeSync(descriptor);
    }
  };
  const readInto = (target: Uint8Array, start: number) =>
    readPieces(target, start, target.byteLength, target.byteLength);
  return {
    byteLength,
    range: { file, offset, byteLength },
    readInto,
    readStrided: readPieces,
    read(start = 0, end = byteLength) {
      const bytes = new Uint8Array(end - start);
      readInto(bytes, start);
      return bytes;
    },
  };
}
