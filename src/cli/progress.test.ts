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

it('tells bytes, tensors, rate and the time left, from where the step began', () => {
  const stream = { ...screen(true), columns: 100 };
  let now = 10_000;
  const progress = createProgress(stream, { NO_COLOR: '1' }, () => now);
  const show = (seconds: number, done: number, bytes: number) => {
    now = 10_000 + seconds * 1000;
    progress.show({ step: 'quantize', done, total: 291, detail: 'layers.3.mlp.up', bytes, totalBytes: 2e9 });
    return stream.written.at(-1)?.replace('\r\u001b[2K', '');
  };
  expect(show(0, 0, 0)).toBe('Quantizing weights 0/291 tensors  0.0/2.0 GB  layers.3.mlp.up');
  expect(show(0.2, 1, 1e8)).toBe('Quantizing weights 1/291 tensors  0.1/2.0 GB  layers.3.mlp.up');
  expect(show(2, 12, 8e8)).toBe('Quantizing weights 12/291 tensors  0.8/2.0 GB  400 MB/s  3 s left  layers.3.mlp.up');
  expect(show(4, 291, 2e9)).toBe('Quantizing weights 291/291 tensors  2.0/2.0 GB  500 MB/s  layers.3.mlp.up');
});

it('measures the rate by what this run did, not by what it found done', () => {
  const stream = { ...screen(true), columns: 100 };
  let now = 0;
  const progress = createProgress(stream, { NO_COLOR: '1' }, () => now);
  progress.show({ step: 'quantize', done: 50, total: 100, bytes: 1e9, totalBytes: 2e9 });
  now = 5000;
  progress.show({ step: 'quantize', done: 60, total: 100, bytes: 1.2e9, totalBytes: 2e9 });
  expect(stream.written.at(-1)).toContain('1.2/2.0 GB  40.0 MB/s  20 s left');
});

it('leaves out what does not fit, the amount last', () => {
  const event = { step: 'quantize', done: 12, total: 291, detail: 'a.rather.long.name', bytes: 8e8, totalBytes: 2e9 };
  const lines = [100, 65, 55, 47, 31, 12, 5].map((width) => {
    const line = progressLine({ ...event, step: 'quantize' }, width, styleFor({}, {}), 4e8);
    expect(widthOf(line)).toBeLessThanOrEqual(width);
    return line;
  });
  expect(lines).toEqual([
    'Quantizing weights 12/291 tensors  0.8/2.0 GB  400 MB/s  3 s left  a.rather.long.name',
    'Quantizing weights 12/291 tensors  0.8/2.0 GB  400 MB/s  3 s left',
    'Quantizing weights 12/291 tensors  0.8/2.0 GB  3 s left',
    'Quantizing weights 12/291  0.8/2.0 GB  3 s left',
    '0.8/2.0 GB  3 s left  a.ra…name',
    '0.8/2.0 GB',
    '0.…GB',
  ]);
});
