/** PyTorch checkpoints: against the ONNX exports of the same models, hand-made pickles, attacks and damage. */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { zipSync } from 'fflate';
import { describe, expect, test } from 'vitest';
import { isHalftoneError } from '../../base/errors.ts';
import { createRandom } from '../../base/random.ts';
import { bytesOf } from '../../tensor/tensor.ts';
import { isTorch, readTorch, type TorchFile } from './torch.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const assets = `${root}../shared/assets/models/`;
const hasAssets = existsSync(assets);
if (!hasAssets) console.info('skipped: PyTorch models of ../shared/assets, which is absent');

function load(path: string): Uint8Array {
  return new Uint8Array(readFileSync(path));
}

/** Every tensor's bytes must occur in the exported model: the exporter writes them as `raw_data`, unchanged. */
function missingIn(onnx: string, file: TorchFile): string[] {
  const exported = readFileSync(onnx);
  return [...file.entries].filter(([, tensor]) => exported.indexOf(tensor.bytes) < 0).map(([name]) => name);
}

describe('checkpoints of real models', () => {
  test('the digits example holds the weights of its ONNX file', () => {
    const bytes = load(`${root}examples/digits/digits-cnn.pth`);
    expect(isTorch(bytes)).toBe(true);
    const file = readTorch(bytes);
    expect([...file.entries].map(([name, tensor]) => `${name} ${tensor.dtype}[${tensor.shape}]`)).toEqual([
      'conv1.weight float32[32,1,3,3]',
      'conv1.bias float32[32]',
      'fc1.weight float32[10,21632]',
      'fc1.bias float32[10]',
    ]);
    expect(missingIn(`${root}examples/digits/digits-cnn.onnx`, file)).toEqual([]);
    expect(file.classes).toEqual([]);
  });

  test.skipIf(!hasAssets).each([
    ['mnist-cnn.pth', 'mnist-cnn.onnx', 4],
    ['mnist-small.pth', 'mnist-small.onnx', 8],
    ['mnist-lenet.pth', 'mnist-lenet.onnx', 10],
    ['resnet20-cifar10.th', 'resnet20-cifar10.onnx', 97],
  ])('%s holds the weights of %s', (name, onnx, count) => {
    const file = readTorch(load(assets + name));
    expect(file.entries.size).toBe(count);
    expect(missingIn(assets + onnx, file)).toEqual([]);
  });

  test.skipIf(!hasAssets)('nested dicts of the legacy format are joined with dots, numbers kept beside', () => {
    const file = readTorch(load(`${assets}resnet20-cifar10.th`));
    expect(file.entries.get('state_dict.module.conv1.weight')?.shape).toEqual([16, 3, 3, 3]);
    expect(file.metadata.get('best_prec1')).toBeCloseTo(91.78, 5);
  });

  test.skipIf(!hasAssets)('a pickled module with classes of its own gives its state dict and names the classes', () => {
    const file = readTorch(load(`${assets}yolov5n.pt`));
    expect(file.entries.size).toBe(349);
    const first = file.entries.get('model.model.0.conv.weight')!;
    expect([first.dtype, first.shape]).toEqual(['float16', [16, 3, 6, 6]]);
    expect(file.entries.get('model.model.0.bn.num_batches_tracked')?.dtype).toBe('int64');
    expect(file.classes).toContain('models.yolo.Model');
    expect(file.metadata.get('epoch')).toBe(-1);
  });
});

type Code = readonly number[];

/** A pickler of a few opcodes, for files that PyTorch itself would not write. */
const make = {
  text: (text: string): Code => {
    const bytes = [...new TextEncoder().encode(text)];
    return [0x58, bytes.length & 255, bytes.length >> 8, 0, 0, ...bytes];
  },
  int: (value: number): Code => [0x4a, ...bytesOf(Int32Array.of(value))],
  global: (path: string): Code => {
    const dot = path.lastIndexOf('.');
    return [0x63, ...new TextEncoder().encode(`${path.slice(0, dot)}\n${path.slice(dot + 1)}\n`)];
  },
  tuple: (...items: Code[]): Code => [0x28, ...items.flat(), 0x74],
  list: (...items: Code[]): Code => [0x5d, 0x28, ...items.flat(), 0x65],
  dict: (...pairs: readonly (readonly [string, Code])[]): Code => [
    0x7d,
    0x28,
    ...pairs.flatMap(([key, value]) => [...make.text(key), ...value]),
    0x75,
  ],
  call: (path: string, ...args: Code[]): Code => [...make.global(path), ...make.tuple(...args), 0x52],
  storage: (type: string, key: string, count: number): Code => [
    ...make.tuple(make.text('storage'), make.global(type), make.text(key), make.text('cpu'), make.int(count)),
    0x51,
  ],
  tensor: (type: string, offset: number, shape: readonly number[], strides: readonly number[]): Code =>
    make.call(
      'torch._utils._rebuild_tensor_v2',
      make.storage(type, '0', 12),
      make.int(offset),
      make.tuple(...shape.map(make.int)),
      make.tuple(...strides.map(make.int)),
      [0x89],
      make.call('collections.OrderedDict'),
    ),
};
const none: Code = [0x4e];

function archive(object: Code, data: ArrayBufferView = Float32Array.from({ length: 12 }, (_, i) => i)): Uint8Array {
  const pickle = Uint8Array.from([0x80, 2, ...object, 0x2e]);
  return zipSync({ 'm/data.pkl': pickle, 'm/data/0': bytesOf(data), 'm/version': Uint8Array.of(51, 10) }, { level: 0 });
}

const floats = 'torch.FloatStorage';

describe('tensors', () => {
  test.each([
    ['a transposed view', 0, [3, 4], [1, 3], [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]],
    ['an offset', 4, [2, 4], [4, 1], [4, 5, 6, 7, 8, 9, 10, 11]],
    ['every other column', 1, [2, 2], [6, 2], [1, 3, 7, 9]],
    ['a repeated row', 2, [3, 2], [0, 1], [2, 3, 2, 3, 2, 3]],
    ['a scalar', 5, [], [], [5]],
    ['nothing', 0, [0, 3], [3, 1], []],
    ['an axis of 1 with any stride', 0, [1, 3], [99, 1], [0, 1, 2]],
  ])('%s', (_, offset, shape, strides, values) => {
    const file = readTorch(archive(make.dict(['w', make.tensor(floats, offset, shape, strides)])));
    const tensor = file.entries.get('w')!;
    expect([tensor.shape, [...tensor.floats()]]).toEqual([shape, values]);
  });

  test.each([
    ['torch.HalfStorage', Uint16Array.from({ length: 12 }, () => 0x3c00), 'float16', 1],
    ['torch.BFloat16Storage', Uint16Array.from({ length: 12 }, () => 0x4000), 'bfloat16', 2],
    ['torch.DoubleStorage', Float64Array.from({ length: 12 }, () => 3), 'float64', 3],
    ['torch.LongStorage', BigInt64Array.from({ length: 12 }, () => -4n), 'int64', -4],
    ['torch.IntStorage', Int32Array.from({ length: 12 }, () => -5), 'int32', -5],
    ['torch.ShortStorage', Int16Array.from({ length: 12 }, () => -6), 'int16', -6],
    ['torch.CharStorage', Int8Array.from({ length: 12 }, () => -7), 'int8', -7],
    ['torch.cuda.ByteStorage', Uint8Array.from({ length: 12 }, () => 200), 'uint8', 200],
    ['torch.BoolStorage', Uint8Array.from({ length: 12 }, () => 1), 'bool', 1],
  ])('%s', (type, data, dtype, value) => {
    const tensor = readTorch(archive(make.dict(['w', make.tensor(type, 0, [12], [1])]), data)).entries.get('w')!;
    expect([tensor.dtype, [...tensor.floats()]]).toEqual([dtype, Array(12).fill(value)]);
  });

  test('untyped storages take the type of the tensor', () => {
    const tensor = make.call(
      'torch._utils._rebuild_tensor_v3',
      make.storage('torch.storage.UntypedStorage', '0', 24),
      make.int(0),
      make.tuple(make.int(12)),
      make.tuple(make.int(1)),
      [0x89],
      none,
      make.global('torch.uint16'),
    );
    const data = Uint16Array.from({ length: 12 }, (_, i) => 65535 - i);
    const found = readTorch(archive(make.dict(['w', tensor]), data)).entries.get('w')!;
    expect([found.dtype, found.floats()[11]]).toEqual(['uint16', 65524]);
  });

  test('parameters, nested dicts, lists and numbers', () => {
    const weight = make.call('torch._utils._rebuild_parameter', make.tensor(floats, 0, [2], [1]), [0x88], none);
    const file = readTorch(
      archive(
        make.dict(
          ['net', make.dict(['w', weight], ['__proto__', weight])],
          ['ema', make.list(weight)],
          ['epoch', make.int(7)],
        ),
      ),
    );
    expect([...file.entries.keys()]).toEqual(['net.w', 'net.__proto__', 'ema.0']);
    expect([...file.metadata]).toEqual([['epoch', 7]]);
    expect(Object.hasOwn(Object.prototype, 'w')).toBe(false);
  });

  test('an unknown class is passed over, and named', () => {
    const config = make.call('omegaconf.dictconfig.DictConfig', make.text('x'));
    const file = readTorch(archive(make.dict(['cfg', config], ['w', make.tensor(floats, 0, [1], [1])])));
    expect([[...file.entries.keys()], file.classes]).toEqual([['w'], ['omegaconf.dictconfig.DictConfig']]);
  });
});

describe('refusals', () => {
  test.each([
    ['a call of the shell', make.call('posix.system', make.text('touch /tmp/x')), 'posix.system; nothing was run here'],
    ['eval', make.call('__builtin__.eval', make.text('1')), 'builtins.eval; nothing was run here'],
    [
      'an attack inside a list',
      make.list(make.dict(['a', make.call('subprocess.Popen', make.text('x'))])),
      'subprocess.Popen',
    ],
    ['a sparse tensor', make.call('torch._utils._rebuild_sparse_tensor', none), 'torch._utils._rebuild_sparse_tensor'],
    ['a quantized storage', make.tensor('torch.QInt8Storage', 0, [1], [1]), 'torch.QInt8Storage'],
    ['a view outside its storage', make.tensor(floats, 0, [13], [1]), 'expected a view inside storage 0 of 48 bytes'],
    ['a negative stride', make.tensor(floats, 0, [3], [-1]), 'expected a tensor of storage, offset, size and stride'],
    ['a huge expanded tensor', make.tensor(floats, 0, [65536, 65536], [0, 0]), 'save it contiguous'],
    ['an overflowing size', make.tensor(floats, 0, [2 ** 30, 2 ** 30, 2 ** 30], [0, 0, 0]), 'expected a view inside'],
    ['numbers alone', make.dict(['epoch', make.int(1)]), 'expected tensors, got none'],
    ['a dict that holds itself', [...make.dict(), 0x71, 0, ...make.text('me'), 0x68, 0, 0x73], 'which has no end'],
  ])('%s', (_, object, message) => {
    expect(() => readTorch(archive(object), 'model.pth')).toThrow(message);
  });

  test('a dict with exponentially many paths ends soon', () => {
    // Each level holds the one before it twice.
    let object: number[] = [...make.tensor(floats, 0, [1], [1])];
    for (let level = 0; level < 40; level++) {
      object = [
        ...object,
        0x71,
        level,
        0x30,
        0x7d,
        0x28,
        ...make.text('a'),
        0x68,
        level,
        ...make.text('b'),
        0x68,
        level,
        0x75,
      ];
    }
    expect(() => readTorch(archive(object))).toThrow('which has no end');
  });

  test('other bytes, TorchScript and pickles without tensors are named', () => {
    expect(() => readTorch(new TextEncoder().encode('hello'))).toThrow('expected a PyTorch checkpoint');
    expect(() => readTorch(zipSync({ 'a.txt': Uint8Array.of(1) }))).toThrow(
      'expected data.pkl in the archive, got a.txt',
    );
    const script = zipSync({ 'm/data.pkl': Uint8Array.of(0x4e, 0x2e), 'm/constants.pkl': Uint8Array.of(0x4e, 0x2e) });
    expect(() => readTorch(script)).toThrow('got a TorchScript program');
  });
});

test('an archive without checksums is read, one with wrong ones is not', () => {
  const bytes = archive(make.dict(['w', make.tensor(floats, 0, [12], [1])]));
  const view = new DataView(bytes.buffer);
  const checksums = [...bytes.keys()].filter(
    (at) => at + 46 <= bytes.length && view.getUint32(at, true) === 0x02014b50,
  );
  expect(checksums).toHaveLength(3);
  for (const at of checksums) view.setUint32(at + 16, 0, true);
  expect(readTorch(bytes).entries.size).toBe(1);
  for (const at of checksums) view.setUint32(at + 16, 1, true);
  expect(() => readTorch(bytes)).toThrow('expected checksum 1, got other bytes; the file is damaged');
});

/** A legacy file as torch.save wrote it before 1.6, around an object with one storage of 12 floats. */
function legacy(object: Code): Uint8Array {
  const magic = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e];
  const pickles = [[0x4d, 0xe9, 3], make.dict(['little_endian', [0x88]]), object, make.list(make.text('0'))];
  const data = [...bytesOf(BigInt64Array.of(12n)), ...bytesOf(Float32Array.from({ length: 12 }, (_, i) => i))];
  return Uint8Array.from([...magic, ...pickles.flatMap((code) => [0x80, 2, ...code, 0x2e]), ...data]);
}

test('the legacy format, strided', () => {
  const file = readTorch(legacy(make.dict(['w', make.tensor(floats, 1, [2, 2], [1, 6])])));
  expect([...file.entries.get('w')!.floats()]).toEqual([1, 7, 2, 8]);
});

test('damaged files give a HalftoneError or tensors, never anything else', () => {
  const random = createRandom(2);
  const object = make.dict(
    ['w', make.tensor(floats, 0, [3, 4], [1, 3])],
    ['b', make.call('torch._utils._rebuild_parameter', make.tensor(floats, 2, [4], [1]), [0x88], none)],
    ['l', make.list(make.int(1), make.text('x'))],
  );
  const outcomes = { refused: 0, read: 0 };
  const attempt = (bytes: Uint8Array): void => {
    try {
      readTorch(bytes);
      outcomes.read += 1;
    } catch (error) {
      if (!isHalftoneError(error)) throw error;
      outcomes.refused += 1;
    }
  };
  for (const source of [archive(object), legacy(object)]) {
    for (let length = 0; length < source.length; length++) attempt(source.subarray(0, length));
    for (let i = 0; i < 6000; i++) {
      const bytes = source.slice();
      for (let k = 0; k <= i % 3; k++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
      attempt(bytes);
    }
  }
  expect(outcomes.refused).toBeGreaterThan(2000);
  expect(outcomes.read).toBeGreaterThan(200);
});

test('damaged pickles inside whole archives give a HalftoneError or tensors', () => {
  const random = createRandom(3);
  const object = make.dict(['w', make.tensor(floats, 0, [3, 4], [1, 3])], ['e', make.int(1)]);
  let read = 0;
  for (let i = 0; i < 4000; i++) {
    const code = [...object];
    for (let k = 0; k <= i % 4; k++) code[Math.floor(random() * code.length)] = Math.floor(random() * 256);
    try {
      readTorch(archive(code));
      read += 1;
    } catch (error) {
      if (!isHalftoneError(error)) throw error;
    }
  }
  expect(read).toBeGreaterThan(50);
});
