/** A store in Blobs gives back what was put in, wherever ranges begin and end. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { pretendToBeInWorker, SynchronousBlob } from '../../test/support/blobs.ts';
import { blobStore } from './blob-store.ts';

beforeEach(pretendToBeInWorker);
afterEach(() => vi.unstubAllGlobals());

const sizes = [10, 100_000, 65_536, 3, 0, 200_000, 65_535];

it('gives back every range', () => {
  const store = blobStore();
  const all = Uint8Array.from({ length: sizes.reduce((sum, size) => sum + size) }, (_, index) => (index * 7) % 253);
  let end = 0;
  for (const size of sizes) {
    expect(store.append(all.subarray(end, end + size))).toBe(end);
    end += size;
  }
  const ends = [0, 4, 10, 50_000, 100_010, 165_546, 165_549, 365_000, 365_549, end];
  for (const first of ends) {
    for (const last of ends.filter((last) => last >= first)) {
      const source = store.range([first, last - first]);
      expect(source.byteLength).toBe(last - first);
      expect(Buffer.compare(source.read(), all.subarray(first, last))).toBe(0);
      if (last - first >= 3) expect(source.read(1, 3)).toEqual(all.slice(first + 1, first + 3));
    }
  }
});

it('lets large ranges travel as Blobs, and keeps small ones at hand', () => {
  const store = blobStore();
  const offset = store.append(new Uint8Array(2 ** 20));
  store.append(new Uint8Array(8));
  expect(store.range([offset, 2 ** 20 + 8]).range?.file).toBeInstanceOf(SynchronousBlob);
  expect(store.range([2 ** 20, 8]).range).toBeUndefined();
});

it('does not follow what becomes of small pieces', () => {
  const store = blobStore();
  const bytes = Uint8Array.of(1, 2, 3);
  const offset = store.append(bytes);
  bytes.fill(0);
  expect(store.range([offset, 3]).read()).toEqual(Uint8Array.of(1, 2, 3));
});
