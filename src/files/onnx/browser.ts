/** Models as a browser holds them: read from Files by ranges, written as Blobs. */
import { HalftoneError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import type { ByteSource } from '../../tensor/source.ts';
import { blobSource } from '../blob-source.ts';
import { readOnnxFile } from './file.ts';
import { lazyBytes } from './skeleton.ts';
import type { ExternalData } from './tensor-proto.ts';
import { modelParts } from './write.ts';

/**
 * Reads an ONNX file that a user chose, and its external data. Tensors of 1 MiB and more stay in their files until they
 * are asked for, so a model may be larger than a tab's memory. Works in a worker only: elsewhere a browser cannot wait
 * for a range of a file.
 * @param external the files of its external data, found by their names
 * @throws HalftoneError `unsupported` outside a worker, `missing-data` when a file of external data is not among those
 * given or too short; otherwise as `readOnnx`.
 */
export function readModel(file: Blob, external: readonly File[] = []): Model {
  return readOnnxFile(blobSource(file), { external: externalFiles(external) });
}

/**
 * Serializes a model into a Blob, to be downloaded or kept. Tensors that are unchanged parts of a File stay there, all
 * others pass through memory one by one.
 * @throws HalftoneError `unsupported` when the file would reach 2 GiB.
 */
export function writeModel(model: Model): Blob {
  const parts = modelParts(model).parts.map((part) => {
    if (part instanceof Uint8Array) return part as Uint8Array<ArrayBuffer>;
    const range = part.source?.range;
    if (range?.file instanceof Blob) return range.file.slice(range.offset, range.offset + range.byteLength);
    return new Blob([part.bytes as Uint8Array<ArrayBuffer>]);
  });
  return new Blob(parts, { type: 'application/octet-stream' });
}

/**
 * Small tensors may share bytes of an external file, but all of them together must not exceed this many times its size: a
 * small file cannot claim much memory.
 */
const maxSharing = 4;

/** External data in the files of these names; folders in front of a name do not count, as a page is not told them. */
function externalFiles(files: readonly File[]): ExternalData {
  const byName = new Map(files.map((file) => [file.name, file]));
  const ranges = new Map<string, Uint8Array | ByteSource>();
  const claimed = new Map<File, number>();
  return {
    read(location, offset, length, tensor) {
      const fail = (code: 'missing-data' | 'invalid-file', expected: string, got: string) =>
        new HalftoneError(code, `tensor "${tensor}": expected ${expected}, got ${got}`, {
          fields: { tensor, location, offset },
        });
      const name = location.slice(location.lastIndexOf('/') + 1);
      const file = byName.get(name);
      if (!file) {
        const given = [...byName.keys()].join(', ') || 'no such file';
        throw fail('missing-data', `external data in a file "${name}"`, `${given}; choose that file, too`);
      }
      const bytes = `${length} bytes at offset ${offset} of "${name}"`;
      if (offset + length > file.size) {
        throw fail('missing-data', bytes, `a file of ${file.size} bytes; fetch the file again`);
      }
      const key = `${offset}:${length}:${name}`;
      const known = ranges.get(key);
      if (known) return known;
      let data: Uint8Array | ByteSource = blobSource(file, offset, length);
      if (length < lazyBytes) {
        const total = (claimed.get(file) ?? 0) + length;
        claimed.set(file, total);
        if (total > maxSharing * file.size) {
          const got = `ones that overlap to more than ${maxSharing} times its ${file.size} bytes`;
          throw fail('invalid-file', `tensors of their own in "${name}"`, got);
        }
        data = data.read();
      }
      ranges.set(key, data);
      return data;
    },
  };
}
