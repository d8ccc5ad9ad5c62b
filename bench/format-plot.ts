/** A picture of a format: its levels under a normal distribution, and where the noise comes from. */
import { density, type PlacedLevels } from './format-levels.ts';

const width = 640;
const height = 196;
const left = 16;
const right = 624;
/** Standard deviations to either side. */
const shown = 4;
/** The density stands on this line; the noise hangs from the next. */
const ground = { density: 112, noise: 124 } as const;
const tall = { density: 84, noise: 44 } as const;

/** More levels than this lie closer than lines can be told apart. */
const mostLines = 256;

const place = (x: number) => left + ((x + shown) / (2 * shown)) * (right - left);
const digits = (value: number) => String(Number(value.toFixed(1)));
const point = (x: number, y: number) => `${digits(x)} ${digits(y)}`;
const densityAt = (x: number) => ground.density - (density(x) / density(0)) * tall.density;

/** Places between two levels that a curve goes through, where there is room for them. */
const curved = 3;

/** How often a number is, times the square of its error: the area is the noise. At the numbers where the curve is drawn. */
function noiseOf(levels: Float64Array): { readonly x: number; readonly noise: number }[] {
  if (levels.length > mostLines) {
    const columns = Array.from({ length: (right - left) / 2 + 1 }, (_, i) => -shown + (i * 4 * shown) / (right - left));
    return columns.map((x) => ({ x, noise: (density(x) * gapAt(levels, x) ** 2) / 12 }));
  }
  const corners = [-shown, ...Array.from(levels).flatMap((x, i) => [x, (x + (levels[i + 1] ?? x)) / 2]), shown];
  const inside = corners.filter((x) => Math.abs(x) <= shown).sort((a, b) => a - b);
  const all = inside.flatMap((x, index) => {
    const next = inside[index + 1] ?? x;
    const steps = place(next) - place(x) < 3 ? 1 : Math.max(curved, Math.floor((place(next) - place(x)) / 6));
    return Array.from({ length: steps }, (_, step) => x + ((next - x) * step) / steps);
  });
  return all.map((x) => ({ x, noise: density(x) * nearestError(levels, x) ** 2 }));
}

function nearestError(levels: Float64Array, x: number): number {
  return levels.reduce((least, level) => Math.min(least, Math.abs(level - x)), Number.POSITIVE_INFINITY);
}

/** The distance of the two levels around a number. */
function gapAt(levels: Float64Array, x: number): number {
  let low = 0;
  let high = levels.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (levels[middle] <= x) low = middle;
    else high = middle;
  }
  return levels[high] - levels[low];
}

/** An SVG image that is legible on light and on dark ground. */
export function plotOf(id: string, { levels, sqnr }: PlacedLevels): string {
  const count = String(levels.length).replace(/\B(?=(\d{3})+$)/g, ',');
  const drawn = noiseOf(levels);
  const largest = drawn.reduce((most, { noise }) => Math.max(most, noise), 0);
  const curve = Array.from({ length: 129 }, (_, i) => -shown + (i * 2 * shown) / 128);
  const hill = curve.map((x) => point(place(x), densityAt(x))).join('L');
  const teeth = drawn.map(({ x, noise }) => point(place(x), ground.noise + (noise / largest) * tall.noise)).join('L');
  const visible = levels.filter((level) => Math.abs(level) <= shown);
  const areLines = levels.length <= mostLines;
  const stems = areLines
    ? `<path class="s" stroke-width="${visible.length > 100 ? 0.8 : visible.length > 40 ? 1.2 : 2}" d="${Array.from(
        visible,
        (level) => `M${point(place(level), ground.density + 5)}V${digits(densityAt(level))}`,
      ).join('')}"/>`
    : '<text x="320" y="92" text-anchor="middle">levels closer than lines could be</text>';
  const texts = [
    `<text x="${left}" y="16" class="t">${id}</text>`,
    `<text x="${right}" y="16" text-anchor="end">${count} levels · ${sqnr.toFixed(1)} dB</text>`,
    ...[-4, -2, 0, 2, 4].map((x) => {
      const anchor = x === -shown ? 'start' : x === shown ? 'end' : 'middle';
      return `<text x="${digits(place(x))}" y="188" text-anchor="${anchor}">${x === 0 ? '0' : `${x < 0 ? '−' : ''}${Math.abs(x)} σ`}</text>`;
    }),
    `<text x="${left}" y="${ground.noise + 40}" class="e">noise</text>`,
  ];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${id}: ${count} levels under a normal distribution, and where the noise comes from">`,
    '<style>text{font:12px system-ui,sans-serif;fill:#59636e}.t{font-weight:600;font-size:14px}.d{fill:#6e9bd6;fill-opacity:.3}.s{stroke:#2f74c9}.r{fill:#d4691e;fill-opacity:.55}.a{stroke:#818b98}.e{fill:#b8500f}@media(prefers-color-scheme:dark){text{fill:#aab4bf}.s{stroke:#6aa5f0}.e{fill:#f0a35e}}</style>',
    `<path class="d" d="M${point(left, ground.density)}L${hill}L${point(right, ground.density)}Z"/>`,
    stems,
    `<path class="a" d="M${left} ${ground.density}H${right}"/>`,
    `<path class="r" d="M${point(left, ground.noise)}L${teeth}L${point(right, ground.noise)}Z"/>`,
    `<path class="a" d="M${left} ${ground.noise}H${right}"/>`,
    ...texts,
    '</svg>',
    '',
  ].join('\n');
}
