/** What an executor and its workers send each other: jobs there, results or failures back, and a second try for a job. */
import { type ErrorCode, HalftoneError, isHalftoneError, messageOf } from '../base/errors.ts';
import { type OpenRange, type SolvedPart, type SolveJob, solveJob } from '../pipeline/job.ts';

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

/** A message, and the buffers of it that are handed over rather than copied. */
export interface Parcel<T> {
  readonly message: T;
  readonly transfer: ArrayBuffer[];
}

/** How often a job is given out: a worker that dies over it may have died of something else. */
const attempts = 2;

/** Does a job in a worker. */
export function answerTo(job: SolveJob, open: OpenRange): Parcel<Answer> {
  try {
    const part = solveJob(job, open);
    const arrays = Object.values(part).filter((field) => field instanceof Uint8Array);
    return { message: { part }, transfer: arrays.map(({ buffer }) => buffer as ArrayBuffer) };
  } catch (error) {
    const code = isHalftoneError(error) ? error.code : 'internal';
    const fields = isHalftoneError(error) ? error.fields : {};
    return { message: { failure: { code, message: messageOf(error), fields } }, transfer: [] };
  }
}

/** Has a job done by `give`, which rejects when the worker that had it died. @throws as `Executor.solve`. */
export async function solveWith(
  give: (parcel: Parcel<SolveJob>) => PromiseLike<Answer>,
  job: SolveJob,
  signal: AbortSignal | undefined,
): Promise<SolvedPart> {
  let died: unknown;
  for (let attempt = 0; attempt < attempts; attempt++) {
    signal?.throwIfAborted();
    let answer: Answer;
    try {
      answer = await give(parcelOf(job));
    } catch (error) {
      if (isHalftoneError(error)) throw error;
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
      'try again without workers',
    { cause: died, fields: { tensor: job.tensor } },
  );
}

/** Data is copied when it is sent, the whole buffer behind a view too; so only the view's own bytes are, and handed over. */
function parcelOf(job: SolveJob): Parcel<SolveJob> {
  if (!(job.data instanceof Uint8Array)) return { message: job, transfer: [] };
  const data = job.data.slice();
  return { message: { ...job, data }, transfer: [data.buffer] };
}
