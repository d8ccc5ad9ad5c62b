/** Jobs on worker threads of Node. */
import workerpool from 'workerpool';
import { HalftoneError } from '../base/errors.ts';
import type { Executor } from '../pipeline/executor.ts';
import { type Answer, solveWith } from './exchange.ts';

export interface ThreadsOptions {
  /** At least 1. */
  readonly workers: number;
  /** Path of the script that does jobs. */
  readonly script: string;
}

/** Starts its workers at once: they load while the work is being planned. Call `close`, or the process does not end. */
export function threadsExecutor({ workers, script }: ThreadsOptions): Executor {
  const pool = workerpool.pool(script, { maxWorkers: workers, workerType: 'thread' });
  let isOpen = true;
  for (let worker = 0; worker < workers; worker++) {
    // A worker that cannot even load is found out, and reported, by its first job.
    pool.exec('load', []).catch(() => undefined);
  }
  return {
    workers,
    solve: (job, signal) =>
      solveWith(
        ({ message, transfer }) => {
          if (!isOpen)
            throw new HalftoneError('usage', 'workers: expected jobs before they are closed, got one after it');
          return pool.exec('solve', [message], { transfer }) as Promise<Answer>;
        },
        job,
        signal,
      ),
    rest: async () => void (await pool.terminate(true)),
    async close() {
      isOpen = false;
      await pool.terminate(true);
    },
  };
}
