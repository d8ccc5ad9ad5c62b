/** Jobs on worker threads of Node. */
import workerpool from 'workerpool';
import type { Executor } from '../pipeline/executor.ts';
import { type Answer, solveWith } from './exchange.ts';

export interface ThreadsOptions {
  /** At least 1. */
  readonly workers: number;
  /** Path of the script that does jobs. */
  readonly script: string;
}

/** Starts workers when there is work for them. Call `close`, or the process does not end. */
export function threadsExecutor({ workers, script }: ThreadsOptions): Executor {
  const pool = workerpool.pool(script, { maxWorkers: workers, workerType: 'thread' });
  return {
    workers,
    solve: (job, signal) =>
      solveWith(({ message, transfer }) => pool.exec('solve', [message], { transfer }) as Promise<Answer>, job, signal),
    async close() {
      await pool.terminate(true);
    },
  };
}
