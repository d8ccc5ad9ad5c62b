/** Parts of the samples: those that everything is fitted to, and those that judge. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { withMirrorImages } from '../samples/mirror.ts';
import type { Samples } from '../samples/sample.ts';
import { isHeldOut, remember, split, take } from '../samples/select.ts';
import { batchesFor } from './batching.ts';
import { inputsOf } from './inputs.ts';

/** A quarter is held out. */
const holdOutEvery = 4;
/** With fewer samples than this all of them calibrate and compare, which the report says. */
const minSamplesToSplit = 8;
/** Decoded samples are kept up to this size, as 256 pictures of 3·224·224 need it; more are read again in each pass. */
const rememberedBytes = 256 * 2 ** 20;
/** Samples run together where the model's batch axis is free. */
const batchSize = 4;

export interface SampleParts {
  readonly samples: Samples;
  readonly calibration: Samples;
  /** Those that calibrate as they were given: one at a time, without mirror images. */
  readonly singles: Samples;
  readonly heldOut: Samples;
  readonly separate: boolean;
  readonly count: number;
  /** Labels of the held-out samples. */
  labels(all: readonly number[]): readonly number[];
}

export interface PartsOptions {
  /** At most so many samples are read. */
  readonly limit: number;
  /** Whether mirror images calibrate as well. */
  readonly mirror: boolean;
}

/**
 * Splits the samples, and joins those that calibrate to batches where the model takes them.
 * @throws HalftoneError `missing-data` without samples; `usage` where mirror images are wanted and cannot be joined to them.
 */
export async function partsOf(
  samples: Samples,
  { limit, mirror }: PartsOptions,
  model: Model,
  runtime: Runtime,
): Promise<SampleParts> {
  const limited = remember(take(samples, limit), rememberedBytes);
  let count = limited.count;
  if (count === undefined) {
    count = 0;
    for await (const _ of limited) count++;
  }
  if (count === 0) {
    throw new HalftoneError('missing-data', `${samples.description}: expected samples, got none`);
  }
  const batched = async (part: Samples) => {
    const joined = await batchesFor(model, part, batchSize, runtime);
    if (!mirror) return joined;
    if (joined !== part) return withMirrorImages(joined, inputsOf(model));
    throw new HalftoneError(
      'usage',
      'mirror: expected a model that takes several pictures at once, got one that does not',
    );
  };
  if (count < minSamplesToSplit) {
    return {
      samples,
      calibration: await batched(limited),
      singles: limited,
      heldOut: limited,
      separate: false,
      count,
      labels: (all) => all.slice(0, count),
    };
  }
  const { calibration, heldOut } = split(limited, { every: holdOutEvery });
  return {
    samples,
    calibration: await batched(calibration),
    singles: calibration,
    heldOut,
    separate: true,
    count,
    labels: (all) => all.slice(0, count).filter((_, index) => isHeldOut(index, holdOutEvery)),
  };
}
