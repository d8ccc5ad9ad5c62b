/** Finds out which inputs hold NaN or infinite values, while samples are read for something else. */
import type { Feeds } from '../runtime/runtime.ts';
import type { Samples } from './sample.ts';

export interface Watched {
  readonly samples: Samples;
  /** How many samples read so far hold such values, by input. */
  nonFinite(): ReadonlyMap<string, number>;
}

/** The same samples, watched. Samples that are read again count once. */
export function watchFinite(samples: Samples): Watched {
  const found = new Map<string, number>();
  let seen = 0;
  return {
    samples: {
      ...samples,
      async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
        let index = 0;
        for await (const feeds of samples) {
          if (index >= seen) {
            seen = index + 1;
            for (const [name, tensor] of Object.entries(feeds)) {
              if (!tensor.isFloat || tensor.floats().every(Number.isFinite)) continue;
              found.set(name, (found.get(name) ?? 0) + 1);
            }
          }
          index++;
          yield feeds;
        }
      },
    },
    nonFinite: () => found,
  };
}
