/** Where jobs run. The pipeline knows this interface; `executors/` has more implementations. */
import { HalftoneError } from '../base/errors.ts';
import { type OpenRange, type SolvedPart, type SolveJob, solveJob } from './job.ts';

export interface Executor {
  /** Jobs that run at the same time. */
  readonly workers: number;
  /**
   * Does a job, when a worker is free.
   * @throws HalftoneError as `solveJob`; `runtime` when a worker died twice over it; the signal's reason when aborted.
   */
  solve(job: SolveJob, signal?: AbortSignal): Promise<SolvedPart>;
  /** Gives memory back while there is nothing to do; a later job may take longer to begin. */
  rest?(): Promise<void>;
  /** Ends all workers. */
  close(): Promise<void>;
}

const allInMemory: OpenRange = () => {
  throw new HalftoneError(
    'internal',
    'job: expected bytes in memory, got a range of a file and nothing to read it with',
  );
};

/** Does jobs where it is called, one after the other, and lets others have a turn between them. */
export function inlineExecutor(open: OpenRange = allInMemory): Executor {
  return {
    workers: 1,
    async solve(job, signal) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      signal?.throwIfAborted();
      return solveJob(job, open);
    },
    async close() {},
  };
}
