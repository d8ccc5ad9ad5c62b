/** Measures a model on the test images: how many it gets right, and how long one image takes beside the float model. */
import { writeOnnx } from '../../files/onnx/write.ts';
import type { Model } from '../../graph/model.ts';
import { topClasses } from '../../metrics/top-k.ts';
import type { Runtime, Session } from '../../runtime/runtime.ts';
import type { Digits } from './digits.ts';
import { classes, imageName, scoresName } from './network.ts';

/** Images that run together when only the answers count. */
const batch = 100;
const warmUps = 5;

/** The digits that the network sees in test images `start` … `start + length`. */
export async function classify(session: Session, digits: Digits, start: number, length: number): Promise<number[]> {
  const result = await session.run({ [imageName]: digits.test.batch(start, length) });
  const scores = result[scoresName].floats();
  return Array.from({ length }, (_, row) => topClasses(scores, row * classes, classes, 1)[0]);
}

/** The share of all test images that the network gets right. */
export async function accuracyOf(session: Session, digits: Digits, signal: AbortSignal): Promise<number> {
  let right = 0;
  for (let start = 0; start < digits.test.count; start += batch) {
    signal.throwIfAborted();
    const length = Math.min(batch, digits.test.count - start);
    const found = await classify(session, digits, start, length);
    right += found.filter((digit, row) => digit === digits.labels[start + row]).length;
  }
  return right / digits.test.count;
}

/** Opens a model for as long as `use` takes. */
export async function withSession<T>(
  model: Model,
  runtime: Runtime,
  use: (session: Session) => Promise<T>,
): Promise<T> {
  const session = await runtime.open(writeOnnx(model));
  try {
    return await use(session);
  } finally {
    await session.close();
  }
}

/** Median milliseconds for one image of each session, run in turns so that all meet the same conditions. */
export async function latencies(
  sessions: readonly Session[],
  digits: Digits,
  runs: number,
  clock: () => number,
  signal: AbortSignal,
): Promise<number[]> {
  const times: number[][] = sessions.map(() => []);
  for (let run = -warmUps; run < runs; run++) {
    signal.throwIfAborted();
    const feeds = { [imageName]: digits.test.batch((run + warmUps) % digits.test.count, 1) };
    for (let turn = 0; turn < sessions.length; turn++) {
      // Another one begins each round: the first meets a colder cache.
      const index = (turn + run + warmUps) % sessions.length;
      const start = clock();
      await sessions[index].run(feeds);
      if (run >= 0) times[index].push(clock() - start);
    }
  }
  return times.map((list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)]);
}
