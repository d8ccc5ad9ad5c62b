import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isHalftoneError } from '../base/errors.ts';
import { samePlace } from '../files/paths.ts';
import { checkOutput, inputPaths, writeText } from './files.ts';

const folder = mkdtempSync(join(tmpdir(), 'halftone-files-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = (name: string) => join(folder, name);

describe('samePlace', () => {
  it('sees through dots, links and folders that are links', () => {
    mkdirSync(path('real'));
    writeFileSync(path('real/model.onnx'), '');
    symlinkSync(path('real'), path('linked'));
    symlinkSync(path('real/model.onnx'), path('link.onnx'));
    const model = path('real/model.onnx');
    expect(samePlace(model, `${folder}/real/../real/./model.onnx`)).toBe(true);
    expect(samePlace(model, path('linked/model.onnx'))).toBe(true);
    expect(samePlace(model, path('link.onnx'))).toBe(true);
    expect(samePlace(path('real/new.onnx'), path('linked/new.onnx'))).toBe(true);
    expect(samePlace(model, path('real/other.onnx'))).toBe(false);
  });
});

describe('writeText', () => {
  it('replaces a file whole', () => {
    writeFileSync(path('report.json'), 'old');
    writeText(path('report.json'), 'new');
    expect(readFileSync(path('report.json'), 'utf8')).toBe('new');
  });

  it('leaves nothing behind when the file cannot appear', () => {
    mkdirSync(path('taken/inside'), { recursive: true });
    expect(() => writeText(path('taken'), 'text')).toThrowError(
      expect.toSatisfy((error: unknown) => isHalftoneError(error, 'runtime')),
    );
    expect(readdirSync(folder).filter((name) => name.includes('partial'))).toEqual([]);
  });
});

describe('checkOutput', () => {
  it('lets a new file in an existing folder pass', () => {
    expect(() => checkOutput('-o', path('new.onnx'), [path('real/model.onnx')])).not.toThrow();
  });

  it.skipIf(process.platform === 'win32')('refuses what is no regular file, also behind a link', () => {
    execFileSync('mkfifo', [path('pipe')]);
    symlinkSync(path('pipe'), path('to-pipe'));
    for (const name of ['pipe', 'to-pipe']) {
      expect(() => checkOutput('--report', path(name), [])).toThrow(/^--report .*: expected a regular file/);
    }
    expect(() => checkOutput('-o', path('real'), [])).toThrow(/got a folder/);
  });

  it('refuses inputs, also by a link, and samples of a folder that is read', () => {
    writeFileSync(path('real/a.npy'), '');
    expect(() => checkOutput('-o', path('link.onnx'), [path('real/model.onnx')])).toThrow(/which is read/);
    expect(() => checkOutput('-o', path('real/a.npy'), [path('linked')])).toThrow(/one of the samples/);
    expect(() => checkOutput('-o', path('real/new.onnx'), [path('linked')])).not.toThrow();
  });
});

it('inputPaths knows arrays in files, patterns and made-up samples', () => {
  writeFileSync(path('odd#name.npz'), '');
  expect(inputPaths('a.npz#x', path('odd#name.npz'), 'random', undefined, 'data/*.npy')).toEqual([
    'a.npz',
    path('odd#name.npz'),
    'data',
  ]);
});
