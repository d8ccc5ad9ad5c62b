/**
 * `npm run generate:formats [-- --check | --keep]`: measures every format on normal and Laplace numbers, and writes the
 * figures of `halftone formats`, the tables of docs/formats.md, and a picture of each format. `--check` writes nothing and
 * fails where a file would change; `--keep` takes the figures as they were measured last.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Measured } from '../src/cli/format-rows.ts';
import { measured as before } from '../src/formats/generated/measured.ts';
import { type Format, formats } from '../src/formats/index.ts';
import { betweenMarkers, documentParts, measuredModule, shownSchemes } from './format-document.ts';
import { levelsOnGaussian, type PlacedLevels } from './format-levels.ts';
import { plotOf } from './format-plot.ts';
import { gaussianNumbers, laplaceNumbers, ratioOf } from './format-ratios.ts';

const { values } = parseArgs({ options: { check: { type: 'boolean' }, keep: { type: 'boolean' } } });
const repository = fileURLToPath(new URL('..', import.meta.url));
const note = (text: string) => process.stderr.write(`${text}\n`);

function measureAll(): Measured {
  const [gaussian, laplace] = [gaussianNumbers(), laplaceNumbers()];
  const short = (value: number) => Number(value.toFixed(2));
  return Object.fromEntries(
    shownSchemes().map((scheme) => {
      const ratios = [short(ratioOf(gaussian, scheme)), short(ratioOf(laplace, scheme))] as const;
      note(`${scheme}: ${ratios.join(', ')} dB`);
      return [scheme, ratios];
    }),
  );
}

const measured = values.keep ? before : measureAll();
const known = new Map<Format, PlacedLevels>(formats.map((format) => [format, levelsOnGaussian(format)]));
const placed = (format: Format) => known.get(format)!;

const documentPath = 'docs/formats.md';
let document = readFileSync(join(repository, documentPath), 'utf8');
for (const [name, text] of documentParts(measured, placed)) {
  document = betweenMarkers(document, `formats:${name}`, text);
}
const plots = [...known].map(([{ id }, levels]) => [`docs/formats/${id}.svg`, plotOf(id, levels)] as const);
const wanted = new Map([
  ['src/formats/generated/measured.ts', measuredModule(measured)],
  [documentPath, document],
  ...plots,
]);

const plotFolder = join(repository, 'docs/formats');
mkdirSync(plotFolder, { recursive: true });
const stale = readdirSync(plotFolder).filter((name) => !wanted.has(`docs/formats/${name}`));
const changed = [...wanted].filter(([path, text]) => {
  const full = join(repository, path);
  return !existsSync(full) || readFileSync(full, 'utf8') !== text;
});
if (values.check) {
  const files = [...changed.map(([path]) => path), ...stale.map((name) => `docs/formats/${name}`)];
  for (const path of files) note(`${path}: not what \`npm run generate:formats\` makes of the present sources`);
  if (files.length > 0) process.exitCode = 1;
} else {
  for (const name of stale) rmSync(join(plotFolder, name));
  for (const [path, text] of changed) writeFileSync(join(repository, path), text);
  note(`${changed.length} files written, ${stale.length} removed`);
}
