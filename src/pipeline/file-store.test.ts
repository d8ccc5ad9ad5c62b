/** What an interrupted run leaves is taken over whole or not at all. */
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openFileStore, startOf, unfinishedPaths } from './file-store.ts';
import type { FinishedWeight, Store } from './store.ts';
import { memoryStore } from './store.ts';

let folder = '';
let count = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-store-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const place = () => join(folder, `${count++}.onnx`);

function weight(store: Store, tensor: string, bytes: readonly number[]): FinishedWeight {
  const codes = [store.append(Uint8Array.from(bytes)), bytes.length] as const;
  const scales = [store.append(Uint8Array.of(7, 7)), 2] as const;
  return { tensor, scheme: 'int8', energy: 30, error: 1, codes, scales, zeroPoints: 0 };
}

describe.each([
  ['memory', () => memoryStore()],
  ['a file', () => openFileStore(place(), { identity: 1 })],
])('a store in %s', (_, open) => {
  it('gives back what was put in, across what was put in at once', () => {
    const store = open();
    const at = store.append(Uint8Array.of(1, 2, 3));
    store.append(Uint8Array.of(4));
    store.append(Uint8Array.of(5, 6));
    expect(Array.from(store.range([at, 3]).read())).toEqual([1, 2, 3]);
    expect(Array.from(store.range([at, 6]).read())).toEqual([1, 2, 3, 4, 5, 6]);
    expect(Array.from(store.range([at + 1, 5]).read(1, 4))).toEqual([3, 4, 5]);
  });
});

describe('a run that was interrupted', () => {
  /** Two finished weights, and a third of which only codes are there. */
  function interrupted(output: string) {
    const store = openFileStore(output, { identity: 'plan' });
    store.finished(weight(store, 'a', [1, 2]));
    store.finished(weight(store, 'b', [3]));
    store.append(Uint8Array.of(9));
    store.close({ keep: true });
  }

  it('is taken over where its last finished weight ends', () => {
    const output = place();
    interrupted(output);
    appendFileSync(unfinishedPaths(output).journal, '{"tensor":"c","sch');
    const store = openFileStore(output, { identity: 'plan', resume: true });
    expect(store.resumed).toBe(2);
    const found = store.find('a');
    expect(Array.from(store.range(found!.codes).read())).toEqual([1, 2]);
    expect(store.find('c')).toBeUndefined();
    expect(store.append(Uint8Array.of(8))).toBe(7);
    store.close({ keep: false });
    expect(Object.values(unfinishedPaths(output)).some((path) => existsSync(path))).toBe(false);
  });

  it('loses the weights of which bytes are missing', () => {
    const output = place();
    interrupted(output);
    truncateSync(unfinishedPaths(output).data, 5);
    const store = openFileStore(output, { identity: 'plan', resume: true });
    expect([store.resumed, store.find('b')]).toEqual([1, undefined]);
    store.close({ keep: false });
  });

  it('is not taken over without being asked for, nor for other work', () => {
    const output = place();
    interrupted(output);
    expect(() => openFileStore(output, { identity: 'another plan', resume: true })).toThrow(
      /expected to resume the same work/,
    );
    const store = openFileStore(output, { identity: 'plan' });
    expect([store.resumed, store.append(Uint8Array.of(1))]).toEqual([0, 0]);
    store.close({ keep: false });
  });

  it('is left alone while it goes on', () => {
    const output = place();
    interrupted(output);
    const { journal } = unfinishedPaths(output);
    const [header, ...rest] = readFileSync(journal, 'utf8').split('\n');
    const by = (started: string | undefined) => {
      const changed = { ...JSON.parse(header), process: process.ppid, started };
      writeFileSync(journal, [JSON.stringify(changed), ...rest].join('\n'));
      return () => openFileStore(output, { identity: 'plan', resume: true });
    };
    expect(by(startOf(process.ppid))).toThrow(/expected to be the only one/);
    // A later process of the same number is another one.
    if (existsSync('/proc/self/stat')) by('1')().close({ keep: false });
  });

  it('that left nonsense is no run', () => {
    const output = place();
    writeFileSync(unfinishedPaths(output).journal, 'nonsense\n');
    writeFileSync(unfinishedPaths(output).data, 'nonsense');
    const store = openFileStore(output, { identity: 'plan', resume: true });
    expect(store.resumed).toBe(0);
    store.close({ keep: false });
  });
});
