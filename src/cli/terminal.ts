/** What commands write to and learn from: streams, styles, the clock, the wish to stop. One place, so that tests can stand in. */
import { performance } from 'node:perf_hooks';
import { createProgress, type Progress } from './progress.ts';
import { printable, type Style, styleFor } from './style.ts';
import { wrap } from './table.ts';

export interface Terminal {
  /** Writes lines to stdout. */
  readonly print: (...lines: readonly string[]) => void;
  /** Writes one line to stderr, behind `halftone: `. */
  readonly warn: (message: string) => void;
  readonly style: Style;
  /** Columns of stdout; undefined in a pipe, where nothing is shortened. */
  readonly width: number | undefined;
  readonly progress: Progress;
  readonly clock: () => number;
  readonly signal: AbortSignal;
}

/** The terminal of this process. */
export function processTerminal(signal: AbortSignal): Terminal {
  const clock = () => performance.now();
  const progress = createProgress(process.stderr, process.env, clock);
  const errorStyle = styleFor(process.stderr, process.env);
  return {
    print(...lines) {
      progress.clear();
      process.stdout.write(`${lines.join('\n')}\n`);
    },
    warn(message) {
      progress.clear();
      process.stderr.write(`${errorStyle.yellow('halftone:')} ${printable(message)}\n`);
    },
    style: styleFor(process.stdout, process.env),
    width: process.stdout.isTTY ? process.stdout.columns : undefined,
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
