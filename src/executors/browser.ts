/** Jobs on Web Workers. */
import { HalftoneError } from '../base/errors.ts';
import type { Executor } from '../pipeline/executor.ts';
import type { SolveJob } from '../pipeline/job.ts';
import { type Answer, type Parcel, solveWith } from './exchange.ts';

export interface WorkersOptions {
  /** Address of the bundled `halftone/worker`, a module, or a function that starts a worker of it. */
  readonly script: string | URL | (() => Worker);
  /** Default: one a core, at most 8. */
  readonly workers?: number;
}

/** More workers than this wait for the disk rather than for each other. */
const mostWorkers = 8;

/** Room for one worker, which is started when there is work for it. */
interface Place {
  worker?: Worker;
  /** Ends what is waited for. */
  fail?: (reason: unknown) => void;
}

/**
 * An executor that quantizes weights on Web Workers, for `quantizeModel`. Also from within a worker, where halftone itself
 * has to run to read Files. It can serve any number of runs; its workers end with `close`.
 *
 * ```ts
 * // The file is `import 'halftone/worker';` and nothing else. Bundlers know this form and bundle it, too.
 * const script = () => new Worker(new URL('./weights.js', import.meta.url), { type: 'module' });
 * const executor = openExecutor({ script });
 * try {
 *   await quantizeModel(model, { weights: 'int4', executor }, runtime);
 * } finally {
 *   await executor.close();
 * }
 * ```
 * @throws HalftoneError `usage` when `workers` is no number of workers.
 */
export function openExecutor({ script, workers = defaultWorkers() }: WorkersOptions): Executor {
  if (!Number.isInteger(workers) || workers < 1) {
    throw new HalftoneError('usage', `workers: expected a whole number from 1 on, got ${workers}`);
  }
  const start = typeof script === 'function' ? script : () => new Worker(script, { type: 'module' });
  const places = Array.from({ length: workers }, (): Place => ({}));
  // The last one that was left is taken first: it has a worker.
  const free = [...places];
  const waiting: ((place: Place) => void)[] = [];
  let isOpen = true;

  const take = async () => free.pop() ?? new Promise<Place>((resolve) => waiting.push(resolve));
  const leave = (place: Place) => {
    const next = waiting.shift();
    if (next) next(place);
    else free.push(place);
  };

  async function give({ message, transfer }: Parcel<SolveJob>): Promise<Answer> {
    const place = await take();
    try {
      if (!isOpen) throw closed();
      if (!place.worker) {
        place.worker = start();
        await nextMessage(place, place.worker, 'a script that cannot be loaded');
      }
      const answer = nextMessage<Answer>(place, place.worker, 'an error of its own');
      place.worker.postMessage(message, transfer);
      return await answer;
    } catch (error) {
      place.worker?.terminate();
      delete place.worker;
      throw error;
    } finally {
      delete place.fail;
      leave(place);
    }
  }

  return {
    workers,
    solve: (job, signal) => solveWith(give, job, signal),
    async close() {
      isOpen = false;
      for (const { worker, fail } of places) {
        worker?.terminate();
        fail?.(closed());
      }
    },
  };
}

function defaultWorkers(): number {
  return Math.min(navigator.hardwareConcurrency, mostWorkers);
}

function closed(): HalftoneError {
  return new HalftoneError('usage', 'executor: expected it to be open while it has work, got closed; open another one');
}

/** What a worker says next. Rejects when it fails, for `reason` where the browser does not tell. */
function nextMessage<T>(place: Place, worker: Worker, reason: string): Promise<T> {
  return new Promise((resolve, reject) => {
    place.fail = reject;
    worker.onmessage = ({ data }: MessageEvent<T>) => resolve(data);
    worker.onmessageerror = () => reject(new Error('an answer that cannot be read'));
    worker.onerror = (event) => {
      // Otherwise it counts as an error of the page, too.
      event.preventDefault();
      reject(new Error(event.message || reason));
    };
  });
}
