import { expect, it } from 'vitest';
import { createProgress, progressLine } from './progress.ts';
import { styleFor, widthOf } from './style.ts';

function screen(isTTY: boolean) {
  const written: string[] = [];
  return { isTTY, columns: 60, written, write: (text: string) => written.push(text) };
}

it('is quiet in a pipe and on a dumb terminal', () => {
  for (const [stream, environment] of [
    [screen(false), {}],
    [screen(true), { TERM: 'dumb' }],
  ] as const) {
    const progress = createProgress(stream, environment, () => 0);
    progress.show({ step: 'calibrate', done: 1, total: 2 });
    progress.say('Working');
    progress.clear();
    expect(stream.written).toEqual([]);
  }
});

it('rewrites one line, not more often than it can be read, and removes it', () => {
  const stream = screen(true);
  let now = 0;
  const progress = createProgress(stream, {}, () => now);
  for (let done = 0; done <= 100; done++) {
    now += 10;
    progress.show({ step: 'calibrate', done, total: 100 });
  }
  progress.clear();
  progress.clear();
  expect(stream.written.length).toBeLessThan(20);
  expect(stream.written.every((text) => text.startsWith('\r\u001b[2K') && !text.includes('\n'))).toBe(true);
  expect(stream.written.at(-2)).toContain('100/100');
  expect(stream.written.at(-1)).toBe('\r\u001b[2K');
});

it('fits the line into the terminal', () => {
  const style = styleFor({}, {});
  for (const width of [12, 30, 50, 79]) {
    const event = {
      step: 'quantize',
      done: 3,
      total: 52,
      detail: 'encoder/layer.0/attention/self/query/MatMul',
    } as const;
    expect(widthOf(progressLine(event, width, style))).toBeLessThanOrEqual(width);
  }
  expect(progressLine({ step: 'calibrate', done: 12, total: undefined }, 79, style)).toBe('Calibrating 12');
  expect(progressLine({ step: 'compare', done: 5, total: 10 }, 79, style)).toBe('Comparing ██████████░░░░░░░░░░ 5/10');
});
