/** Jobs on several threads: worker threads of Node, Web Workers of a browser. */
import workerpool from 'workerpool';
import { type ErrorCode, HalftoneError, messageOf } from '../base/errors.ts';
import type { Executor } from '../pipeline/executor.ts';
import type { SolvedPart, SolveJob } from '../pipeline/job.ts';

/** What a worker answers: failures travel as data, so that they keep their code. */
export type Answer =
  | { readonly part: SolvedPart }
  | {
      readonly failure: {
        readonly code: ErrorCode;
        readonly message: string;
        readonly fields: HalftoneError['fields'];
      };
    };

export interface ThreadsOptions {
  /** At least 1. */
  readonly workers: number;
  /** Path (Node) or address (browser) of the script that serves jobs. */
  readonly script: string;
}

/** How often a job is given out: a worker that dies over it may have died of something else. */
const attempts = 2;

/** Starts workers when there is work for them. Call `close`, or the process does not end. */
export function threadsExecutor({ workers, script }: ThreadsOptions): Executor {
  const pool = workerpool.pool(script, {
    maxWorkers: workers,
    workerType: 'auto',
    workerOpts: { type: 'module' },
  });
  return {
    workers,
    async solve(job, signal) {
      let died: unknown;
      for (let attempt = 0; attempt < attempts; attempt++) {
        signal?.throwIfAborted();
        let answer: Answer;
        try {
          // Data is copied when it is sent, the whole buffer behind a view too.
          const data = job.data instanceof Uint8Array ? job.data.slice() : job.data;
          const transfer = data instanceof Uint8Array ? [data.buffer] : [];
          answer = (await pool.exec('solve', [{ ...job, data } satisfies SolveJob], { transfer })) as Answer;
        } catch (error) {
          signal?.throwIfAborted();
          died = error;
          continue;
        }
        if ('part' in answer) return answer.part;
        const { code, message, fields } = answer.failure;
        throw new HalftoneError(code, message, { fields });
      }
      throw new HalftoneError(
        'runtime',
        `weight "${job.tensor}": expected a worker to finish it, got ${attempts} that ended (${messageOf(died)}); ` +
          'try again with one worker',
        { cause: died, fields: { tensor: job.tensor } },
      );
    },
    async close() {
      await pool.terminate(true);
    },
  };
}
