/** Node only: models on disk. Reading never leaves the model's folder; writing is whole or not at all. */
import {
  closeSync,
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
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { HalftoneError, messageOf } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { maxMessageBytes } from './limits.ts';
import { readOnnx } from './read.ts';
import type { ExternalData } from './tensor-proto.ts';
import { tensorBytes, writeOnnx } from './write.ts';

/**
 * Reads an ONNX file and its external data.
 * @throws HalftoneError `missing-data` when a file is missing; otherwise as `readOnnx`, with the path in the message.
 */
export function readModel(path: string): Model {
  const bytes = readWhole(path);
  const external = openExternalData(dirname(resolve(path)));
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

/** Reads ranges of files inside `folder`; a location that leads outside, also through a link, is refused. */
export function openExternalData(folder: string): ExternalData & { close(): void } {
  const open = new Map<string, number>();
  const descriptorOf = (location: string, tensor: string): number => {
    const known = open.get(location);
    if (known !== undefined) return known;
    const outside = (path: string) => {
      const step = relative(folder, path);
      return step.startsWith('..') || isAbsolute(step);
    };
    const path = resolve(folder, location);
    if (isAbsolute(location) || outside(path)) {
      throw new HalftoneError(
        'invalid-file',
        `tensor "${tensor}": expected external data inside the model's folder, got "${location}"`,
        {
          fields: { tensor, location },
        },
      );
    }
    let real: string;
    let descriptor: number;
    try {
      real = realpathSync(path);
      descriptor = openSync(path, 'r');
    } catch (error) {
      throw new HalftoneError(
        'missing-data',
        `tensor "${tensor}": expected external data in "${location}" beside the model, got no such file`,
        {
          cause: error,
          fields: { tensor, location },
        },
      );
    }
    const step = relative(realpathSync(folder), real);
    if (step.startsWith('..') || isAbsolute(step) || !fstatSync(descriptor).isFile()) {
      closeSync(descriptor);
      throw new HalftoneError(
        'invalid-file',
        `tensor "${tensor}": expected external data inside the model's folder, got a link to "${real}"`,
        {
          fields: { tensor, location },
        },
      );
    }
    open.set(location, descriptor);
    return descriptor;
  };
  return {
    read(location, offset, length, tensor) {
      const descriptor = descriptorOf(location, tensor);
      const size = fstatSync(descriptor).size;
      const wanted = length ?? size - offset;
      if (wanted < 0 || offset + wanted > size) {
        throw new HalftoneError(
          'missing-data',
          `tensor "${tensor}": expected ${wanted} bytes at offset ${offset} of "${location}", got a file of ${size} bytes`,
          {
            fields: { tensor, location, offset },
          },
        );
      }
      const bytes = new Uint8Array(wanted);
      for (let done = 0; done < wanted; ) {
        const count = readSync(descriptor, bytes, done, Math.min(wanted - done, 2 ** 30), offset + done);
        if (count === 0) {
          throw new HalftoneError(
            'missing-data',
            `tensor "${tensor}": expected ${wanted} bytes of "${location}", got ${done}`,
            { fields: { tensor, location } },
          );
        }
        done += count;
      }
      return bytes;
    },
    close() {
      for (const descriptor of open.values()) closeSync(descriptor);
      open.clear();
    },
  };
}

export interface WrittenFiles {
  /** The model file first, then its external data. */
  readonly paths: readonly string[];
  /** Bytes of all of them. */
  readonly bytes: number;
}

/** Tensors start at multiples of this in external files, so that they can be mapped into memory (onnx's own default). */
const externalAlignment = 4096;

/**
 * Writes a model. Tensors go to `NAME.onnx_data` beside it when the file would reach 2 GiB, or always with `external`.
 * Every file appears whole, under its final name, or not at all; the model file comes last.
 * @throws HalftoneError `runtime` when the disk refuses.
 */
export function writeModel(model: Model, path: string, options: { external?: boolean } = {}): WrittenFiles {
  const external = options.external || tensorBytes(model) > maxMessageBytes - 2 ** 24;
  const temporary = `${path}.${process.pid}.partial`;
  const dataPath = `${path}_data`;
  const dataTemporary = `${dataPath}.${process.pid}.partial`;
  try {
    if (!external) {
      writeFileSync(temporary, writeOnnx(model));
      renameSync(temporary, path);
      return { paths: [path], bytes: statSync(path).size };
    }
    const descriptor = openSync(dataTemporary, 'w');
    let end = 0;
    try {
      const bytes = writeOnnx(model, {
        external: {
          put(data) {
            const offset = Math.ceil(end / externalAlignment) * externalAlignment;
            for (let done = 0; done < data.byteLength; ) {
              done += writeSync(descriptor, data, done, Math.min(data.byteLength - done, 2 ** 30), offset + done);
            }
            end = offset + data.byteLength;
            return { location: basename(dataPath), offset };
          },
        },
      });
      writeFileSync(temporary, bytes);
    } finally {
      closeSync(descriptor);
    }
    renameSync(dataTemporary, dataPath);
    renameSync(temporary, path);
    return { paths: [path, dataPath], bytes: statSync(path).size + statSync(dataPath).size };
  } catch (error) {
    throw new HalftoneError('runtime', `${path}: expected to write the model, got ${messageOf(error)}`, {
      cause: error,
      fields: { path },
    });
  } finally {
    rmSync(temporary, { force: true });
    rmSync(dataTemporary, { force: true });
  }
}

/** Bytes of a model on disk with its external data, as far as the graph names it. */
export function modelBytes(path: string): number {
  let bytes = statSync(path).size;
  const data = join(dirname(path), `${basename(path)}_data`);
  try {
    bytes += statSync(data).size;
  } catch {
    // no external data under the usual name
  }
  return bytes;
}
