/** Numbers as people read them: bytes, decibels, shares, times. Also how JSON keeps those that it has no way to write. */

const units = ['kB', 'MB', 'GB', 'TB'];

/** `3.87 MB`; units of 1000, as files are listed by most systems. */
export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  let value = count / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${digits(value)} ${units[unit]}`;
}

/** `0.8/2.0 GB`: both in the unit of the whole. */
export function bytesOf(part: number, whole: number): string {
  const [, unit] = bytes(whole).split(' ');
  const size = 1000 ** (units.indexOf(unit) + 1);
  const places = size === 1 ? 0 : 1;
  return `${(part / size).toFixed(places)}/${(whole / size).toFixed(places)} ${unit}`;
}

/** Three digits or all before the point; the limits are where rounding would give one more. */
function digits(value: number): string {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

/** How many times smaller: `3.9×`. */
export function ratio(before: number, after: number): string {
  if (after <= 0) return '–';
  const value = before / after;
  return `${value.toFixed(value < 9.995 ? 2 : 1)}×`;
}

/** `32.5 dB`; `exact` where nothing differs, `unknown` where nothing could be compared. */
export function decibels(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return 'exact';
  if (Number.isNaN(value)) return 'unknown';
  return Number.isFinite(value) ? `${value.toFixed(1)} dB` : 'not finite';
}

/** A share 0 … 1 as `96.3 %`. */
export function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

/** A measured value with about four digits. */
export function measure(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2);
  if (size >= 9999.5) return value.toFixed(0);
  return value
    .toPrecision(4)
    .replace(/(\.\d*?)0+$/, '$1')
    .replace(/\.$/, '');
}

/** `2.31 ms`. */
export function milliseconds(value: number): string {
  return `${value < 0.9995 ? value.toFixed(3) : digits(value)} ms`;
}

/** `8 s`, `3 min 20 s`, `1 h 5 min`; rounded up, so that nothing is left only at the end. */
export function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.ceil(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** `12,345`, of a whole number. Not by Intl, which takes longer to load than all else that `inspect` does. */
export function count(value: number): string {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** `1 layer`, `3 layers`. */
export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** JSON of plain data. Infinities and NaN, which JSON lacks, become the texts "Infinity", "-Infinity" and "NaN". */
export function jsonText(value: unknown): string {
  return JSON.stringify(
    value,
    (_key, item: unknown) => (typeof item === 'number' && !Number.isFinite(item) ? String(item) : item),
    2,
  );
}
