/** What commands write to and learn from: streams, styles, the clock, the wish to stop. One place, so that tests can stand in. */
import { performance } from 'node:perf_hooks';
import { createProgress, type Progress } from './progress.ts';
import { printable, type Screen, type Style, styleFor } from './style.ts';
import { wrap } from './table.ts';

export interface Terminal {
  /** Writes lines to stdout. */
  readonly print: (...lines: readonly string[]) => void;
  /** Writes a message to stderr, behind `halftone: `. */
  readonly warn: (message: string) => void;
  /** The same for what ends the program. */
  readonly fail: (message: string) => void;
  /** Text as it is, to stdout and to stderr. */
  readonly write: (text: string) => void;
  readonly writeError: (text: string) => void;
  readonly style: Style;
  /** Columns of stdout; undefined in a pipe, where nothing is shortened. */
  readonly width: number | undefined;
  readonly progress: Progress;
  readonly clock: () => number;
  readonly signal: AbortSignal;
}

/** A stream that text can be written to, and what it knows of its screen. */
export type Output = Screen & { write(text: string): unknown };

/** The terminal over two streams. */
export function createTerminal(
  output: Output,
  errors: Output,
  environment: Readonly<Record<string, string | undefined>>,
  signal: AbortSignal,
): Terminal {
  const clock = () => performance.now();
  const progress = createProgress(errors, environment, clock);
  const errorStyle = styleFor(errors, environment);
  const write = (text: string) => {
    progress.clear();
    output.write(text);
  };
  const writeError = (text: string) => {
    progress.clear();
    errors.write(text);
  };
  return {
    print: (...lines) => write(`${lines.join('\n')}\n`),
    warn: (message) => writeError(`${errorStyle.yellow('halftone:')} ${printable(message)}\n`),
    fail: (message) => writeError(`${errorStyle.red('halftone:')} ${printable(message)}\n`),
    write,
    writeError,
    style: styleFor(output, environment),
    width: output.isTTY ? output.columns : undefined,
    progress,
    clock,
    signal,
  };
}

/** Prints paragraphs as a list. */
export function printNotes(terminal: Terminal, notes: readonly string[]): void {
  const room = terminal.width === undefined ? undefined : terminal.width - 4;
  for (const note of notes) {
    const [first, ...rest] = wrap(printable(note), room);
    terminal.print(`  - ${first}`, ...rest.map((line) => `    ${line}`));
  }
}
