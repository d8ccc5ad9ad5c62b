/** Node only: the script of a worker thread. */
import workerpool from 'workerpool';
import { bestKernel } from '../kernel/index.ts';
import type { SolveJob } from '../pipeline/job.ts';
import { answerTo } from './exchange.ts';
import { openRange } from './node.ts';

workerpool.worker({
  load: () => void bestKernel(),
  solve(job: SolveJob) {
    const { message, transfer } = answerTo(job, openRange);
    return new workerpool.Transfer(message, transfer);
  },
});
