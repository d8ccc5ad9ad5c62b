/** Samples and labels from paths. Needs Node: the parsers themselves are in the other files and work in a browser, too. */
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, extname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { HalftoneError, messageOf } from '../base/errors.ts';
import { readNpy, readNpyHeader } from '../files/npy.ts';
import { type NpzArray, readNpz } from '../files/npz.ts';
import type { ValueInfo } from '../runtime/runtime.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { arraySamples, type StoredArray } from './arrays.ts';
import { type Codec, createImageDecoder, type DecodeImage } from './decode.ts';
import { feedSamples } from './feeds.ts';
import { imageSamples } from './images.ts';
import { jsonlSamples } from './jsonl.ts';
import { type Labels, parseLabels } from './labels.ts';
import { type Preprocessing, parsePreprocessing } from './preprocess.ts';
import { randomSamples } from './random.ts';
import type { Samples } from './sample.ts';
import { take } from './select.ts';

export interface OpenOptions {
  /** A Hugging Face `preprocessor_config.json`; needed for pictures. */
  readonly preprocess?: string;
  /** At most so many samples. Default: all; 8 for `random`. */
  readonly limit?: number;
  /** For `random`. Default 0. */
  readonly seed?: number;
  /** Lengths of symbolic dimensions for `random`, by name. */
  readonly dimensions?: Readonly<Record<string, number>>;
}

type Sets = ReadonlyMap<string, StoredArray>[];
type Files = readonly string[];

const pictures = /\.(jpe?g|png)$/i;
const arrays = /\.np[yz]$/i;
const modules = /\.[cm]?[jt]s$/i;
const kinds = 'a .npz, .npy, .jsonl or .js/.mjs file, a folder of .npy, .npz, .jpg or .png files, or the word random';

/**
 * Opens calibration or evaluation data.
 * @param data a path, with `#array` after an npz to choose one of its arrays and `*` in the last part to choose files of a
 * folder; or `random`
 * @param inputs the inputs of the model that will be fed
 * @throws HalftoneError `missing-data` when there is nothing there or an input has no data, `usage` when the data does not
 * fit the model, `invalid-file` for damaged files, `unsupported` for other kinds of data.
 */
export async function openSamples(
  data: string,
  inputs: readonly ValueInfo[],
  options: OpenOptions = {},
): Promise<Samples> {
  const { limit, seed, dimensions } = options;
  if (data === 'random') {
    return randomSamples(inputs, {
      ...(limit === undefined ? {} : { count: limit }),
      ...(seed === undefined ? {} : { seed }),
      ...(dimensions === undefined ? {} : { dimensions }),
    });
  }
  const samples = await openPath(data, inputs, options.preprocess);
  return limit === undefined ? samples : take(samples, limit);
}

async function openPath(data: string, inputs: readonly ValueInfo[], config: string | undefined): Promise<Samples> {
  const { path, array } = await splitName(data);
  const folder = await listFolder(path);
  if (folder) return openFolder(folder.folder, folder.files, data, inputs, config);
  if (arrays.test(path)) return arraySamples(await openArrays([path], array), inputs, data);
  if (pictures.test(path)) return openPictures(resolve(path, '..'), [basename(path)], data, inputs, config);
  if (/\.jsonl$/i.test(path)) return jsonlSamples(new TextDecoder().decode(await readBytes(path)), inputs, data);
  if (modules.test(path)) return feedSamples(await importDefault(path), inputs, data);
  throw new HalftoneError(
    'unsupported',
    `samples ${data}: expected ${kinds}, got a file ending in ${extname(path) || 'nothing'}`,
  );
}

/** `file.npz#name` as its two parts, unless a file of the whole name exists. */
async function splitName(data: string): Promise<{ path: string; array?: string }> {
  const at = data.lastIndexOf('#');
  if (at < 0 || !/\.npz$/i.test(data.slice(0, at)) || (await kindOf(data)) !== 'absent') return { path: data };
  return { path: data.slice(0, at), array: data.slice(at + 1) };
}

async function kindOf(path: string): Promise<'file' | 'folder' | 'absent'> {
  try {
    return (await stat(path)).isDirectory() ? 'folder' : 'file';
  } catch {
    return 'absent';
  }
}

/** The files of a folder and its subfolders, sorted; with `*` in the last part of the path, those that match. */
async function listFolder(path: string): Promise<{ folder: string; files: Files } | undefined> {
  const kind = await kindOf(path);
  if (kind === 'file') return undefined;
  const pattern = basename(path);
  const folder = kind === 'folder' ? path : join(path, '..');
  if (kind === 'absent' && (!pattern.includes('*') || (await kindOf(folder)) !== 'folder')) {
    throw new HalftoneError('missing-data', `samples ${path}: expected ${kinds}, got nothing at this path`);
  }
  const all = await listFiles(folder, '', kind === 'folder');
  const parts = pattern.split('*').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const matches = new RegExp(`^${parts.join('.*')}$`);
  return { folder, files: kind === 'folder' ? all : all.filter((file) => matches.test(file)) };
}

async function listFiles(folder: string, prefix: string, deep: boolean): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(join(folder, prefix), { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue;
    const name = prefix === '' ? entry.name : `${prefix}/${entry.name}`;
    if (!entry.isDirectory()) found.push(name);
    else if (deep) found.push(...(await listFiles(folder, name, deep)));
  }
  return found.sort();
}

async function openFolder(
  folder: string,
  files: Files,
  data: string,
  inputs: readonly ValueInfo[],
  config: string | undefined,
): Promise<Samples> {
  const images = files.filter((file) => pictures.test(file));
  const stored = files.filter((file) => arrays.test(file) && !file.includes('/'));
  if (images.length > 0 && (config !== undefined || stored.length === 0)) {
    return openPictures(folder, images, data, inputs, config);
  }
  if (stored.length > 0) {
    const sets = await openArrays(stored.map((file) => join(folder, file)));
    return arraySamples(sets, inputs, data);
  }
  throw new HalftoneError(
    'missing-data',
    `samples ${data}: expected .npy, .npz, .jpg or .png files in the folder, got ${files.length} files, none of them such`,
  );
}

/**
 * All npy files together are one set, by stem; each npz is another. A single npz stays in memory as it is stored; of
 * several, each is read again when its turn comes.
 */
async function openArrays(paths: Files, array?: string): Promise<Sets> {
  const single = new Map<string, StoredArray>();
  const sets: Sets = [];
  for (const path of paths) {
    if (/\.npy$/i.test(path)) {
      const stem = basename(path).slice(0, -'.npy'.length);
      const { dtype, descr, shape } = readNpyHeader(await readBytes(path, 70_000), path);
      single.set(stem, { name: stem, dtype, descr, shape, read: async () => readNpy(await readBytes(path), path) });
      continue;
    }
    const whole = readNpz(await readBytes(path), path);
    const set = paths.length === 1 ? whole : detached(whole, path);
    const chosen = array === undefined ? undefined : set.get(array);
    if (array !== undefined && !chosen) {
      throw new HalftoneError(
        'missing-data',
        `samples ${path}: expected an array named ${array}, got ${[...set.keys()].join(', ')}`,
      );
    }
    sets.push(chosen ? new Map([[chosen.name, chosen]]) : set);
  }
  return single.size > 0 ? [single, ...sets] : sets;
}

/** The same arrays without the file's bytes. */
function detached(set: ReadonlyMap<string, NpzArray>, path: string): ReadonlyMap<string, StoredArray> {
  const arrays = new Map<string, StoredArray>();
  for (const { name, dtype, descr, shape } of set.values()) {
    const read = async (): Promise<Tensor> => {
      const array = readNpz(await readBytes(path), path).get(name);
      if (array) return array.read();
      throw new HalftoneError('missing-data', `samples ${path}: expected array ${name} as before, got a changed file`);
    };
    arrays.set(name, { name, dtype, descr, shape, read });
  }
  return arrays;
}

async function openPictures(
  folder: string,
  files: Files,
  data: string,
  inputs: readonly ValueInfo[],
  config: string | undefined,
): Promise<Samples> {
  if (config === undefined) {
    throw new HalftoneError(
      'missing-data',
      `samples ${data}: expected --preprocess FILE, a preprocessor_config.json that tells how the model takes pictures, got none; for example {"size": {"shortest_edge": 256}, "crop_size": 224, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}`,
    );
  }
  const settings = await readPreprocessing(config);
  const list = files.map((name) => ({ name, read: () => readBytes(join(folder, name)) }));
  return imageSamples(list, inputs, settings, nodeImageDecoder(), data);
}

/**
 * Reads a `preprocessor_config.json`.
 * @throws HalftoneError `missing-data` when it is absent, `invalid-file` when it is no such file.
 */
export async function readPreprocessing(path: string): Promise<Preprocessing> {
  const text = new TextDecoder().decode(await readBytes(path));
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw new HalftoneError('invalid-file', `${path}: expected JSON, got ${messageOf(error)}`, { cause: error });
  }
  return parsePreprocessing(config, path);
}

const codecFiles: Readonly<Record<Codec, string>> = {
  jpeg: '@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm',
  png: '@jsquash/png/codec/pkg/squoosh_png_bg.wasm',
};

/** The image decoder with its WebAssembly from the installed packages. */
export function nodeImageDecoder(): DecodeImage {
  const { resolve: locate } = createRequire(import.meta.url);
  return createImageDecoder(async (codec) => new WebAssembly.Module(await readFile(locate(codecFiles[codec]))));
}

/** A whole file, or its first `limit` bytes; unlike `readFile` it reads beyond 2 GiB. */
async function readBytes(path: string, limit = Number.POSITIVE_INFINITY): Promise<Uint8Array> {
  try {
    const file = await open(path);
    try {
      const bytes = new Uint8Array(Math.min((await file.stat()).size, limit));
      let at = 0;
      while (at < bytes.length) {
        const { bytesRead } = await file.read(bytes, at, Math.min(bytes.length - at, 2 ** 30), at);
        if (bytesRead === 0) break;
        at += bytesRead;
      }
      return bytes.subarray(0, at);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw new HalftoneError('missing-data', `${path}: expected a readable file, got ${messageOf(error)}`, {
      cause: error,
    });
  }
}

async function importDefault(path: string): Promise<unknown> {
  let module: { readonly default?: unknown };
  try {
    module = await import(/* @vite-ignore */ pathToFileURL(resolve(path)).href);
  } catch (error) {
    throw moduleError(error, path);
  }
  if (module.default === undefined) {
    throw new HalftoneError(
      'usage',
      `${path}: expected a default export, got ${Object.keys(module).join(', ') || 'none'}; use export default async function* (inputs) { … }`,
    );
  }
  return module.default;
}

/** Why a module could not be loaded, in words for its author. */
export function moduleError(error: unknown, path: string): HalftoneError {
  const code = (error as { code?: unknown } | null)?.code;
  if (code === 'ERR_UNKNOWN_FILE_EXTENSION' && /\.[cm]?ts$/i.test(path)) {
    return new HalftoneError(
      'unsupported',
      `${path}: expected JavaScript, or TypeScript on Node 22.18 or later, got TypeScript on Node ${process.versions.node}; compile it to .mjs or use a newer Node`,
      { cause: error },
    );
  }
  return new HalftoneError('usage', `${path}: expected a module that loads, got ${messageOf(error)}`, { cause: error });
}

/**
 * Reads labels: `.npy`, `.npz` (with `#array`), `.json`, `.txt` or `.csv`; see `parseLabels`.
 * @throws HalftoneError `missing-data` when the file is absent, `invalid-file` when it holds no class indices.
 */
export async function readLabels(path: string): Promise<Labels> {
  const { path: file, array } = await splitName(path);
  return parseLabels(await readBytes(file), file, array);
}
