/** The Python names that a checkpoint may use, and what each means here. Every other name stays an inert record. */
import { HalftoneError } from '../../base/errors.ts';
import { halfToFloat } from '../../tensor/half.ts';
import { Global, Instance, type PickleHooks } from './pickle.ts';
import { type Storage, StoredTensor, torchType } from './storage.ts';

/** Calls into these never belong in a checkpoint: torch.load would run them. */
const dangerousModules = new Set(
  'os posix nt subprocess sys runpy pty socket shutil ctypes importlib webbrowser multiprocessing asyncio code pdb'.split(
    ' ',
  ),
);
const dangerousBuiltins = new Set('eval exec execfile compile open __import__ input apply breakpoint'.split(' '));

/**
 * Hooks that rebuild tensors, ordered dicts, sizes and NumPy scalars.
 * @param openStorage the `Storage` that a persistent id names, or a class
 * @param unknown collects the paths of names that have no meaning here
 */
export function torchHooks(openStorage: (id: unknown) => unknown, unknown: Set<string>, subject: string): PickleHooks {
  return {
    persistent: openStorage,
    reduce(callable, args) {
      const { path } = callable;
      const meaning = meanings.get(path);
      if (meaning) return meaning(args, subject);
      if (path === 'torch._tensor._rebuild_from_type_v2' && args[0] instanceof Global && Array.isArray(args[2])) {
        return this.reduce(args[0], args[2]);
      }
      refuse(callable, subject);
      unknown.add(path);
      return undefined;
    },
  };
}

function refuse(callable: Global, subject: string): void {
  const { module, name, path } = callable;
  if (dangerousModules.has(module.split('.')[0]) || (path.startsWith('builtins.') && dangerousBuiltins.has(name))) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected data only, got a call of ${path}; nothing was run here, but torch.load would run it: do not trust this file`,
      { fields: { global: path } },
    );
  }
  if (/^torch\._(utils|tensor)\._rebuild_/.test(path)) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected dense tensors, got one made by ${path}; convert it to a dense tensor before saving it`,
      { fields: { global: path } },
    );
  }
}

type Meaning = (args: readonly unknown[], subject: string) => unknown;

const meanings: ReadonlyMap<string, Meaning> = new Map<string, Meaning>([
  ['collections.OrderedDict', ([pairs]) => toMap(pairs)],
  ['builtins.dict', ([pairs]) => toMap(pairs)],
  ['builtins.set', ([items]) => (Array.isArray(items) ? items : [])],
  ['builtins.frozenset', ([items]) => (Array.isArray(items) ? items : [])],
  ['builtins.list', ([items]) => (Array.isArray(items) ? items : [])],
  ['torch.Size', ([sizes]) => (Array.isArray(sizes) ? sizes : [])],
  [
    'torch._utils._rebuild_tensor',
    ([storage, offset, size, stride], subject) => rebuild(storage, offset, size, stride, subject),
  ],
  [
    'torch._utils._rebuild_tensor_v2',
    ([storage, offset, size, stride], subject) => rebuild(storage, offset, size, stride, subject),
  ],
  ['torch._utils._rebuild_tensor_v3', (args, subject) => rebuild(args[0], args[1], args[2], args[3], subject, args[6])],
  ['torch._utils._rebuild_parameter', ([tensor]) => tensor],
  ['torch._utils._rebuild_parameter_with_state', ([tensor]) => tensor],
  [
    '_codecs.encode',
    ([text]) => (typeof text === 'string' ? Uint8Array.from(text, (char) => char.charCodeAt(0)) : undefined),
  ],
  ['numpy.core.multiarray.scalar', numpyScalar],
  ['numpy._core.multiarray.scalar', numpyScalar],
]);

function toMap(pairs: unknown): Map<unknown, unknown> {
  if (pairs instanceof Map) return new Map(pairs);
  const entries = Array.isArray(pairs) ? pairs.filter((pair) => Array.isArray(pair) && pair.length === 2) : [];
  return new Map(entries as [unknown, unknown][]);
}

function isStorage(value: unknown): value is Storage {
  return typeof value === 'object' && value !== null && 'bytes' in value && 'key' in value;
}

function wholeNumbers(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

function rebuild(
  storage: unknown,
  offset: unknown,
  shape: unknown,
  strides: unknown,
  subject: string,
  type?: unknown,
): StoredTensor {
  if (
    !isStorage(storage) ||
    !wholeNumbers([offset]) ||
    !wholeNumbers(shape) ||
    !wholeNumbers(strides) ||
    shape.length !== strides.length
  ) {
    throw new HalftoneError(
      'invalid-file',
      `${subject}: expected a tensor of storage, offset, size and stride, got other values; is the file whole?`,
    );
  }
  const dtype = type === undefined ? storage.dtype : torchType(type, subject);
  if (dtype === undefined) {
    throw new HalftoneError('invalid-file', `${subject}: expected a tensor with a type, got an untyped storage`);
  }
  return new StoredTensor(storage, dtype, offset as number, shape, strides);
}

/** `scalar(dtype('f8', …), bytes)`: the numbers that training loops put next to the weights. */
function numpyScalar([type, bytes]: readonly unknown[]): unknown {
  const code = type instanceof Instance && Array.isArray(type.args) ? type.args[0] : undefined;
  if (typeof code !== 'string' || !(bytes instanceof Uint8Array)) return undefined;
  const data = new DataView(bytes.slice().buffer);
  const kind = code.replace(/^[<=|]/, '');
  const width = Number(kind.slice(1));
  if (bytes.length !== width) return undefined;
  switch (kind) {
    case 'f8':
      return data.getFloat64(0, true);
    case 'f4':
      return data.getFloat32(0, true);
    case 'f2':
      return halfToFloat(data.getUint16(0, true));
    case 'i8':
      return Number(data.getBigInt64(0, true));
    case 'i4':
      return data.getInt32(0, true);
    case 'u1':
      return data.getUint8(0);
    case 'b1':
      return data.getUint8(0) !== 0;
    default:
      return undefined;
  }
}
