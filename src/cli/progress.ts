/** One line on stderr that is rewritten while long work goes on; nothing where stderr is no terminal. */
import type { ProgressEvent, Step } from '../pipeline/quantize.ts';
import { bytes, bytesOf, duration } from './numbers.ts';
import { type Screen, type Style, styleFor } from './style.ts';
import { shorten } from './table.ts';

/** An event, and where the step knows them the bytes of tensors that it is through with. */
export interface ShownEvent extends ProgressEvent {
  readonly bytes?: number;
  readonly totalBytes?: number;
}

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
/** Milliseconds of a step before its rate means anything. */
const settling = 500;

export interface Progress {
  readonly show: (event: ShownEvent) => void;
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
  /** Where the step began: bytes done by an earlier run say nothing of this one's rate. */
  let start = { time: 0, bytes: 0 };
  const write = (text: string) => {
    stream.write(`\r\u001b[2K${text}`);
    shown = true;
    last = clock();
  };
  const width = () => (stream.columns ?? 80) - 1;
  return {
    show(event) {
      const finished = event.total !== undefined && event.done >= event.total;
      const now = clock();
      if (event.step !== step) start = { time: now, bytes: event.bytes ?? 0 };
      else if (!finished && now - last < interval) return;
      step = event.step;
      const elapsed = now - start.time;
      const rate = elapsed < settling ? undefined : (((event.bytes ?? 0) - start.bytes) / elapsed) * 1000;
      write(progressLine(event, width(), style, rate));
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

/**
 * The line for one event, at most `width` columns.
 * @param rate bytes per second, where it is known
 */
export function progressLine(event: ShownEvent, width: number, style: Style, rate?: number): string {
  const title = titles[event.step];
  const head =
    event.total !== undefined && event.totalBytes
      ? amounts(title, event.done, event.total, event.bytes ?? 0, event.totalBytes, width, rate)
      : title + bar(event.done, event.total);
  const { detail } = event;
  const gap = event.totalBytes ? '  ' : ' ';
  const room = width - head.length - gap.length;
  const rest = detail && room >= 8 ? `${gap}${style.dim(shorten(detail, room))}` : '';
  return `${shorten(head, width)}${rest}`;
}

function bar(done: number, total: number | undefined): string {
  if (!total) return done > 0 ? ` ${done}` : ' …';
  const filled = Math.min(barWidth, Math.floor((done / total) * barWidth));
  return ` ${'█'.repeat(filled)}${'░'.repeat(barWidth - filled)} ${done}/${total}`;
}

/** `Quantizing weights 12/291 tensors  0.8/2.0 GB  1.2 GB/s  1 s left`, or of that what fits. */
function amounts(
  title: string,
  done: number,
  total: number,
  bytesDone: number,
  bytesTotal: number,
  width: number,
  rate: number | undefined,
): string {
  const count = `${title} ${done}/${total} tensors`;
  const size = bytesOf(bytesDone, bytesTotal);
  const moving = rate !== undefined && rate > 0;
  const speed = moving ? `${bytes(Math.floor(rate))}/s` : undefined;
  const left = moving && bytesDone < bytesTotal ? `${duration((bytesTotal - bytesDone) / rate)} left` : undefined;
  const choices = [
    [count, size, speed, left],
    [count, size, left],
    [`${title} ${done}/${total}`, size, left],
    [size, left],
    [size],
  ].map((parts) => parts.filter((part) => part !== undefined).join('  '));
  return choices.find((text) => text.length <= width) ?? size;
}
