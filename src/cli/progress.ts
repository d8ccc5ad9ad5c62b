/** One line on stderr that is rewritten while long work goes on; nothing where stderr is no terminal. */
import type { ProgressEvent, Step } from '../pipeline/quantize.ts';
import { type Screen, type Style, styleFor } from './style.ts';
import { shorten } from './table.ts';

const titles: Readonly<Record<Step, string>> = {
  prepare: 'Preparing the graph',
  calibrate: 'Calibrating',
  quantize: 'Quantizing weights',
  correct: 'Correcting layers',
  compare: 'Comparing',
};

/** Milliseconds between two rewrites: enough to look alive, too few to cost time. */
const interval = 80;
const barWidth = 20;

export interface Progress {
  readonly show: (event: ProgressEvent) => void;
  /** A text without a bar. */
  readonly say: (text: string) => void;
  /** Removes the line. Must be called before anything else is written to the terminal. */
  readonly clear: () => void;
}

/** Progress on `stream`, quiet unless it is a terminal. */
export function createProgress(
  stream: Screen & { write(text: string): unknown },
  environment: Readonly<Record<string, string | undefined>>,
  clock: () => number,
): Progress {
  if (!stream.isTTY || environment.TERM === 'dumb') return { show() {}, say() {}, clear() {} };
  const style = styleFor(stream, environment);
  let shown = false;
  let last = Number.NEGATIVE_INFINITY;
  let step: string | undefined;
  const write = (text: string) => {
    stream.write(`\r\u001b[2K${text}`);
    shown = true;
    last = clock();
  };
  const width = () => (stream.columns ?? 80) - 1;
  return {
    show(event) {
      const finished = event.total !== undefined && event.done >= event.total;
      if (event.step === step && !finished && clock() - last < interval) return;
      step = event.step;
      write(progressLine(event, width(), style));
    },
    say(text) {
      step = undefined;
      write(style.dim(shorten(text, width())));
    },
    clear() {
      if (shown) stream.write('\r\u001b[2K');
      shown = false;
      step = undefined;
    },
  };
}

/** The line for one event, at most `width` columns. */
export function progressLine(event: ProgressEvent, width: number, style: Style): string {
  const { done, total, detail } = event;
  const title = titles[event.step];
  const filled = total ? Math.min(barWidth, Math.floor((done / total) * barWidth)) : 0;
  const bar = total
    ? ` ${'█'.repeat(filled)}${'░'.repeat(barWidth - filled)} ${done}/${total}`
    : done > 0
      ? ` ${done}`
      : ' …';
  const room = width - title.length - bar.length - 1;
  const rest = detail && room >= 8 ? ` ${style.dim(shorten(detail, room))}` : '';
  return `${shorten(title + bar, width)}${rest}`;
}
