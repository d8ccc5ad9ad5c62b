/** Node only: the executor that suits a machine. */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { type FileIdentity, fileSource } from '../files/file-source.ts';
import { type Executor, inlineExecutor } from '../pipeline/executor.ts';
import type { OpenRange } from '../pipeline/job.ts';
import { threadsExecutor } from './threads.ts';

/** More workers than this wait for the disk rather than for each other. */
const mostWorkers = 8;

/** One worker a core, up to eight. */
export const defaultWorkers = () => Math.min(availableParallelism(), mostWorkers);

/** Below this many bytes of float weights starting threads takes longer than they save. */
const threadsFrom = 2 ** 24;

/** Reads a range that `fileSource` made. */
export const openRange: OpenRange = ({ file, offset, byteLength }) =>
  fileSource(file as FileIdentity, offset, byteLength);

/** An executor for `bytes` bytes of float weights. With one worker jobs run on the calling thread. */
export function openExecutor(workers: number, bytes: number): Executor {
  if (workers === 1 || bytes < threadsFrom) {
    return inlineExecutor(openRange);
  }
  const name = import.meta.url.endsWith('.ts') ? 'worker-from-source.mjs' : 'worker-node.js';
  return threadsExecutor({ workers, script: fileURLToPath(new URL(`./${name}`, import.meta.url)) });
}
