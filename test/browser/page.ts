/** The page: hands chosen files and a task to its worker and gives back what the worker answers. */
import type { Task } from './flow.ts';
import type { Answer, Question } from './worker.ts';

declare global {
  interface Window {
    /** Has the worker carry out one task on the files that were chosen. */
    ask(task: Task): Promise<Answer>;
  }
}

const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });

const failure = new Promise<never>((_, reject) => {
  worker.onerror = (event) => reject(new Error(`worker: ${event.message} at ${event.filename}:${event.lineno}`));
});
// A failure while nobody asks is told to the next who does.
failure.catch(() => {});

window.ask = (task) => {
  const answer = new Promise<Answer>((resolve) => {
    worker.onmessage = ({ data }: MessageEvent<Answer>) => resolve(data);
  });
  const files = [...(document.querySelector('input')?.files ?? [])];
  worker.postMessage({ files, task } satisfies Question);
  return Promise.race([answer, failure]);
};
