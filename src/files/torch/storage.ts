/** PyTorch's storages and the tensors that are views of them: offset, size and strides, in elements. */
import { HalftoneError } from '../../base/errors.ts';
import { type DType, dtypes } from '../../tensor/dtype.ts';
import { gatherStrided } from '../../tensor/strided.ts';
import { sizeOf, Tensor } from '../../tensor/tensor.ts';
import { Global } from './pickle.ts';

/** Elements of one type, in a row. The bytes may not be there yet while the pickle is read. */
export interface Storage {
  /** Undefined for untyped storages, whose tensors bring the type along. */
  readonly dtype: DType | undefined;
  readonly key: string;
  bytes(): Uint8Array;
}

/** A tensor as the pickle describes it; `materialize` makes it one of ours. */
export class StoredTensor {
  readonly storage: Storage;
  readonly dtype: DType;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];

  constructor(storage: Storage, dtype: DType, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage;
    this.dtype = dtype;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
  }
}

/** torch/storage.py, _dtype_to_storage_type_map. */
const storageTypes: ReadonlyMap<string, DType | undefined> = new Map<string, DType | undefined>([
  ['DoubleStorage', 'float64'],
  ['FloatStorage', 'float32'],
  ['HalfStorage', 'float16'],
  ['BFloat16Storage', 'bfloat16'],
  ['LongStorage', 'int64'],
  ['IntStorage', 'int32'],
  ['ShortStorage', 'int16'],
  ['CharStorage', 'int8'],
  ['ByteStorage', 'uint8'],
  ['BoolStorage', 'bool'],
  ['ComplexFloatStorage', 'complex64'],
  ['ComplexDoubleStorage', 'complex128'],
  ['UntypedStorage', undefined],
]);

/** torch.dtype names whose ONNX name differs. */
const dtypeAliases: ReadonlyMap<string, DType> = new Map<string, DType>([
  ['float', 'float32'],
  ['double', 'float64'],
  ['half', 'float16'],
  ['long', 'int64'],
  ['int', 'int32'],
  ['short', 'int16'],
  ['float8_e4m3fn', 'float8e4m3fn'],
  ['float8_e4m3fnuz', 'float8e4m3fnuz'],
  ['float8_e5m2', 'float8e5m2'],
  ['float8_e5m2fnuz', 'float8e5m2fnuz'],
  ['float8_e8m0fnu', 'float8e8m0'],
]);

function unsupported(subject: string, expected: string, got: string): HalftoneError {
  return new HalftoneError(
    'unsupported',
    `${subject}: expected ${expected}, got ${got}; convert the tensor before saving it`,
  );
}

/**
 * The element type of a storage class such as `torch.FloatStorage`; undefined for an untyped storage.
 * @throws HalftoneError `unsupported` for quantized storages and anything that is no storage.
 */
export function storageType(type: unknown, subject: string): DType | undefined {
  const known = type instanceof Global && /^torch(\.cuda|\.storage)?$/.test(type.module) && storageTypes.has(type.name);
  if (known) return storageTypes.get(type.name);
  throw unsupported(subject, 'a storage of numbers', type instanceof Global ? type.path : typeof type);
}

/**
 * The element type that a `torch.dtype` names.
 * @throws HalftoneError `unsupported` for quantized types and anything that is no type.
 */
export function torchType(type: unknown, subject: string): DType {
  if (type instanceof Global && type.module === 'torch') {
    const name = dtypeAliases.get(type.name) ?? type.name;
    if (Object.hasOwn(dtypes, name) && dtypes[name as DType].bits >= 8) return name as DType;
  }
  throw unsupported(subject, 'a torch.dtype of numbers', type instanceof Global ? type.path : typeof type);
}

/** Counts the bytes that are copied, so that a small file cannot ask for a large memory. */
export interface CopyBudget {
  left: number;
}

/**
 * The tensor's elements, contiguous. A view of the file where they already are.
 * @throws HalftoneError `invalid-file` when the view leaves its storage, `unsupported` when the copies would take more
 * memory than the budget.
 */
export function materialize(stored: StoredTensor, name: string, budget: CopyBudget): Tensor {
  const { dtype, offset, shape, strides } = stored;
  const bytes = stored.storage.bytes();
  const width = dtypes[dtype].bits / 8;
  const size = sizeOf(shape);
  const last =
    size === 0 ? offset : shape.reduce((sum, length, axis) => sum + (length - 1) * strides[axis], offset + 1);
  const subject = `tensor ${name}`;
  if (!Number.isSafeInteger(size * width) || !(last * width <= bytes.length)) {
    throw new HalftoneError(
      'invalid-file',
      `${subject}: expected a view inside storage ${stored.storage.key} of ${bytes.length} bytes, got ${dtype}[${shape.join(',')}] with strides [${strides.join(',')}] from element ${offset}; is the file whole?`,
    );
  }
  if (size === 0) return new Tensor(dtype, shape, new Uint8Array(0));
  if (isContiguous(shape, strides)) {
    return new Tensor(dtype, shape, bytes.subarray(offset * width, (offset + size) * width));
  }
  budget.left -= size * width;
  if (budget.left < 0) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected strided tensors not much larger than the file, got ${dtype}[${shape.join(',')}]; save it contiguous`,
    );
  }
  return new Tensor(dtype, shape, gatherStrided(bytes, shape, stored.strides, stored.offset, width));
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) return false;
    expected *= shape[axis];
  }
  return true;
}
