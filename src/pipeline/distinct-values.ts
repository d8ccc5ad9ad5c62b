/** Which numbers occur in each channel of model inputs, as long as they are few. */
import { mostValues } from '../equalization/input-grid.ts';
import type { Value } from '../graph/value.ts';
import type { Samples } from '../samples/sample.ts';
import type { ChannelLayout } from '../statistics/index.ts';
import { channelLayout } from './calibrate.ts';

/**
 * @param inputs with channels on axis 1
 * @returns for each input the numbers of each channel; inputs with more than 256 in one of them, or another number of
 * channels, are left out
 */
export async function distinctValues(
  inputs: readonly { readonly input: Value; readonly channels: number }[],
  samples: Samples,
  signal: AbortSignal | undefined,
): Promise<Map<string, ReadonlySet<number>[]>> {
  const found = new Map(
    inputs.map(({ input, channels }) => [input.name, Array.from({ length: channels }, () => new Set<number>())]),
  );
  for await (const feeds of samples) {
    signal?.throwIfAborted();
    for (const [name, sets] of found) {
      const tensor = feeds[name];
      const layout = tensor && channelLayout(tensor, 1);
      if (layout?.channels !== sets.length) {
        found.delete(name);
        continue;
      }
      if (!collect(tensor.floats(), layout, sets)) found.delete(name);
    }
    if (found.size === 0) break;
  }
  return found;
}

/** False as soon as a channel has too many. */
function collect(values: Float32Array, { outer, inner }: ChannelLayout, sets: readonly Set<number>[]): boolean {
  for (let row = 0, index = 0; row < outer; row++) {
    for (const set of sets) {
      let last = Number.NaN;
      for (const end = index + inner; index < end; index++) {
        if (values[index] === last) continue;
        last = values[index];
        set.add(last);
        if (set.size > mostValues) return false;
      }
    }
  }
  return true;
}
