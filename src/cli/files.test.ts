import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isHalftoneError } from '../base/errors.ts';
import { checkOutput, samePlace, writeText } from './files.ts';

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
});
