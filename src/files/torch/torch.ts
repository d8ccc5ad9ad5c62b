/**
 * PyTorch checkpoints (`.pth`, `.pt`, `.th`), without Python and without running anything they contain.
 * Containers: torch/serialization.py (PyTorch 2.9): the zip format since 1.6 (`data.pkl`, `data/KEY`), and the legacy one
 * (magic number, protocol, system, object, storage keys, storages).
 */
import { HalftoneError } from '../../base/errors.ts';
import { type DType, dtypes } from '../../tensor/dtype.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import { isZip, readZip } from '../zip.ts';
import { torchHooks } from './globals.ts';
import { Global, Instance, type PickleHooks, unpickle } from './pickle.ts';
import { type CopyBudget, materialize, type Storage, StoredTensor, storageType } from './storage.ts';

export interface TorchFile {
  /**
   * Tensor by name, contiguous, in the file's order. Nested dicts are joined with dots: `state_dict.module.conv1.weight`.
   * A pickled module gives the names of its state dict.
   */
  readonly entries: ReadonlyMap<string, Tensor>;
  /** Numbers, texts and flags next to the tensors, by the same kind of name: `epoch`, `best_prec1`. */
  readonly metadata: ReadonlyMap<string, number | string | boolean>;
  /** Python classes and functions in the file that mean nothing here; their objects were passed over, or read as modules. */
  readonly classes: readonly string[];
}

/** torch/serialization.py, MAGIC_NUMBER: 0x1950a86a20f9469cfc6c, little-endian after PROTO 2 and LONG1 10. */
const magic = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e];
/** Names deeper or longer than this are an attack or a cycle, not a model. */
const maxDepth = 64;
const maxNameLength = 4096;

/** True when the bytes start as a legacy PyTorch file does, or as a zip archive, which may be one. */
export function isTorch(bytes: Uint8Array): boolean {
  return isZip(bytes) || isLegacy(bytes);
}

function isLegacy(bytes: Uint8Array): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}

/**
 * Reads a checkpoint: a state dict, a dict that holds some, or a whole pickled module (its parameters and buffers).
 * @param bytes the whole file; contiguous tensors are views of it
 * @throws HalftoneError `invalid-file` for damaged files, `missing-data` when there is no tensor in it, `unsupported` for
 * TorchScript, sparse and quantized tensors, and files that would run code in PyTorch.
 */
export function readTorch(bytes: Uint8Array, subject = 'PyTorch file'): TorchFile {
  const classes = new Set<string>();
  const root = isZip(bytes)
    ? readArchive(bytes, classes, subject)
    : isLegacy(bytes)
      ? readLegacy(bytes, classes, subject)
      : refuseOther(bytes, subject);
  return collect(root, [...classes], bytes.length, subject);
}

function refuseOther(bytes: Uint8Array, subject: string): never {
  const tar = bytes.length > 262 && new TextDecoder().decode(bytes.subarray(257, 262)) === 'ustar';
  if (tar) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected a PyTorch file of version 0.4 or later, got the older tar format; load it and save it again`,
    );
  }
  throw new HalftoneError('invalid-file', `${subject}: expected a PyTorch checkpoint, got other bytes`);
}

function readArchive(bytes: Uint8Array, classes: Set<string>, subject: string): unknown {
  const archive = readZip(bytes, subject);
  const pickle = [...archive.keys()].find((name) => /(^|\/)data\.pkl$/.test(name));
  const pickled = pickle === undefined ? undefined : archive.get(pickle);
  if (pickle === undefined || !pickled) {
    throw new HalftoneError(
      'invalid-file',
      `${subject}: expected data.pkl in the archive, got ${[...archive.keys()].slice(0, 5).join(', ') || 'nothing'}; is it a PyTorch file?`,
    );
  }
  const prefix = pickle.slice(0, -'data.pkl'.length);
  if (archive.has(`${prefix}constants.pkl`)) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected a state dict, got a TorchScript program; save it with torch.save(module.state_dict(), path)`,
    );
  }
  const order = archive.get(`${prefix}byteorder`)?.read();
  if (order && new TextDecoder().decode(order) === 'big') {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected little-endian storages, got big-endian ones; save it again on a little-endian machine`,
    );
  }
  const loaded = new Map<string, Uint8Array>();
  const openStorage = (id: unknown): Storage => {
    const { dtype, key } = storageId(id, subject);
    const entry = archive.get(`${prefix}data/${key}`);
    if (!entry) throw new HalftoneError('invalid-file', `${subject}: expected storage data/${key}, got no such entry`);
    const bytes = (): Uint8Array => {
      const data = loaded.get(key) ?? entry.read();
      loaded.set(key, data);
      return data;
    };
    return { dtype, key, bytes };
  };
  return unpickle(pickled.read(), 0, torchHooks(openStorage, classes, subject), `${subject}: ${pickle}`).value;
}

interface StorageId {
  readonly dtype: DType | undefined;
  readonly key: string;
  readonly count: number;
  readonly view: unknown;
}

/** `('storage', type, key, location, count)`, and in legacy files the part of a larger storage that it is. */
function storageId(id: unknown, subject: string): StorageId {
  if (Array.isArray(id) && id.length >= 5 && id[0] === 'storage') {
    const [, type, key, , count, view] = id as readonly unknown[];
    if ((typeof key === 'string' || typeof key === 'number') && Number.isSafeInteger(count)) {
      return { dtype: storageType(type, subject), key: String(key), count: count as number, view };
    }
  }
  throw new HalftoneError('invalid-file', `${subject}: expected persistent ids of storages, got another one`);
}

const noHooks: PickleHooks = {
  persistent: () => null,
  reduce: () => undefined,
};

interface LegacyStorage {
  readonly width: number;
  bytes: Uint8Array | undefined;
}

/** The pickles one after the other, then for each storage an int64 count and its elements. */
function readLegacy(bytes: Uint8Array, classes: Set<string>, subject: string): unknown {
  const roots = new Map<string, LegacyStorage>();
  const openStorage = (id: unknown): Storage => {
    const { dtype, key, view } = storageId(id, subject);
    if (dtype === undefined) {
      throw new HalftoneError(
        'invalid-file',
        `${subject}: expected typed storages in a legacy file, got an untyped one`,
      );
    }
    const width = dtypes[dtype].bits / 8;
    const root = roots.get(key) ?? { width, bytes: undefined };
    roots.set(key, root);
    const [from, count] = viewRange(view, subject);
    return {
      dtype,
      key,
      bytes() {
        if (!root.bytes)
          throw new HalftoneError('invalid-file', `${subject}: expected storage ${key}, got none; is the file whole?`);
        return root.bytes.subarray(from * width, count === undefined ? undefined : (from + count) * width);
      },
    };
  };
  // ('module', class, file, source): the class of a pickled module, with its source text.
  const open = (id: unknown): unknown => (Array.isArray(id) && id[0] === 'module' ? id[1] : openStorage(id));
  const hooks = torchHooks(open, classes, subject);
  const protocol = unpickle(bytes, magic.length, noHooks, subject);
  const system = unpickle(bytes, protocol.end, noHooks, subject);
  if (system.value instanceof Map && system.value.get('little_endian') === false) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected little-endian storages, got big-endian ones; save it again on a little-endian machine`,
    );
  }
  const object = unpickle(bytes, system.end, hooks, subject);
  const keys = unpickle(bytes, object.end, noHooks, subject);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = keys.end;
  for (const key of Array.isArray(keys.value) ? keys.value : []) {
    const root = roots.get(String(key));
    const count = at + 8 <= bytes.length ? Number(view.getBigInt64(at, true)) : -1;
    const end = at + 8 + count * (root?.width ?? 0);
    if (!root || count < 0 || end > bytes.length) {
      throw new HalftoneError(
        'invalid-file',
        `${subject}, offset ${at}: expected storage ${String(key).slice(0, 40)}, got ${root ? `${count} elements in ${bytes.length - at} bytes` : 'a key that no tensor uses'}; is the file whole?`,
      );
    }
    root.bytes = bytes.subarray(at + 8, end);
    at = end;
  }
  return object.value;
}

function viewRange(view: unknown, subject: string): readonly [number, number | undefined] {
  if (view === null || view === undefined) return [0, undefined];
  const [, offset, size] = Array.isArray(view) ? (view as readonly unknown[]) : [];
  if (Number.isSafeInteger(offset) && Number.isSafeInteger(size) && (offset as number) >= 0 && (size as number) >= 0) {
    return [offset as number, size as number];
  }
  throw new HalftoneError(
    'invalid-file',
    `${subject}: expected a view of a storage (key, offset, size), got another value`,
  );
}

/** Walks the object for tensors. */
function collect(root: unknown, classes: readonly string[], fileSize: number, subject: string): TorchFile {
  const entries = new Map<string, Tensor>();
  const metadata = new Map<string, number | string | boolean>();
  const types = new Set(classes);
  const budget: CopyBudget = { left: 4 * fileSize + 2 ** 20 };
  // A shared or cyclic object has many paths: an honest file has neither more values than bytes nor names much longer.
  let visits = fileSize;
  let letters = 64 * fileSize + 2 ** 16;
  const visit = (value: unknown, name: string, depth: number): void => {
    visits -= 1;
    letters -= name.length;
    if (depth > maxDepth || name.length > maxNameLength || visits < 0 || letters < 0) {
      throw new HalftoneError(
        'unsupported',
        `${subject}: expected nested dicts of tensors, got ${name.slice(0, 60)}…, which has no end; save the state dict alone`,
      );
    }
    if (value instanceof StoredTensor) {
      if (entries.has(name))
        throw new HalftoneError('invalid-file', `${subject}: expected one tensor named ${name}, got two`);
      entries.set(name, materialize(value, name, budget));
    } else if (value instanceof Map) {
      for (const [key, item] of value) visit(item, join(name, key), depth + 1);
    } else if (Array.isArray(value)) {
      for (const [i, item] of value.entries()) visit(item, join(name, i), depth + 1);
    } else if (value instanceof Instance) {
      if (value.type instanceof Global) types.add(value.type.path);
      for (const part of partsOf(value)) for (const [key, item] of part) visit(item, join(name, key), depth + 1);
    } else if (typeof value === 'number' || typeof value === 'string' || typeof value === 'boolean') {
      metadata.set(name, value);
    }
  };
  visit(root, '', 0);
  if (entries.size === 0) {
    throw new HalftoneError(
      'missing-data',
      `${subject}: expected tensors, got none${types.size > 0 ? ` (only objects of ${[...types].slice(0, 5).join(', ')})` : ''}; save the weights with torch.save(model.state_dict(), path)`,
    );
  }
  return { entries, metadata, classes: [...types].sort() };
}

function join(prefix: string, key: unknown): string {
  const name = typeof key === 'string' || typeof key === 'number' || typeof key === 'bigint' ? String(key) : '?';
  return prefix === '' ? name : `${prefix}.${name}`;
}

/** A module's parameters, buffers and children, as its `state_dict` lists them; any other object's attributes and items. */
function partsOf(instance: Instance): ReadonlyMap<unknown, unknown>[] {
  const state = instance.state instanceof Map ? instance.state : new Map<unknown, unknown>();
  const own = ['_parameters', '_buffers', '_modules'].map((key) => state.get(key));
  if (!own.some((part) => part instanceof Map)) return [state, instance.items, new Map(instance.list.entries())];
  const hidden = state.get('_non_persistent_buffers_set');
  const skipped = new Set(Array.isArray(hidden) ? hidden : []);
  const [parameters, buffers, modules] = own.map((part) => (part instanceof Map ? part : new Map<unknown, unknown>()));
  return [parameters, new Map([...buffers].filter(([key]) => !skipped.has(key))), modules];
}
