/** Ranges of Blobs: the right bytes, in few readings. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { pretendToBeInWorker, readings, SynchronousBlob } from '../../test/support/blobs.ts';
import { partOf } from '../tensor/source.ts';
import { blobSource } from './blob-source.ts';

beforeEach(pretendToBeInWorker);
afterEach(() => vi.unstubAllGlobals());

const bytes = Uint8Array.from({ length: 1000 }, (_, index) => index % 251);

it('reads ranges of ranges', () => {
  const source = partOf(blobSource(new SynchronousBlob([bytes]), 100), 10, 50);
  expect(source.read()).toEqual(bytes.slice(110, 160));
  expect(source.read(5, 9)).toEqual(bytes.slice(115, 119));
  expect(source.range).toMatchObject({ offset: 110, byteLength: 50 });
  const target = new Uint8Array(7);
  source.readInto?.(target, 3);
  expect(target).toEqual(bytes.slice(113, 120));
});

it.each([
  { stride: 40, length: 8, count: 20, from: 3 },
  { stride: 8, length: 8, count: 2, from: 0 },
  { stride: 960, length: 39, count: 2, from: 1 },
])('reads $count pieces $stride apart at once', ({ stride, length, count, from }) => {
  const target = new Uint8Array(length * count);
  blobSource(new SynchronousBlob([bytes])).readStrided?.(target, from, length, stride);
  const expected = Array.from({ length: count }, (_, index) => [
    ...bytes.subarray(from + index * stride, from + index * stride + length),
  ]);
  expect([...target]).toEqual(expected.flat());
  expect(readings).toHaveLength(1);
});

it('reads pieces that lie far apart one by one, and others in windows', () => {
  const large = new Uint8Array(40 * 2 ** 20);
  for (let at = 5000; at < large.byteLength; at += 2 ** 20) large.set([at >> 20, 1, 2, 3], at);
  const source = blobSource(new SynchronousBlob([large]));
  for (const [stride, count, times] of [
    [2 ** 21, 3, 3],
    [2 ** 20, 33, 3],
  ]) {
    readings.length = 0;
    const target = new Uint8Array(4 * count);
    source.readStrided?.(target, 5000, 4, stride);
    const expected = Array.from({ length: count }, (_, index) => large.subarray(5000 + index * stride).subarray(0, 4));
    expect(Buffer.compare(target, Buffer.concat(expected))).toBe(0);
    expect(readings).toHaveLength(times);
  }
});

it('says which file has changed', () => {
  const short = Object.assign(new SynchronousBlob([bytes]), { name: 'model.onnx' });
  expect(() => blobSource(short, 990, 20).read()).toThrow(
    'model.onnx: expected to read 20 bytes at 990, got: fewer; choose the file again',
  );
});

it('needs a worker', () => {
  vi.unstubAllGlobals();
  expect(() => blobSource(new SynchronousBlob([bytes]))).toThrow(/start halftone in a worker/);
});
