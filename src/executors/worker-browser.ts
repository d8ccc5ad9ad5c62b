/** The script of a Web Worker, the package's `halftone/worker`: bundle it, and give its address to `openExecutor`. */
import { openBlobRange } from '../files/blob-source.ts';
import type { SolveJob } from '../pipeline/job.ts';
import { answerTo } from './exchange.ts';

self.onmessage = ({ data }: MessageEvent<SolveJob>) => {
  const { message, transfer } = answerTo(data, openBlobRange);
  self.postMessage(message, { transfer });
};
self.postMessage('ready');
