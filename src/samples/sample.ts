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
  /** One name a sample, where each has its own: the path of an image inside its folder. Labels are matched by it. */
  readonly names?: readonly string[];
  /** What in the data was left unused, in words fit for a message: arrays that are no model input, an incomplete batch. */
  readonly ignored?: readonly string[];
}
