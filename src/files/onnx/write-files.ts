/** Node only: writes models to disk. Every file appears whole, under its final name, or not at all. */
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { HalftoneError, isHalftoneError, messageOf } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import type { ByteSource } from '../../tensor/source.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import { refuseSpecial } from '../paths.ts';
import { maxMessageBytes } from './limits.ts';
import { type ExternalSink, modelParts, tensorBytes } from './write.ts';

export interface WrittenFiles {
  /** The model file first, then its external data. */
  readonly paths: readonly string[];
  /** Bytes of all of them. */
  readonly bytes: number;
}

export interface WriteFileOptions {
  /** Always write tensors beside the model file. Default: when the file would reach 2 GiB. */
  readonly external?: boolean;
  /**
   * Tensors that are not in it are added to it, and it becomes the external data: unless it holds much else, or more than
   * `chunkBytes`, when it stays as it is and tensors are copied to where they would go without it.
   */
  readonly data?: DataFile;
  /** Files of external data end before they would grow beyond this; a larger tensor has one of its own. Default 2 GiB. */
  readonly chunkBytes?: number;
}

/** Tensors start at multiples of this in external files, so that they can be mapped into memory (onnx's own default). */
export const externalAlignment = 4096;

/** A file that holds tensors already and becomes the model's external data as it is, under another name. */
export interface DataFile {
  readonly path: string;
  readonly byteLength: number;
  /** Where a source's bytes lie in it; undefined for others. */
  offsetOf(source: ByteSource): number | undefined;
  align(): void;
  append(bytes: Uint8Array): number;
  /** Brings all of it to the disk. */
  finish(): void;
}

/** A browser cannot hold much more in one buffer. */
const defaultChunkBytes = 2 ** 31 - 2 ** 20;

/** Bytes of a tensor that are in memory while it is written. */
const copiedBytes = 2 ** 21;

/** File number `index` of the external data of a model written to `path`, as Transformers.js names them. */
export function externalDataPath(path: string, index = 0): string {
  return `${path}_data${index === 0 ? '' : `_${index}`}`;
}

/**
 * Writes a model. Tensors go to `NAME.onnx_data`, `NAME.onnx_data_1` … beside it when the file would reach 2 GiB, or
 * always with `external`. Every file appears whole, under its final name, or not at all; the model file comes last.
 * @throws HalftoneError `usage` when a device, pipe or socket has such a name, `runtime` when the disk refuses,
 * otherwise as `modelParts`; what was there before stays.
 */
export function writeModel(model: Model, path: string, options: WriteFileOptions = {}): WrittenFiles {
  const { chunkBytes = defaultChunkBytes } = options;
  const external = options.external || tensorBytes(model) > maxMessageBytes - 2 ** 24;
  const data = options.data && isTidy(model, options.data, chunkBytes) ? options.data : undefined;
  const mark = `${process.pid}.partial`;
  const dataPath = externalDataPath(path);
  const temporary = (target: string) => (data && target === dataPath ? data.path : `${target}.${mark}`);
  const targets: string[] = [];
  const open = (target: string) => {
    refuseSpecial(target, target);
    targets.push(target);
    return openSync(temporary(target), 'w');
  };
  refuseSpecial(path, path);
  try {
    const sink = data ? adding(data, dataPath) : external ? new DataFiles(path, open, chunkBytes) : undefined;
    if (data) {
      refuseSpecial(dataPath, dataPath);
      targets.push(dataPath);
    }
    try {
      const { parts } = modelParts(model, sink ? { external: sink } : {});
      data?.finish();
      if (sink instanceof DataFiles) sink.close();
      const descriptor = open(path);
      try {
        let position = 0;
        for (const part of parts) position += write(descriptor, part, position);
        fsyncSync(descriptor);
      } finally {
        closeSync(descriptor);
      }
    } finally {
      if (sink instanceof DataFiles) sink.close();
    }
    moveIntoPlace(targets, temporary, mark);
    const paths = [path, ...targets.filter((target) => target !== path)];
    return { paths, bytes: paths.reduce((sum, target) => sum + statSync(target).size, 0) };
  } catch (error) {
    if (isHalftoneError(error)) throw error;
    throw new HalftoneError('runtime', `${path}: expected to write the model, got ${messageOf(error)}`, {
      cause: error,
      fields: { path },
    });
  } finally {
    for (const target of targets) if (temporary(target) !== data?.path) rmSync(temporary(target), { force: true });
  }
}

/** What a file may hold beside the model's tensors, relative to its size, before copying them is better. */
const spareShare = 0.05;

function isTidy(model: Model, data: DataFile, chunkBytes: number): boolean {
  let used = 0;
  let elsewhere = 0;
  for (const graph of model.graphs()) {
    for (const { tensor } of graph.initializers) {
      if (!tensor || tensor.strings) continue;
      const size = Math.ceil(tensor.byteLength / externalAlignment) * externalAlignment;
      if (tensor.source && data.offsetOf(tensor.source) !== undefined) used += size;
      else elsewhere += size;
    }
  }
  return data.byteLength + elsewhere <= chunkBytes && used >= (1 - spareShare) * data.byteLength;
}

/** Leaves tensors that are in the file where they are, and adds the others to it. */
function adding(data: DataFile, dataPath: string): ExternalSink {
  const location = basename(dataPath);
  return {
    put(tensor) {
      const known = tensor.source && data.offsetOf(tensor.source);
      if (known !== undefined) return { location, offset: known };
      data.align();
      let offset: number | undefined;
      for (let start = 0; start < tensor.byteLength; start += copiedBytes) {
        const at = data.append(tensor.bytesAt(start, Math.min(start + copiedBytes, tensor.byteLength)));
        offset ??= at;
      }
      return { location, offset: offset ?? data.byteLength };
    },
  };
}

/** Takes tensors into files of external data, one after the other. */
class DataFiles {
  readonly #path: string;
  readonly #open: (target: string) => number;
  readonly #chunkBytes: number;
  #descriptor: number | undefined;
  #index = -1;
  #end = 0;

  constructor(path: string, open: (target: string) => number, chunkBytes: number) {
    this.#path = path;
    this.#open = open;
    this.#chunkBytes = chunkBytes;
  }

  put(tensor: Tensor): { location: string; offset: number } {
    let offset = Math.ceil(this.#end / externalAlignment) * externalAlignment;
    if (this.#descriptor === undefined || (offset > 0 && offset + tensor.byteLength > this.#chunkBytes)) {
      this.close();
      this.#index++;
      this.#descriptor = this.#open(externalDataPath(this.#path, this.#index));
      offset = 0;
    }
    this.#end = offset + write(this.#descriptor, tensor, offset);
    return { location: basename(externalDataPath(this.#path, this.#index)), offset };
  }

  close(): void {
    if (this.#descriptor === undefined) return;
    fsyncSync(this.#descriptor);
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/** Writes bytes, or a tensor's bytes piece by piece, and returns their number. */
function write(descriptor: number, part: Uint8Array | Tensor, position: number): number {
  const { byteLength } = part;
  const source = part instanceof Uint8Array ? undefined : part.source;
  if (!source) {
    writeFully(descriptor, part instanceof Uint8Array ? part : part.bytes, position);
    return byteLength;
  }
  // One buffer for all pieces: fresh memory costs more than copying into it.
  const buffer = source.readInto ? new Uint8Array(Math.min(copiedBytes, byteLength)) : undefined;
  for (let start = 0; start < byteLength; start += copiedBytes) {
    const end = Math.min(start + copiedBytes, byteLength);
    const piece = buffer?.subarray(0, end - start) ?? source.read(start, end);
    if (buffer) source.readInto?.(piece, start);
    writeFully(descriptor, piece, position + start);
  }
  return byteLength;
}

function writeFully(descriptor: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.byteLength; ) {
    done += writeSync(descriptor, bytes, done, Math.min(bytes.byteLength - done, 2 ** 30), position + done);
  }
}

const isFile = (path: string) => statSync(path, { throwIfNoEntry: false })?.isFile() === true;

/**
 * Gives finished files their names, the last one last. Files of these names are put aside before: whoever finds the last
 * one finds it with the others that belong to it.
 */
function moveIntoPlace(targets: readonly string[], temporary: (target: string) => string, mark: string): void {
  const before = (target: string) => `${target}.${mark}.before`;
  const aside = targets.length > 1 ? [...targets].reverse().filter(isFile) : [];
  const placed: string[] = [];
  try {
    for (const target of aside) renameSync(target, before(target));
    for (const target of targets) {
      renameSync(temporary(target), target);
      placed.push(target);
    }
  } catch (error) {
    if (targets.length > 1) for (const target of placed) renameSync(target, temporary(target));
    for (const target of [...aside].reverse()) if (existsSync(before(target))) renameSync(before(target), target);
    throw error;
  }
  for (const target of aside) rmSync(before(target), { force: true });
}
