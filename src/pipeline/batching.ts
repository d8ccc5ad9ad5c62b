/** Finds out whether samples may run together: a free leading axis is declared easily, and kept seldom throughout. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Feeds, Runtime, Session } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { batches, take } from '../samples/select.ts';
import { runnableBytes } from './runnable.ts';

/**
 * The samples in batches of `size`, where the model takes them: every input leaves its leading axis free, under one
 * name, and two samples together give outputs of twice the rows. Else the samples one by one.
 */
export async function batchesFor(model: Model, samples: Samples, size: number, runtime: Runtime): Promise<Samples> {
  const leading = model.graph.inputs.filter((input) => !input.tensor).map((input) => input.type?.shape?.[0]);
  const isDeclared = model.graph.inputs.every((input) => input.tensor || (input.type?.shape?.length ?? 0) > 0);
  if (!isDeclared || leading.some((axis) => typeof axis === 'number') || new Set(leading).size > 1) return samples;
  const session = await runtime.open(runnableBytes(model));
  try {
    const single = await firstOf(take(samples, 1));
    const pair = await firstOf(batches(take(samples, 2), 2));
    const rows = (feeds: Feeds) => Object.values(feeds)[0]?.shape[0];
    // A second sample of another shape does not join the first.
    if (!single || !pair || rows(pair) === rows(single)) return batches(samples, size);
    return (await doubles(session, single, pair)) ? batches(samples, size) : samples;
  } finally {
    await session.close();
  }
}

async function firstOf(samples: Samples): Promise<Feeds | undefined> {
  for await (const feeds of samples) return feeds;
  return undefined;
}

async function doubles(session: Session, single: Feeds, pair: Feeds): Promise<boolean> {
  const one = await session.run(single);
  try {
    const two = await session.run(pair);
    return Object.keys(one).every(
      (name) => one[name].shape.length === 0 || two[name].shape[0] === 2 * one[name].shape[0],
    );
  } catch (error) {
    if (error instanceof HalftoneError && error.code === 'runtime') return false;
    throw error;
  }
}

/** How many samples were joined: the size that the leading axes of all inputs have in common, else 1. */
export function batchOf(feeds: Feeds): number {
  const sizes = new Set(Object.values(feeds).map(({ shape }) => shape[0] ?? 1));
  const [size] = sizes;
  return sizes.size === 1 ? Math.max(size, 1) : 1;
}
