/** Colours and weights of terminal text. Off in pipes, with `NO_COLOR` (no-color.org) and on dumb terminals. */
import { stripVTControlCharacters } from 'node:util';

/** A stream as far as styling cares. */
export interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export type Paint = (text: string) => string;

export interface Style {
  readonly bold: Paint;
  readonly dim: Paint;
  readonly red: Paint;
  readonly green: Paint;
  readonly yellow: Paint;
}

/** SGR codes (ECMA-48, 8.3.117): the attribute, and the code that ends it. */
const codes = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] } as const;

/** True when `stream` shows colours. `FORCE_COLOR` turns them on where no terminal is seen, `NO_COLOR` off anywhere. */
export function hasColour(stream: Screen, environment: Readonly<Record<string, string | undefined>>): boolean {
  if (environment.NO_COLOR) return false;
  if (environment.FORCE_COLOR) return environment.FORCE_COLOR !== '0';
  return stream.isTTY === true && environment.TERM !== 'dumb';
}

/** The styles for `stream`; each returns its text unchanged where colours are off. */
export function styleFor(stream: Screen, environment: Readonly<Record<string, string | undefined>>): Style {
  const on = hasColour(stream, environment);
  const paint = (name: keyof typeof codes): Paint => {
    const [start, end] = codes[name];
    return on ? (text) => `\u001b[${start}m${text}\u001b[${end}m` : (text) => text;
  };
  return { bold: paint('bold'), dim: paint('dim'), red: paint('red'), green: paint('green'), yellow: paint('yellow') };
}

/** Columns that `text` takes on a terminal, styles not counted. */
export function widthOf(text: string): number {
  return [...stripVTControlCharacters(text)].length;
}

/** Control characters of names and messages from files made visible, so that they cannot steer the terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (char) =>
    char === '\n' || char === '\t' ? ' ' : `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}
