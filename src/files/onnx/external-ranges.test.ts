/** Ranges of external data: Node and a browser take the same ones and refuse the others in the same words. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { bytesOfModel, model } from '../../../test/onnx/build.ts';
import { pretendToBeInWorker, SynchronousBlob } from '../../../test/support/blobs.ts';
import { HalftoneError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { readModel as readChosen } from './browser.ts';
import { readModel } from './node.ts';

let folder = '';
beforeEach(() => {
  pretendToBeInWorker();
  folder = mkdtempSync(join(tmpdir(), 'halftone-ranges-'));
});
afterEach(() => {
  vi.unstubAllGlobals();
  rmSync(folder, { recursive: true, force: true });
});

const mebibyte = 2 ** 20;
const data = Uint8Array.from({ length: 2 * mebibyte }, (_, index) => index % 251);

/** What both readers make of uint8 tensors of `length` elements at `offsets` of one file, or why they refuse them. */
function readInBoth(length: number, offsets: readonly number[]): (Model | string)[] {
  const initializer = offsets.map((offset, index) => ({
    name: `w${index}`,
    dataType: 2,
    dims: [BigInt(length)],
    dataLocation: 1,
    externalData: Object.entries({ location: 'w.bin', offset: String(offset) }).map(([key, value]) => ({ key, value })),
  }));
  const bytes = bytesOfModel(model({ initializer, output: initializer.map(({ name }) => ({ name })) }));
  const path = join(folder, 'm.onnx');
  writeFileSync(path, bytes);
  writeFileSync(join(folder, 'w.bin'), data);
  const file = (content: Uint8Array, name: string) =>
    Object.assign(new SynchronousBlob([content]), { name }) as unknown as File;
  const readers = [() => readModel(path), () => readChosen(file(bytes, 'm.onnx'), [file(data, 'w.bin')])];
  return readers.map((read) => {
    try {
      return read();
    } catch (error) {
      if (error instanceof HalftoneError) return `${error.code}: ${error.message.replace(`${path}: `, '')}`;
      throw error;
    }
  });
}

it.each([8, mebibyte])('ranges of %i bytes that are named twice are shared', (length) => {
  const offsets = Array.from({ length: 50 }, (_, index) => 100 * (index % 2));
  for (const read of readInBoth(length, offsets)) {
    const tensors = [...(read as Model).graph.initializers].map(({ tensor }) => tensor!);
    expect(tensors.every(({ source }) => (source !== undefined) === (length === mebibyte))).toBe(true);
    for (const [index, offset] of offsets.entries()) {
      expect(Buffer.compare(tensors[index].bytes, data.subarray(offset, offset + length))).toBe(0);
      if (tensors[index].source) expect(tensors[index].source).toBe(tensors[index % 2].source);
      else expect(tensors[index].bytes.buffer).toBe(tensors[index % 2].bytes.buffer);
    }
  }
});

it.each([mebibyte - 1, mebibyte])('ranges of %i bytes that overlap too much are refused', (length) => {
  const got = `ones that overlap to more than 4 times its ${data.length} bytes; export the model again`;
  const message = `invalid-file: tensor "w8": expected tensors of their own in "w.bin", got ${got}`;
  const offsets = Array.from({ length: 9 }, (_, index) => index * 1000);
  expect(readInBoth(length, offsets)).toEqual([message, message]);
});

it.each([8, mebibyte])('ranges of %i bytes that end behind the file are refused', (length) => {
  const offset = data.length - length + 1;
  const got = `a file of ${data.length} bytes; fetch the file again`;
  const message = `missing-data: tensor "w0": expected ${length} bytes at offset ${offset} of "w.bin", got ${got}`;
  expect(readInBoth(length, [offset])).toEqual([message, message]);
});
