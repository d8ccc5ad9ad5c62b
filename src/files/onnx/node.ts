/** Node only: reads models on disk. Reading never leaves the model's folder; large tensors stay in their files. */
import { closeSync, fstatSync, openSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { HalftoneError, messageOf } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { type FileIdentity, fileSource, identityOf, readFully } from '../file-source.ts';
import { ExternalRanges } from './external-ranges.ts';
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

interface ExternalFile {
  readonly descriptor: number;
  readonly file: FileIdentity;
  readonly ranges: ExternalRanges;
}

/** Reads ranges of files inside `folder`; a location that leads outside, also through a link, is refused. */
export function openExternalData(folder: string, onOpen?: (path: string) => void): ExternalData & { close(): void } {
  const files = new Map<string, ExternalFile>();
  const fileOf = (location: string, tensor: string): ExternalFile => {
    const known = files.get(location);
    if (known) return known;
    const opened = openInside(folder, location, tensor);
    const file: ExternalFile = { ...opened, ranges: new ExternalRanges(opened.file.size) };
    files.set(location, file);
    onOpen?.(resolve(folder, location));
    return file;
  };
  return {
    read(location, offset, length, tensor) {
      const { descriptor, file, ranges } = fileOf(location, tensor);
      return ranges.take({ tensor, location, offset, length }, () => {
        if (length >= lazyBytes) return fileSource(file, offset, length);
        const bytes = new Uint8Array(length);
        if (readFully(descriptor, bytes, offset) === length) return bytes;
        throw new HalftoneError(
          'missing-data',
          `tensor "${tensor}": expected ${length} bytes of "${location}", got fewer; fetch the file again`,
          { fields: { tensor, location, offset } },
        );
      });
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
