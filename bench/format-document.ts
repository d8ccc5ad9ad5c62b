/** The generated parts of docs/formats.md: comparisons, the table of all formats, and what each one's levels are. */
import {
  type FormatRow,
  formatRows,
  kernelsOf,
  type Measured,
  type Ratio,
  runsOn,
  schemesOf,
  shownBits,
} from '../src/cli/format-rows.ts';
import { type Format, formatIds, formats } from '../src/formats/index.ts';
import { namedSchemes } from '../src/formats/named.ts';
import { formatScheme, parseScheme } from '../src/formats/scheme.ts';
import { bitsPerWeight, levelsIn } from '../src/formats/size.ts';
import type { PlacedLevels } from './format-levels.ts';
import { table } from './report.ts';

/** Schemes that the document compares, by the name of the marker between which their table stands. */
export const comparisons: Readonly<Record<string, readonly string[]>> = {
  one: ['int1', 'int1:g128', 'uint1', 'ternary', 'ternary:g128', 'kmeans2:tensor'],
  two: [
    ...['int2:sym', 'int2:asym', 'int2:g128:sym', 'int2:g128:asym', 'kmeans2', 'kmeans2:g128', 'kmeans2:tensor'],
    ...['quantile2', 'binary2', 'binary2:g128', 'ternary', 'ternary:g128'],
  ],
  three: [
    ...['int3:sym', 'int3:asym', 'int3:g128:asym', 'kmeans3', 'kmeans3:g128', 'kmeans3:tensor', 'quantile3', 'pot3'],
    ...['binary3', 'binary3:g128'],
  ],
  four: [
    ...[
      'int4:sym',
      'int4:asym',
      'int4:g64:asym',
      'int4:g128:asym',
      'nf4',
      'nf4:g64',
      'nf4:g128',
      'fp4',
      'kmeans4',
      'kmeans4:g64',
      'kmeans4:g128',
    ],
    ...['kmeans4:tensor', 'quantile4', 'float4e2m1', 'mxfp4', 'nvfp4', 'apot4', 'pot4'],
  ],
  more: [
    ...[
      'int6:sym',
      'int6:asym',
      'kmeans6',
      'kmeans6:tensor',
      'float6e2m3',
      'float6e3m2',
      'mxfp6e2m3',
      'mxfp6e3m2',
      'apot6',
    ],
    ...['int8', 'int8:g32', 'uint8', 'mxint8', 'kmeans8', 'kmeans8:tensor', 'float8e4m3fn', 'float8e5m2', 'mxfp8e4m3'],
    ...['apot8', 'int16', 'float16', 'bfloat16'],
  ],
  scales: [
    ...['int4:sym:scale32', 'int4:sym', 'int4:sym:scale8', 'int4:sym:scale-e4m3', 'int4:sym:scale-e8m0'],
    ...['int4:g16:sym', 'int4:g16:sym:scale8', 'int4:g64:sym', 'int4:channel:sym', 'int4:tensor:sym'],
    ...['int4:asym', 'int4:asym:scale8', 'nf4', 'nf4:scale8', 'nf4:g16:scale8', 'kmeans4:scale8'],
  ],
};

/** Every scheme whose ratio is shown somewhere, in the order of the lists, each once. */
export function shownSchemes(): string[] {
  const ids = [...formatIds, ...namedSchemes.map(({ id }) => id)];
  const compared = Object.values(comparisons).flat();
  return [
    ...new Set([
      ...ids.flatMap((id) => [...schemesOf(id).values()]),
      ...compared.map((text) => formatScheme(parseScheme(text))),
    ]),
  ];
}

/** A comparison, the fewest bits first. */
function comparisonTable(schemes: readonly string[], measured: Measured): string {
  const rows = schemes.map((text) => {
    const scheme = parseScheme(text);
    const [gaussian, laplace] = measured[formatScheme(scheme)];
    return { scheme: formatScheme(scheme), bits: bitsPerWeight(scheme), gaussian, laplace };
  });
  rows.sort((a, b) => a.bits - b.bits);
  return table(
    ['scheme', 'bits', 'Gaussian, dB', 'Laplace, dB'],
    rows.map(({ scheme, bits, gaussian, laplace }) => [
      `\`${scheme}\``,
      shownBits(bits),
      gaussian.toFixed(1),
      laplace.toFixed(1),
    ]),
  );
}

/** The table of all formats. */
function wholeTable(rows: readonly FormatRow[]): string {
  const pair = (ratio: Ratio | undefined) =>
    ratio ? `${ratio.gaussian.toFixed(1)} / ${ratio.laplace.toFixed(1)}` : '–';
  const head = [
    'format',
    'alone it is',
    'bits',
    'levels',
    'default',
    'g32',
    'g128',
    'tensor',
    'runs natively on',
    'what it is',
  ];
  return table(
    head,
    rows.map((row) => [
      `[\`${row.id}\`](#${anchorOf(row)})`,
      `\`${row.scheme}\``,
      shownBits(row.bitsPerWeight),
      String(row.levels),
      pair(row.sqnr.default),
      pair(row.sqnr.g32),
      pair(row.sqnr.g128),
      pair(row.sqnr.tensor),
      runsOn(row),
      kernelsOf(row),
      row.summary,
    ]),
  );
}

/** Where the levels of a row are shown: a named scheme has those of its format. */
function anchorOf({ id, kind, scheme }: FormatRow): string {
  return kind === 'scheme' ? parseScheme(scheme).format : id;
}

/** At most so many levels, or magnitudes of levels, are listed; of more a summary is given. */
const mostListed = 32;

/** Four digits; integers, and small powers of two, exactly. */
function number(value: number): string {
  const magnitude = Math.abs(value);
  const power = Math.log2(magnitude);
  const text =
    magnitude <= 2 ** -4 && Number.isInteger(power)
      ? `${value < 0 ? '-' : ''}2^${power}`
      : Number.isInteger(value) && magnitude < 1e6
        ? String(value)
        : magnitude >= 1e6
          ? value.toExponential(2)
          : String(Number(value.toPrecision(4)));
  return text.replaceAll('-', '−');
}

/** The levels in a line: magnitudes where both signs have the same ones. */
function levelList(levels: ArrayLike<number>): string {
  const all = Array.from(levels);
  const isMirrored = all.every((level, index) => level === -all[all.length - 1 - index] || level === 0);
  const positive = all.filter((level) => level > 0);
  const [low, high] = [number(all[0]), number(all[all.length - 1])];
  const steps = all.slice(1).map((level, index) => level - all[index]);
  const [least, most] = [Math.min(...steps), Math.max(...steps)];
  if (all.length > 4 && most === least) return `${low}, ${number(all[1])} … ${high}`;
  if (isMirrored && positive.length <= mostListed) {
    const signed = positive.map((level) => `±${number(level)}`);
    return [...(all.includes(0) ? ['0'] : []), ...signed].join(', ');
  }
  if (!isMirrored && all.length <= mostListed) return all.map((level) => number(level)).join(', ');
  const between = `steps of ${number(least)} to ${number(most)}`;
  return isMirrored
    ? `${all.includes(0) ? '0, ' : ''}±${number(positive[0])} … ±${high}, ${between}`
    : `${low} … ${high}, ${between}`;
}

/** Headings of the kinds, in the order of the document. */
const kinds: Readonly<Record<Format['kind'], string>> = {
  int: 'Integers',
  residual: 'Sums of signs',
  float: 'Floats without scales',
  levels: 'Fixed levels',
  codebook: 'Learned levels',
};

/** A section for each format: levels and picture. */
function sections(placed: (format: Format) => PlacedLevels): string {
  return Object.entries(kinds)
    .map(([kind, title]) => {
      const members = (formats as readonly Format[]).filter((format) => format.kind === kind);
      return [`### ${title}`, ...members.map((format) => section(format, placed(format)))].join('\n\n');
    })
    .join('\n\n');
}

function section(format: Format, placed: PlacedLevels): string {
  const fixed = levelsIn(format);
  const hasZeroPoint = format.kind === 'int' && !format.signed && format.bits > 1;
  const levels = fixed
    ? `Levels${hasZeroPoint ? `, with the zero point ${2 ** (format.bits - 1)}` : ''}: ${levelList(fixed)}`
    : `Levels on a normal distribution, in σ: ${levelList(placed.levels.map((level) => Number(level.toFixed(3))))}`;
  const { id, summary } = format;
  const first = summary[0].toUpperCase() + summary.slice(1);
  return `#### ${id}\n\n${first}. ${levels}.\n\n![${id}](formats/${id}.svg)`;
}

/** The generated parts of the document, by the name of their markers. */
export function documentParts(
  measured: Measured,
  placed: (format: Format) => PlacedLevels,
): ReadonlyMap<string, string> {
  return new Map([
    ...Object.entries(comparisons).map(([name, schemes]) => [name, comparisonTable(schemes, measured)] as const),
    ['table', wholeTable(formatRows(measured))],
    ['levels', sections(placed)],
  ]);
}

/** A document with `text` between `<!-- NAME begin -->` and `<!-- NAME end -->`. */
export function betweenMarkers(document: string, name: string, text: string): string {
  const begin = `<!-- ${name} begin -->`;
  const end = `<!-- ${name} end -->`;
  const [from, to] = [document.indexOf(begin), document.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/formats.md: expected the markers ${begin} and ${end}`);
  return `${document.slice(0, from + begin.length)}\n\n${text}\n\n${document.slice(to)}`;
}

/** The file from which `halftone formats` has its figures. */
export function measuredModule(measured: Measured): string {
  const lines = Object.entries(measured).map(([scheme, [gaussian, laplace]]) => {
    const key = /^\w+$/.test(scheme) ? scheme : `'${scheme}'`;
    return `  ${key}: [${gaussian}, ${laplace}],`;
  });
  return [
    '/** Signal to quantization noise of schemes in dB. Made by `npm run generate:formats`. */',
    'export const measured: Readonly<Record<string, readonly [gaussian: number, laplace: number]>> = {',
    ...lines,
    '};',
    '',
  ].join('\n');
}
