/** The script of a Web Worker, the package's `halftone/worker`: bundle it, and give its address to `openExecutor`. */
import { openBlobRange } from '../files/blob-source.ts';
import type { SolveJob } from '../pipeline/job.ts';
import { type Answer, answerTo } from './exchange.ts';

self.onmessage = ({ data }: MessageEvent<SolveJob>) => {
  const { message, transfer } = answerTo(data, openBlobRange);
  self.postMessage(message, { transfer });
};
self.onmessageerror = () => {
  const message = 'job: expected one that the worker can take, got one that it cannot read; try again without workers';
  const answer: Answer = { failure: { code: 'runtime', message, fields: {} } };
  self.postMessage(answer);
};
self.postMessage('ready');
