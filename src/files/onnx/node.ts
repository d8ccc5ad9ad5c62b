/** Node only: reads models on disk. Reading never leaves the model's folder; large tensors stay in their files. */
import { closeSync, fstatSync, openSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { HalftoneError, messageOf } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import type { ByteSource } from '../../tensor/source.ts';
import { type FileIdentity, fileSource, identityOf, readFully } from '../file-source.ts';
import { readOnnxFile } from './file.ts';
import { readOnnx } from './read.ts';
import { lazyBytes } from './skeleton.ts';
import type { ExternalData } from './tensor-proto.ts';

/** Files up to this size are read at once. */
const wholeBytes = 2 ** 26;

/**
 * Reads an ONNX file and its external data. Tensors of 1 MiB and more in external data, and in files above 64 MiB, stay
 * on disk until they are asked for: the files must not change meanwhile.
 * @param onExternal is told the path of every file of external data that is read
 * @throws HalftoneError `missing-data` when a file is missing; otherwise as `readOnnx`, with the path in the message.
 */
export function readModel(path: string, onExternal?: (path: string) => void): Model {
  const file = openPlain(path);
  const external = openExternalData(dirname(resolve(path)), onExternal);
  try {
    if (file.size > wholeBytes) return readOnnxFile(fileSource(file, 0, file.size), { external });
    return readOnnx(readFileSync(path), { external });
  } catch (error) {
    if (error instanceof HalftoneError) {
      throw new HalftoneError(error.code, `${path}: ${error.message}`, {
        fields: { ...error.fields, path },
        cause: error,
      });
    }
    throw unreadable(path, error);
  } finally {
    external.close();
  }
}

function openPlain(path: string): FileIdentity {
  try {
    const descriptor = openSync(path, 'r');
    try {
      return identityOf(resolve(path), fstatSync(descriptor));
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): HalftoneError {
  return new HalftoneError('missing-data', `${path}: expected a readable ONNX file, got none (${messageOf(error)})`, {
    cause: error,
    fields: { path },
  });
}

/**
 * Tensors may share bytes of an external file, but all ranges together must not exceed this many times its size: a small
 * file cannot claim much memory.
 */
const maxSharing = 4;

interface ExternalFile {
  readonly descriptor: number;
  readonly file: FileIdentity;
  /** `offset:length` → bytes: tensors that name the same range share them. */
  readonly ranges: Map<string, Uint8Array | ByteSource>;
  claimed: number;
}

/** Reads ranges of files inside `folder`; a location that leads outside, also through a link, is refused. */
export function openExternalData(folder: string, onOpen?: (path: string) => void): ExternalData & { close(): void } {
  const files = new Map<string, ExternalFile>();
  const fileOf = (location: string, tensor: string): ExternalFile => {
    const known = files.get(location);
    if (known) return known;
    const file: ExternalFile = { ...openInside(folder, location, tensor), ranges: new Map(), claimed: 0 };
    files.set(location, file);
    onOpen?.(resolve(folder, location));
    return file;
  };
  return {
    read(location, offset, wanted, tensor) {
      const fields = { tensor, location, offset };
      const external = fileOf(location, tensor);
      const { file, ranges } = external;
      const { size } = file;
      if (offset + wanted > size) {
        throw new HalftoneError(
          'missing-data',
          `tensor "${tensor}": expected ${wanted} bytes at offset ${offset} of "${location}", got a file of ${size} bytes; ` +
            'fetch the file again',
          { fields },
        );
      }
      const key = `${offset}:${wanted}`;
      const shared = ranges.get(key);
      if (shared) return shared;
      external.claimed += wanted;
      if (external.claimed > maxSharing * size) {
        throw new HalftoneError(
          'invalid-file',
          `tensor "${tensor}": expected tensors of their own in "${location}", got ones that overlap to more than ${maxSharing} times its ${size} bytes`,
          { fields },
        );
      }
      const bytes = wanted >= lazyBytes ? fileSource(file, offset, wanted) : new Uint8Array(wanted);
      if (bytes instanceof Uint8Array && readFully(external.descriptor, bytes, offset) < wanted) {
        throw new HalftoneError(
          'missing-data',
          `tensor "${tensor}": expected ${wanted} bytes of "${location}", got fewer`,
          {
            fields,
          },
        );
      }
      ranges.set(key, bytes);
      return bytes;
    },
    close() {
      for (const file of files.values()) closeSync(file.descriptor);
      files.clear();
    },
  };
}

/** Opens a plain file of which the true place is inside `folder`. */
function openInside(folder: string, location: string, tensor: string): { descriptor: number; file: FileIdentity } {
  const fields = { tensor, location };
  const refused = (got: string) =>
    new HalftoneError(
      'invalid-file',
      `tensor "${tensor}": expected external data in a file inside the model's folder, got ${got}`,
      { fields },
    );
  const path = resolve(folder, location);
  if (isAbsolute(location) || isOutside(folder, path)) throw refused(`"${location}"`);
  let real: string;
  let isFile: boolean;
  try {
    real = realpathSync(path);
    isFile = statSync(real).isFile();
  } catch (error) {
    throw new HalftoneError(
      'missing-data',
      `tensor "${tensor}": expected external data in "${location}" beside the model, got no such file; put it there`,
      { cause: error, fields },
    );
  }
  if (isOutside(realpathSync(folder), real)) throw refused(`a link to "${real}"`);
  if (!isFile) throw refused(`"${location}", which is no plain file`);
  try {
    const descriptor = openSync(real, 'r');
    return { descriptor, file: identityOf(real, fstatSync(descriptor)) };
  } catch (error) {
    throw new HalftoneError(
      'missing-data',
      `tensor "${tensor}": expected readable external data in "${location}", got ${messageOf(error)}`,
      { cause: error, fields },
    );
  }
}

function isOutside(folder: string, path: string): boolean {
  const step = relative(folder, path);
  return step === '..' || step.startsWith(`..${sep}`) || isAbsolute(step);
}
