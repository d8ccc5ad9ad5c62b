/** Models as a browser holds them: read from Files by ranges, written as Blobs. */
import { HalftoneError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { blobSource } from '../blob-source.ts';
import { ExternalRanges } from './external-ranges.ts';
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

/** External data in the files of these names; folders in front of a name do not count, as a page is not told them. */
function externalFiles(files: readonly File[]): ExternalData {
  const byName = new Map(files.map((file) => [file.name, { file, ranges: new ExternalRanges(file.size) }]));
  return {
    read(location, offset, length, tensor) {
      const name = location.slice(location.lastIndexOf('/') + 1);
      const chosen = byName.get(name);
      if (!chosen) {
        const given = [...byName.keys()].join(', ') || 'no such file';
        throw new HalftoneError(
          'missing-data',
          `tensor "${tensor}": expected external data in a file "${name}", got ${given}; choose that file, too`,
          { fields: { tensor, location, offset } },
        );
      }
      const { file, ranges } = chosen;
      return ranges.take({ tensor, location: name, offset, length }, () => {
        const source = blobSource(file, offset, length);
        return length < lazyBytes ? source.read() : source;
      });
    },
  };
}
