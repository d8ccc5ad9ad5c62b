/** NumPy's `.npz`: a zip archive of npy files, one a named array. Arrays are unpacked one at a time, when they are asked for. */
import { type Zippable, zipSync } from 'fflate';
import { HalftoneError } from '../base/errors.ts';
import { byteLengthOf } from '../tensor/dtype.ts';
import { sizeOf, type Tensor } from '../tensor/tensor.ts';
import { maxNpyHeader, type NpyHeader, npyType, readNpy, readNpyHeader, writeNpy } from './npy.ts';
import { readZip } from './zip.ts';

/** One array of an archive: its header is read, its elements are not. */
export interface NpzArray extends NpyHeader {
  readonly name: string;
  /** @throws HalftoneError `invalid-file` for damaged bytes, `unsupported` for text, objects and records. */
  read(): Tensor;
}

/**
 * The arrays of an archive by name, in its order. Entries that are no `.npy` are left out.
 * @throws HalftoneError `invalid-file` when the archive is damaged or an array's header and size disagree.
 */
export function readNpz(bytes: Uint8Array, subject = 'npz'): ReadonlyMap<string, NpzArray> {
  const arrays = new Map<string, NpzArray>();
  for (const entry of readZip(bytes, subject).values()) {
    if (!entry.name.endsWith('.npy')) continue;
    const name = entry.name.slice(0, -'.npy'.length);
    const label = `${subject}: array ${name}`;
    const header = readNpyHeader(entry.peek(maxNpyHeader), label);
    arrays.set(name, {
      ...header,
      name,
      read() {
        const expected = header.offset + byteLengthOf(npyType(header, label), sizeOf(header.shape));
        if (expected !== entry.size) {
          throw new HalftoneError(
            'invalid-file',
            `${label}: expected ${expected} bytes for ${header.descr}[${header.shape.join(',')}], got ${entry.size}`,
          );
        }
        return readNpy(entry.read(), label);
      },
    });
  }
  return arrays;
}

/**
 * Writes arrays as an archive. The same arrays give the same bytes.
 * @param options.compress deflate the arrays, as `numpy.savez_compressed` does. Default false: stored, as `numpy.savez`.
 * @throws HalftoneError `unsupported` for types NumPy has no name for.
 */
export function writeNpz(
  arrays: Iterable<readonly [string, Tensor]>,
  options: { compress?: boolean } = {},
): Uint8Array {
  const level = options.compress ? 6 : 0;
  const entries: Zippable = Object.create(null);
  // The earliest date a zip archive can hold, so that no clock enters the bytes.
  const mtime = new Date(1980, 0, 1);
  for (const [name, tensor] of arrays) entries[`${name}.npy`] = [writeNpy(tensor), { level, mtime }];
  return zipSync(entries);
}
