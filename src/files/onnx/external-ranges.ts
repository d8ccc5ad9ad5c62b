/** Ranges of one file of external data: within its size, shared where tensors name the same, and not without end. */
import { HalftoneError } from '../../base/errors.ts';
import type { ByteSource } from '../../tensor/source.ts';

/**
 * Tensors may share bytes of an external file, but all ranges together must not exceed this many times its size: a small
 * file cannot claim much memory, nor a large one much disk.
 */
const maxSharing = 4;

/** A range as a tensor states it. */
export interface ExternalRange {
  readonly tensor: string;
  /** The file's name, for messages. */
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

/** What has been read of a file of `size` bytes. */
export class ExternalRanges {
  readonly #size: number;
  /** `offset:length` → bytes. */
  readonly #known = new Map<string, Uint8Array | ByteSource>();
  #claimed = 0;

  constructor(size: number) {
    this.#size = size;
  }

  /**
   * A range's bytes: those of a tensor that named the same, or what `read` gives.
   * @throws HalftoneError `missing-data` when it ends behind the file, `invalid-file` when too much overlaps.
   */
  take({ tensor, location, offset, length }: ExternalRange, read: () => Uint8Array | ByteSource) {
    const fail = (code: 'missing-data' | 'invalid-file', expected: string, got: string) =>
      new HalftoneError(code, `tensor "${tensor}": expected ${expected}, got ${got}`, {
        fields: { tensor, location, offset },
      });
    const size = this.#size;
    if (offset + length > size) {
      const got = `a file of ${size} bytes; fetch the file again`;
      throw fail('missing-data', `${length} bytes at offset ${offset} of "${location}"`, got);
    }
    const key = `${offset}:${length}`;
    const known = this.#known.get(key);
    if (known) return known;
    this.#claimed += length;
    if (this.#claimed > maxSharing * size) {
      const got = `ones that overlap to more than ${maxSharing} times its ${size} bytes; export the model again`;
      throw fail('invalid-file', `tensors of their own in "${location}"`, got);
    }
    const bytes = read();
    this.#known.set(key, bytes);
    return bytes;
  }
}
