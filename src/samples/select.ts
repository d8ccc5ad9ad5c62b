/** Parts of a sample stream: the first few, a held-out share, batches. */
import { HalftoneError } from '../base/errors.ts';
import type { Feeds } from '../runtime/runtime.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { concatenated } from './arrays.ts';
import type { Samples } from './sample.ts';

/** The samples whose index passes, in order; iteration ends after `limit` of the source. */
function filtered(samples: Samples, keep: (index: number) => boolean, limit: number): Samples {
  const { count, names } = samples;
  const known = count === undefined ? undefined : Math.min(count, limit);
  const indices = known === undefined ? undefined : Array.from({ length: known }, (_, i) => i).filter(keep);
  return {
    ...samples,
    ...(indices ? { count: indices.length } : {}),
    ...(names && indices ? { names: indices.map((i) => names[i]) } : {}),
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      if (limit === 0) return;
      let index = 0;
      for await (const sample of samples) {
        if (keep(index)) yield sample;
        index += 1;
        if (index >= limit) return;
      }
    },
  };
}

/**
 * The first `n` samples, fewer where there are fewer.
 * @throws HalftoneError `usage` when `n` is no whole number from 0.
 */
export function take(samples: Samples, n: number): Samples {
  if (!Number.isInteger(n) || n < 0) throw new HalftoneError('usage', `take: expected a whole number from 0, got ${n}`);
  return filtered(samples, () => true, n);
}

export interface Split {
  readonly calibration: Samples;
  readonly heldOut: Samples;
}

/** True for the samples that `split` holds out: the last of every `every`. Apply it to labels, too. */
export function isHeldOut(index: number, every = 4): boolean {
  return index % every === every - 1;
}

/**
 * Holds out every `every`-th sample for evaluation (indices 3, 7, 11 … by default); the others calibrate.
 * @param options.every default 4
 * @throws HalftoneError `usage` when `every` is no whole number from 2.
 */
export function split(samples: Samples, options: { every?: number } = {}): Split {
  const { every = 4 } = options;
  if (!Number.isInteger(every) || every < 2) {
    throw new HalftoneError('usage', `split: expected a whole number from 2, got ${every}`);
  }
  const all = Number.POSITIVE_INFINITY;
  return {
    calibration: filtered(samples, (index) => !isHeldOut(index, every), all),
    heldOut: filtered(samples, (index) => isHeldOut(index, every), all),
  };
}

/**
 * Joins up to `size` consecutive samples along axis 0. A sample whose shapes (beyond axis 0) differ from those before it
 * starts a new batch; samples with a scalar input stay alone. Names are dropped, as a batch has several.
 * @throws HalftoneError `usage` when `size` is no whole number from 1.
 */
export function batches(samples: Samples, size: number): Samples {
  if (!Number.isInteger(size) || size < 1) {
    throw new HalftoneError('usage', `batches: expected a whole number from 1, got ${size}`);
  }
  if (size === 1) return samples;
  const { description, synthetic, ignored } = samples;
  return {
    description,
    ...(synthetic === undefined ? {} : { synthetic }),
    ...(ignored === undefined ? {} : { ignored }),
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      let pending: Feeds[] = [];
      for await (const sample of samples) {
        if (pending.length === size || (pending.length > 0 && !joins(pending[0], sample))) {
          yield joined(pending);
          pending = [];
        }
        pending.push(sample);
      }
      if (pending.length > 0) yield joined(pending);
    },
  };
}

function joins(a: Feeds, b: Feeds): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => b[name] && sameRows(a[name], b[name]));
}

function sameRows(a: Tensor, b: Tensor): boolean {
  return (
    a.dtype === b.dtype &&
    a.shape.length > 0 &&
    a.shape.length === b.shape.length &&
    a.shape.every((dimension, axis) => axis === 0 || dimension === b.shape[axis])
  );
}

function joined(samples: readonly Feeds[]): Feeds {
  if (samples.length === 1) return samples[0];
  const batch: Record<string, Tensor> = Object.create(null);
  for (const name of Object.keys(samples[0])) batch[name] = concatenated(samples.map((sample) => sample[name]));
  return batch;
}

/**
 * The same samples, kept while they take at most `maxBytes` together, so that reading them again costs no decoding.
 * Beyond that every iteration goes to the source.
 */
export function remember(samples: Samples, maxBytes: number): Samples {
  let kept: Feeds[] | undefined;
  return {
    ...samples,
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      if (kept) {
        yield* kept;
        return;
      }
      let seen: Feeds[] | undefined = [];
      let bytes = 0;
      for await (const feeds of samples) {
        for (const tensor of Object.values(feeds)) bytes += tensor.byteLength;
        if (bytes > maxBytes) seen = undefined;
        seen?.push(feeds);
        yield feeds;
      }
      kept = seen;
    },
  };
}
