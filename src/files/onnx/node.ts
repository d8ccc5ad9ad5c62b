/** Node only: models on disk. Reading never leaves the model's folder; writing is whole or not at all. */
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { HalftoneError, isHalftoneError, messageOf } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { refuseSpecial } from '../paths.ts';
import { maxMessageBytes } from './limits.ts';
import { readOnnx } from './read.ts';
import type { ExternalData } from './tensor-proto.ts';
import { tensorBytes, writeOnnx } from './write.ts';

/**
 * Reads an ONNX file and its external data.
 * @param onExternal is told the path of every file of external data that is read
 * @throws HalftoneError `missing-data` when a file is missing; otherwise as `readOnnx`, with the path in the message.
 */
export function readModel(path: string, onExternal?: (path: string) => void): Model {
  const bytes = readWhole(path);
  const external = openExternalData(dirname(resolve(path)), onExternal);
  try {
    return readOnnx(bytes, { external });
  } catch (error) {
    if (error instanceof HalftoneError) {
      throw new HalftoneError(error.code, `${path}: ${error.message}`, {
        fields: { ...error.fields, path },
        cause: error,
      });
    }
    throw error;
  } finally {
    external.close();
  }
}

function readWhole(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new HalftoneError('missing-data', `${path}: expected a readable ONNX file, got none (${messageOf(error)})`, {
      cause: error,
      fields: { path },
    });
  }
}

/**
 * Tensors may share bytes of an external file, but all ranges together must not exceed this many times its size: a small
 * file cannot claim much memory.
 */
const maxSharing = 4;

interface ExternalFile {
  readonly descriptor: number;
  readonly size: number;
  /** `offset:length` → bytes: tensors that name the same range share them. */
  readonly ranges: Map<string, Uint8Array>;
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
    read(location, offset, length, tensor) {
      const fields = { tensor, location, offset };
      const file = fileOf(location, tensor);
      const { size, ranges } = file;
      const wanted = length ?? size - offset;
      if (wanted < 0 || offset + wanted > size) {
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
      file.claimed += wanted;
      if (file.claimed > maxSharing * size) {
        throw new HalftoneError(
          'invalid-file',
          `tensor "${tensor}": expected tensors of their own in "${location}", got ones that overlap to more than ${maxSharing} times its ${size} bytes`,
          { fields },
        );
      }
      const bytes = readRange(file.descriptor, offset, wanted);
      if (bytes.byteLength < wanted) {
        throw new HalftoneError(
          'missing-data',
          `tensor "${tensor}": expected ${wanted} bytes of "${location}", got ${bytes.byteLength}`,
          { fields },
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
function openInside(folder: string, location: string, tensor: string): { descriptor: number; size: number } {
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
    return { descriptor, size: fstatSync(descriptor).size };
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

/** The bytes of a range; fewer when the file has shrunk meanwhile. */
function readRange(descriptor: number, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const count = readSync(descriptor, bytes, done, Math.min(length - done, 2 ** 30), offset + done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}

export interface WrittenFiles {
  /** The model file first, then its external data. */
  readonly paths: readonly string[];
  /** Bytes of all of them. */
  readonly bytes: number;
}

/** Tensors start at multiples of this in external files, so that they can be mapped into memory (onnx's own default). */
const externalAlignment = 4096;

/** Where tensors of a model written to `path` go when they do not stay in its file. */
export function externalDataPath(path: string): string {
  return `${path}_data`;
}

/**
 * Writes a model. Tensors go to `NAME.onnx_data` beside it when the file would reach 2 GiB, or always with `external`.
 * Every file appears whole, under its final name, or not at all; the model file comes last.
 * @throws HalftoneError `usage` when a device, pipe or socket has such a name, `runtime` when the disk refuses,
 * otherwise as `writeOnnx`; what was there before stays.
 */
export function writeModel(model: Model, path: string, options: { external?: boolean } = {}): WrittenFiles {
  const external = options.external || tensorBytes(model) > maxMessageBytes - 2 ** 24;
  const dataPath = externalDataPath(path);
  for (const target of external ? [path, dataPath] : [path]) refuseSpecial(target, target);
  const mark = `${process.pid}.partial`;
  const temporary = `${path}.${mark}`;
  const dataTemporary = `${dataPath}.${mark}`;
  const dataBefore = `${dataPath}.${mark}.before`;
  try {
    if (!external) {
      writeFileSync(temporary, writeOnnx(model));
      renameSync(temporary, path);
      return { paths: [path], bytes: statSync(path).size };
    }
    writeFileSync(temporary, writeWithData(model, dataTemporary, basename(dataPath)));
    const hadData = existsSync(dataPath);
    if (hadData) renameSync(dataPath, dataBefore);
    try {
      renameSync(dataTemporary, dataPath);
      renameSync(temporary, path);
    } catch (error) {
      rmSync(dataPath, { force: true });
      if (hadData) renameSync(dataBefore, dataPath);
      throw error;
    }
    return { paths: [path, dataPath], bytes: statSync(path).size + statSync(dataPath).size };
  } catch (error) {
    if (isHalftoneError(error)) throw error;
    throw new HalftoneError('runtime', `${path}: expected to write the model, got ${messageOf(error)}`, {
      cause: error,
      fields: { path },
    });
  } finally {
    for (const leftover of [temporary, dataTemporary, dataBefore]) rmSync(leftover, { force: true });
  }
}

/** Writes tensors to `dataPath`, to be known as `location`; returns the bytes of the model file. */
function writeWithData(model: Model, dataPath: string, location: string): Uint8Array {
  const descriptor = openSync(dataPath, 'w');
  let end = 0;
  try {
    return writeOnnx(model, {
      external: {
        put(data) {
          const offset = Math.ceil(end / externalAlignment) * externalAlignment;
          for (let done = 0; done < data.byteLength; ) {
            done += writeSync(descriptor, data, done, Math.min(data.byteLength - done, 2 ** 30), offset + done);
          }
          end = offset + data.byteLength;
          return { location, offset };
        },
      },
    });
  } finally {
    closeSync(descriptor);
  }
}
