/** ONNX files that are read by ranges: large tensors stay in the file until they are asked for. */
import { HalftoneError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { type ByteSource, partOf } from '../../tensor/source.ts';
import { type ReadOptions, readOnnx, refuseTooLarge } from './read.ts';
import { lazyBytes, ownLocation, readSkeleton } from './skeleton.ts';
import type { ExternalData } from './tensor-proto.ts';

export interface ReadFileOptions extends ReadOptions {
  /** Tensors of at least this many bytes stay in the file. Default 1 MiB. */
  readonly lazyBytes?: number;
}

/**
 * Reads an ONNX file without loading its large tensors: a File of a browser (`blobSource`), a file on disk.
 * @throws HalftoneError as `readOnnx`.
 */
export function readOnnxFile(file: ByteSource, options: ReadFileOptions = {}): Model {
  refuseTooLarge(file.byteLength);
  const external: ExternalData = {
    read(location, offset, length, tensor) {
      if (location !== ownLocation) return readElsewhere(options.external, location, offset, length, tensor);
      if (offset + length > file.byteLength) {
        throw new HalftoneError(
          'invalid-file',
          `tensor "${tensor}": expected ${length} bytes at ${offset}, got a file of ${file.byteLength} bytes`,
          { fields: { tensor } },
        );
      }
      return partOf(file, offset, length);
    },
  };
  return readOnnx(readSkeleton(file, options.lazyBytes ?? lazyBytes), { external });
}

function readElsewhere(
  external: ExternalData | undefined,
  location: string,
  offset: number,
  length: number,
  tensor: string,
): Uint8Array | ByteSource {
  if (external) return external.read(location, offset, length, tensor);
  throw new HalftoneError(
    'missing-data',
    `tensor "${tensor}": expected access to external data "${location}", got the model's file alone; give that file too`,
    { fields: { tensor, location } },
  );
}
