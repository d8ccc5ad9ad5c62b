/** What a worker does: jobs, one after the other. */
import workerpool from 'workerpool';
import { isHalftoneError, messageOf } from '../base/errors.ts';
import { type OpenRange, type SolveJob, solveJob } from '../pipeline/job.ts';
import type { Answer } from './threads.ts';

/** Answers the jobs that a pool sends to this thread. */
export function serve(open: OpenRange): void {
  workerpool.worker({
    solve(job: SolveJob) {
      try {
        const part = solveJob(job, open);
        const buffers = [part.codes.buffer, part.scales.buffer];
        if (typeof part.zeroPoints !== 'number') buffers.push(part.zeroPoints.buffer);
        return new workerpool.Transfer({ part } satisfies Answer, buffers);
      } catch (error) {
        const code = isHalftoneError(error) ? error.code : 'internal';
        const fields = isHalftoneError(error) ? error.fields : {};
        return { failure: { code, message: messageOf(error), fields } } satisfies Answer;
      }
    },
  });
}
