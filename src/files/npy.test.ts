/** npy and npz against bytes that NumPy 2.4 wrote, and against damage. */
import { zipSync } from 'fflate';
import { describe, expect, test } from 'vitest';
import { isHalftoneError } from '../base/errors.ts';
import { createRandom } from '../base/random.ts';
import { Tensor } from '../tensor/tensor.ts';
import { readNpy, readNpyHeader, writeNpy } from './npy.ts';
import { readNpz, writeNpz } from './npz.ts';
import { readZip } from './zip.ts';

function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'));
}

/** `numpy.lib.format.write_array`; the prefix and padding that all share are put back by `file`. */
function file(version: number, header: string, data: string): Uint8Array {
  const length = 128 - (version === 1 ? 10 : 12);
  const size = version === 1 ? [length, 0] : [length, 0, 0, 0];
  const text = new TextEncoder().encode(`${header.padEnd(length - 1)}\n`);
  return Uint8Array.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, version, 0, ...size, ...text, ...fromBase64(data)]);
}

const f4 = file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 'AAAAAAAAgD4AAAA/AABAPwAAgD8AAKA/');
const quarters = [0, 0.25, 0.5, 0.75, 1, 1.25];

describe('npy', () => {
  test.each([
    ['version 1', f4, 'float32', [2, 3], quarters],
    [
      'version 2',
      file(
        2,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }",
        'AAAAAAAAAAAAAAAAAADQPwAAAAAAAOA/AAAAAAAA6D8AAAAAAADwPwAAAAAAAPQ/',
      ),
      'float64',
      [2, 3],
      quarters,
    ],
    [
      'version 3',
      file(3, "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }", 'AAAANAA4ADoAPAA9'),
      'float16',
      [2, 3],
      quarters,
    ],
    [
      'Fortran order',
      file(1, "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }", 'AAAAAAMAAAABAAAABAAAAAIAAAAFAAAA'),
      'int32',
      [2, 3],
      [0, 1, 2, 3, 4, 5],
    ],
    [
      'Fortran order, three axes',
      file(
        1,
        "{'descr': '<u2', 'fortran_order': True, 'shape': (2, 3, 4), }",
        'AAAMAAQAEAAIABQAAQANAAUAEQAJABUAAgAOAAYAEgAKABYAAwAPAAcAEwALABcA',
      ),
      'uint16',
      [2, 3, 4],
      Array.from({ length: 24 }, (_, i) => i),
    ],
    [
      'big-endian',
      file(1, "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", 'AAAAAD6AAAA/AAAAP0AAAD+AAAA/oAAA'),
      'float32',
      [2, 3],
      quarters,
    ],
    [
      'bool',
      file(1, "{'descr': '|b1', 'fortran_order': False, 'shape': (2, 3), }", 'AQABAAEA'),
      'bool',
      [2, 3],
      [1, 0, 1, 0, 1, 0],
    ],
    ['scalar', file(1, "{'descr': '<i8', 'fortran_order': False, 'shape': (), }", 'BwAAAAAAAAA='), 'int64', [], [7]],
    ['empty', file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }", ''), 'float32', [0, 3], []],
    [
      'Python 2 lengths',
      file(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (3L,), }", 'AAEC'),
      'uint8',
      [3],
      [0, 1, 2],
    ],
  ])('reads %s', (_, bytes, dtype, shape, values) => {
    const tensor = readNpy(bytes);
    expect([tensor.dtype, tensor.shape, [...tensor.floats()]]).toEqual([dtype, shape, values]);
  });

  test('writes the bytes NumPy writes', () => {
    expect(writeNpy(Tensor.float32([2, 3], quarters))).toEqual(f4);
    const one = file(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", 'AAEC');
    expect(writeNpy(Tensor.uint8([3], [0, 1, 2]))).toEqual(one);
  });

  test('names what it cannot read', () => {
    const text = file(1, "{'descr': '<U2', 'fortran_order': False, 'shape': (2,), }", 'YQAAAAAAAABiAAAAYwAAAA==');
    expect(readNpyHeader(text).dtype).toBeUndefined();
    expect(() => readNpy(text, 'names.npy')).toThrow('names.npy: expected numbers, got elements of type <U2');
    const records = file(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 'AAAAAA==');
    expect(() => readNpy(records)).toThrow('got elements of type records');
    expect(() => writeNpy(new Tensor('bfloat16', [1], new Uint8Array(2)))).toThrow('expected a type NumPy has');
  });

  test('refuses a header that promises more than the file holds', () => {
    const huge = file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999, 9999999), }", 'AAAAAA==');
    expect(() => readNpy(huge)).toThrow(/expected \d+ bytes for float32\[9999999,9999999\], got 4/);
    const beyond = file(1, `{'descr': '<f4', 'fortran_order': False, 'shape': (${'9'.repeat(30)},), }`, '');
    expect(() => readNpy(beyond)).toThrow('expected a shape whose size is a number');
  });
});

/** `numpy.savez_compressed(a=arange(100, dtype='f4'), b=arange(4).reshape(2, 2))`. */
const savez =
  'UEsDBC0AAAAIAAAAIQC7dkh2//////////8FABQAYS5ucHkBABAAEAIAAAAAAAALAQAAAAAAAJ3IwSsEcRjG8Vc5SA57cHBw+B3Ub9UcRu1B2jI2yQHNgaKUncxse9jsNLNJoSZJm6QNaZM0SdokbZI2SZMkR0fHPTo6OvryJ3h6P0+9z+HM3LS90CGrsq5dL1wO9IjS2UJGG0oXykElcFaWyoHr/e4TTin02MOi43v86SHTNAYNtan+nW75SzRKWRwixEjQhoyJpKBgwoKNPHxEqKKGOmI00EQLCd7wjg+08YkvfENyIp3oQg9S6EUf+qEwgDQMmMhgGFlYGMckpmBjFvNYRB4uiijBRwVr2ECELWxjB1XsYg/7qOEARzhGHSc4xRlinOMCl2jgCte4QRO3uMM9WnjAI56Q4BkveM39AFBLAwQtAAAACAAAACEAqnAiVv//////////BQAUAGIubnB5AQAQAKAAAAAAAAAAUQAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBuk2mhrqOgnpZfVFKUmBefX5SSChJ3S8wpTgWKF2ckFqQC+RpGOgpGmjoKtQpkAy4GKGCE0kxQmhlKAwBQSwECLQMtAAAACAAAACEAu3ZIdgsBAAAQAgAABQAAAAAAAAAAAAAAgAEAAAAAYS5ucHlQSwECLQMtAAAACAAAACEAqnAiVlEAAACgAAAABQAAAAAAAAAAAAAAgAFCAQAAYi5ucHlQSwUGAAAAAAIAAgBmAAAAygEAAAAA';

describe('npz', () => {
  test('reads what numpy.savez_compressed wrote', () => {
    const arrays = readNpz(fromBase64(savez));
    expect([...arrays.keys()]).toEqual(['a', 'b']);
    expect([...arrays.get('a')!.read().floats()]).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(arrays.get('b')!.shape).toEqual([2, 2]);
    expect(arrays.get('b')!.read().integers()).toEqual([0, 1, 2, 3]);
  });

  test.each([false, true])('reads back what it writes, compress: %s, with the same bytes each time', (compress) => {
    const tensors = [
      ['input', Tensor.float32([2, 3], quarters)],
      ['ids', Tensor.int64([3], [1, -2, 3])],
      ['__proto__', Tensor.uint8([0], [])],
    ] as const;
    const bytes = writeNpz(tensors, { compress });
    expect(writeNpz(tensors, { compress })).toEqual(bytes);
    const arrays = readNpz(bytes);
    expect([...arrays.keys()]).toEqual(['input', 'ids', '__proto__']);
    for (const [name, tensor] of tensors) expect(arrays.get(name)!.read().equals(tensor)).toBe(true);
  });

  test('refuses sizes that deflate cannot reach and arrays shorter than their header says', () => {
    const lies = fromBase64(savez);
    const view = new DataView(lies.buffer);
    const directory = lies.length - 22 - 102;
    view.setUint32(directory + 24, 0x7fffffff, true);
    expect(() => readNpz(lies)).toThrow('expected a size that 267 packed bytes can hold, got 2147483647');
    const short = zipSync({ 'x.npy': f4.subarray(0, f4.length - 4) });
    expect(() => readNpz(short).get('x')!.read()).toThrow('expected 152 bytes for <f4[2,3], got 148');
  });

  test('notices one flipped bit by the checksum', () => {
    const bytes = writeNpz([['x', Tensor.float32([64], Array.from({ length: 64 }, Math.sqrt))]]);
    bytes[250] ^= 1;
    expect(() => readNpz(bytes).get('x')!.read()).toThrow('the file is damaged');
  });

  test('names a packing it cannot undo', () => {
    const bytes = fromBase64(savez);
    new DataView(bytes.buffer).setUint16(bytes.length - 22 - 102 + 10, 12, true);
    expect(() => readZip(bytes)).toThrow('expected a stored or deflated entry, got compression method 12');
  });
});

test('damaged files give a HalftoneError or an array, never anything else', () => {
  const random = createRandom(1);
  const stored = writeNpz([['x', Tensor.float32([2, 3], quarters)]]);
  let refused = 0;
  let read = 0;
  const attempt = (action: () => void): void => {
    try {
      action();
      read += 1;
    } catch (error) {
      if (!isHalftoneError(error)) throw error;
      refused += 1;
    }
  };
  for (const source of [fromBase64(savez), stored]) {
    for (let length = 0; length < source.length; length++) {
      attempt(() => {
        for (const array of readNpz(source.subarray(0, length)).values()) array.read();
      });
    }
    for (let i = 0; i < 3000; i++) {
      const bytes = source.slice();
      for (let k = 0; k <= i % 3; k++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
      attempt(() => {
        for (const array of readNpz(bytes).values()) array.read();
      });
    }
  }
  for (let length = 0; length < f4.length; length++) attempt(() => readNpy(f4.subarray(0, length)));
  for (let i = 0; i < 3000; i++) {
    const bytes = f4.slice();
    bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    attempt(() => readNpy(bytes));
  }
  expect(refused).toBeGreaterThan(3000);
  expect(read).toBeGreaterThan(300);
});
