/** What a model is fed: named tensors, one sample (or one batch) at a time, as a stream that can be read more than once. */
import type { Feeds } from '../runtime/runtime.ts';

/** A repeatable stream of samples. Each call to `[Symbol.asyncIterator]` starts again from the first sample. */
export interface Samples extends AsyncIterable<Feeds> {
  /** Where the samples come from, for reports and messages: a path, or `random`. */
  readonly description: string;
  /** How many there are, when that is known without reading them. */
  readonly count?: number;
  /** True when the values are made up, so that no statement about accuracy may rest on them. */
  readonly synthetic?: boolean;
}
