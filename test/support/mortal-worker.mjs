/** A worker that dies over its first jobs, as many as `HALFTONE_DEATHS` says, counted in the file `HALFTONE_DEATHS_FILE`. */
import { appendFileSync, statSync } from 'node:fs';
import { register } from 'tsx/esm/api';
import workerpool from 'workerpool';

register();
const { solveJob } = await import('../../src/pipeline/job.ts');
const { openRange } = await import('../../src/executors/node.ts');
const { HALFTONE_DEATHS: deaths = '0', HALFTONE_DEATHS_FILE: file = '' } = process.env;
workerpool.worker({
  solve(job) {
    if ((statSync(file, { throwIfNoEntry: false })?.size ?? 0) < Number(deaths)) {
      appendFileSync(file, '.');
      process.exit(1);
    }
    return { part: solveJob(job, openRange) };
  },
});
