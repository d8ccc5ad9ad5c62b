/** `halftone formats`, and that what it says is not stale: figures, document and pictures belong to the present formats. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { documentParts, measuredModule, shownSchemes } from '../../bench/format-document.ts';
import { isLearned, levelsOnGaussian, type PlacedLevels } from '../../bench/format-levels.ts';
import { plotOf } from '../../bench/format-plot.ts';
import { gaussianNumbers, laplaceNumbers, ratioOf } from '../../bench/format-ratios.ts';
import type { FormatRow } from '../../src/cli/format-rows.ts';
import { measured } from '../../src/formats/generated/measured.ts';
import { type Format, formatIds, formats } from '../../src/formats/index.ts';
import { namedSchemes } from '../../src/formats/named.ts';
import { halftone, repository } from './run.ts';

const ids = [...formatIds, ...namedSchemes.map(({ id }) => id)];
const text = (path: string) => readFileSync(join(repository, path), 'utf8');
const again = 'run `npm run generate:formats`';

describe('halftone formats', () => {
  it('prints a row for every format and named scheme', async () => {
    const { code, stdout, stderr } = await halftone(['formats']);
    expect([code, stderr]).toEqual([0, '']);
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^format +bits +levels .* runs natively on +kernels +what it is$/);
    expect(lines.slice(1, ids.length + 1).map((line) => line.split(' ')[0])).toEqual(ids);
    expect(stdout).toMatch(
      /^int4 +4\.625 +16 +22\.\d +20\.\d +20\.\d +18\.\d +CPU WASM WebGPU +4-bit +integers −8 … 7$/m,
    );
    expect(stdout).toMatch(/^float16 +16 +63,487 +73\.\d +73\.\d +– +float, by Cast +IEEE/m);
    expect(stdout).toMatch(/^nvfp4 +4\.5 +15 /m);
    expect(stdout).not.toMatch(/NaN|undefined/);
  });

  it('prints JSON', async () => {
    const { stdout } = await halftone(['formats', '--json']);
    const rows = (JSON.parse(stdout) as { formats: FormatRow[] }).formats;
    expect(rows.map(({ id }) => id)).toEqual(ids);
    const row = (id: string) => rows.find((candidate) => candidate.id === id)!;
    expect(row('int8')).toMatchObject({ kind: 'int', scheme: 'int8:channel:sym', bitsPerWeight: 8.03125, levels: 256 });
    expect(row('int8').runsNatively.map(({ name }) => name)).toEqual(['integer', '8-bit']);
    expect(row('kmeans4').sqnr.tensor?.gaussian).toBeCloseTo(20.2, 0);
    expect(row('mxfp4')).toMatchObject({ kind: 'scheme', scheme: 'mxfp4:g32', runsNatively: [], unpackedBy: 'unpack' });
    expect(row('nvfp4').sqnr.default.gaussian).toBeGreaterThan(row('nvfp4').sqnr.g32!.gaussian);
  });

  it('loads no kernel, solver, runtime or pipeline', () => {
    const source = join(repository, 'src');
    const seen = new Set<string>();
    const visit = (path: string) => {
      if (seen.has(path)) return;
      seen.add(path);
      const code = readFileSync(path, 'utf8').replaceAll(/^import type .*?;$/gms, '');
      for (const [, name] of code.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) visit(join(dirname(path), name));
    };
    visit(join(source, 'cli/commands/formats.ts'));
    const folders = new Set([...seen].map((path) => relative(source, path).split('/')[0]));
    expect([...folders].sort()).toEqual(['base', 'cli', 'formats', 'lowerings', 'tensor']);
    expect([...seen].filter((path) => /lowerings|\.mjs/.test(path))).toEqual([join(source, 'lowerings/natively.ts')]);
  });
});

describe('figures', () => {
  it('are there for every scheme that is shown, and for no other', () => {
    expect(Object.keys(measured), again).toEqual(shownSchemes());
    expect(text('src/formats/generated/measured.ts'), again).toBe(measuredModule(measured));
  });

  // A sixteenth of the numbers: ratios of so many scatter by less than this.
  const tolerance = 0.25;
  const [gaussian, laplace] = [gaussianNumbers(2 ** 15), laplaceNumbers(2 ** 15)];
  it.each([
    'int2:g32:asym',
    'int4:g32:asym',
    'int8:g128:sym',
    'ternary:g32:sym',
    'binary2:g32',
    'nf4:g32',
    'pot4:g128',
    'kmeans3:g32',
    'quantile4:g128',
    'float8e4m3fn:g32',
    'mxfp4:g32',
    'nvfp4:g16',
    'bfloat16',
  ])(`of %s are right to ${tolerance} dB`, (scheme) => {
    const [expected, other] = measured[scheme];
    expect(Math.abs(ratioOf(gaussian, scheme) - expected), again).toBeLessThan(tolerance);
    expect(Math.abs(ratioOf(laplace, scheme) - other), again).toBeLessThan(2 * tolerance);
  });
});

describe('docs/formats.md', () => {
  const document = text('docs/formats.md');
  const nothing = { levels: Float64Array.of(0), sqnr: 0 };
  const placed = new Map<Format, PlacedLevels>(
    formats.map((format) => [format, isLearned(format.id) ? nothing : levelsOnGaussian(format)]),
  );
  const parts = documentParts(measured, (format) => placed.get(format)!);

  it.each([...parts.keys()].filter((name) => name !== 'levels'))('has the present table: %s', (name) => {
    expect(document, again).toContain(`<!-- formats:${name} begin -->\n\n${parts.get(name)}\n\n<!-- formats:`);
  });

  it('has a section and a picture for every format, and for no other', () => {
    const sections = parts.get('levels')!.split('\n\n#### ');
    const found = document.split('\n\n#### ').slice(1);
    expect(found.map((section) => section.split('\n')[0]).sort()).toEqual([...formatIds].sort());
    for (const section of sections.slice(1)) {
      const [id] = section.split('\n');
      if (!isLearned(id)) expect(document, again).toContain(section.split('\n\n###')[0]);
    }
    expect(readdirSync(join(repository, 'docs/formats')).sort()).toEqual(formatIds.map((id) => `${id}.svg`).sort());
    for (const [, path] of document.matchAll(/!\[\w+\]\(([^)]+)\)/g)) {
      expect(existsSync(join(repository, 'docs', path)), path).toBe(true);
    }
  });

  it('shows pictures of the present levels', () => {
    for (const format of formats) {
      const picture = text(`docs/formats/${format.id}.svg`);
      if (isLearned(format.id)) expect(picture).toContain(`>${format.id}<`);
      else if (picture !== plotOf(format.id, placed.get(format)!)) expect.fail(`${format.id}.svg: ${again}`);
    }
  });
});
