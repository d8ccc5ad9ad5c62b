/** Who gets which job, and what becomes of it when workers fail or end. Real workers: `test/browser`. */
import { describe, expect, it, vi } from 'vitest';
import { type OpenRange, type SolveJob, solveJob } from '../pipeline/job.ts';
import { bytesOf } from '../tensor/tensor.ts';
import { openExecutor } from './browser.ts';
import { type Answer, answerTo } from './exchange.ts';

const nothing: OpenRange = () => {
  throw new Error('no file');
};

const job: SolveJob = {
  tensor: 'w',
  dtype: 'float32',
  shape: [2, 4],
  data: bytesOf(Float32Array.from({ length: 8 }, (_, index) => Math.sin(index))),
  rowAxes: [0],
  rows: [0, 2],
  solver: 'rtn',
  scheme: 'int8:channel:sym',
  options: { range: 'min-max' },
};

/** Workers that keep what they are asked until `answer` or `fail` is called. */
class PretendedWorker {
  static all: PretendedWorker[] = [];
  onmessage?: (event: { data: unknown }) => void;
  onerror?: (event: { message: string; preventDefault(): void }) => void;
  asked: SolveJob[] = [];
  transferred: unknown[] = [];
  isTerminated = false;

  constructor() {
    PretendedWorker.all.push(this);
    setTimeout(() => this.onmessage?.({ data: 'ready' }), 0);
  }

  postMessage(message: SolveJob, transfer: unknown[]): void {
    this.asked.push(message);
    this.transferred.push(...transfer);
  }

  answer(): void {
    const [next] = this.asked.splice(0, 1);
    this.onmessage?.({ data: answerTo(next, nothing).message });
  }

  fail(message = ''): { prevented: boolean } {
    const seen = { prevented: false };
    this.asked = [];
    this.onerror?.({ message, preventDefault: () => Object.assign(seen, { prevented: true }) });
    return seen;
  }

  terminate(): void {
    this.isTerminated = true;
  }
}

function open(workers: number) {
  PretendedWorker.all = [];
  return openExecutor({ workers, script: () => new PretendedWorker() as unknown as Worker });
}

/** The worker that has a job, once there is one. */
async function busy(index: number): Promise<PretendedWorker> {
  await vi.waitFor(() => expect(PretendedWorker.all[index]?.asked).toHaveLength(1), { interval: 1 });
  return PretendedWorker.all[index];
}

describe('workers', () => {
  it('are started when there is work, each does one job at a time, and all serve again', async () => {
    const executor = open(2);
    expect(PretendedWorker.all).toHaveLength(0);
    const results = [1, 2, 3].map(() => executor.solve(job));
    const [first, second] = [await busy(0), await busy(1)];
    first.answer();
    expect(await results[0]).toEqual(solveJob(job, nothing));
    await busy(0);
    second.answer();
    first.answer();
    await Promise.all(results);
    const again = executor.solve(job);
    await vi.waitFor(() => expect(first.asked.length + second.asked.length).toBe(1));
    for (const worker of [first, second]) if (worker.asked.length > 0) worker.answer();
    await again;
    expect(PretendedWorker.all).toHaveLength(2);
  });

  it('get only the bytes of the job, to keep', async () => {
    const executor = open(1);
    const larger = new Uint8Array(1000);
    larger.set(job.data as Uint8Array, 100);
    const result = executor.solve({ ...job, data: larger.subarray(100, 132) });
    const worker = await busy(0);
    expect(worker.transferred).toEqual([(worker.asked[0].data as Uint8Array).buffer]);
    expect((worker.asked[0].data as Uint8Array).buffer.byteLength).toBe(32);
    worker.answer();
    expect(await result).toEqual(solveJob(job, nothing));
    expect(larger.byteLength).toBe(1000);
  });

  it('that fail are replaced, once for a job, and trouble the page no further', async () => {
    const executor = open(1);
    const result = executor.solve(job);
    expect((await busy(0)).fail('out of luck').prevented).toBe(true);
    (await busy(1)).answer();
    await result;
    const failing = executor.solve(job);
    failing.catch(() => {});
    (await busy(1)).fail('one');
    (await busy(2)).fail('two');
    await expect(failing).rejects.toMatchObject({ code: 'runtime', message: expect.stringContaining('(two)') });
    expect(PretendedWorker.all.map(({ isTerminated }) => isTerminated)).toEqual([true, true, true]);
  });

  it('report what is wrong with a job', async () => {
    const executor = open(1);
    const result = executor.solve({ ...job, scheme: 'int99' });
    (await busy(0)).answer();
    await expect(result).rejects.toMatchObject({ code: 'usage' });
    expect(PretendedWorker.all).toHaveLength(1);
  });

  it('end when the executor is closed, and so does their work', async () => {
    const executor = open(1);
    const results = [executor.solve(job), executor.solve(job)];
    const worker = await busy(0);
    await executor.close();
    for (const result of results) await expect(result).rejects.toMatchObject({ code: 'usage' });
    await expect(executor.solve(job)).rejects.toMatchObject({ code: 'usage' });
    expect(worker.isTerminated).toBe(true);
    expect(PretendedWorker.all).toHaveLength(1);
  });

  it('are not asked once the signal is aborted', async () => {
    const executor = open(1);
    await expect(executor.solve(job, AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough');
    expect(PretendedWorker.all).toHaveLength(0);
  });
});

it('a worker answers jobs, also those that it cannot read', async () => {
  const said: Answer[] = [];
  const scope = { postMessage: (message: Answer) => said.push(message) } as unknown as typeof self;
  vi.stubGlobal('self', scope);
  try {
    await import('./worker-browser.ts');
    scope.onmessage?.({ data: job } as MessageEvent);
    scope.onmessageerror?.({} as MessageEvent);
  } finally {
    vi.unstubAllGlobals();
  }
  expect(said).toEqual([
    'ready',
    { part: solveJob(job, nothing) },
    { failure: { code: 'runtime', message: expect.stringContaining('cannot read'), fields: {} } },
  ]);
});

it.each([0, -1, 1.5, Number.NaN])('%j workers are refused', (workers) => {
  expect(() => open(workers)).toThrow(/workers: expected a whole number from 1 on/);
});
