/** Judges models by samples that nothing was fitted to: how far their outputs are from the float model's. */
import type { Model } from '../graph/model.ts';
import { createErrorMeter } from '../metrics/error.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { remember, take } from '../samples/select.ts';
import { runnableBytes } from './runnable.ts';

/** Samples that judge: more tell little more, and every step takes a run over all of them. */
const most = 64;

/** Outputs of the float model are kept up to this size; more are computed again each time. */
const keptBytes = 64 * 2 ** 20;

export interface Judge {
  /** Signal to noise of all outputs together, in dB; NaN where the float model gave nothing finite. */
  sqnr(model: Model): Promise<number>;
}

export function createJudge(float: Model, heldOut: Samples, runtime: Runtime, threads: number | undefined): Judge {
  const settings = threads ? { threads } : {};
  const samples = remember(take(heldOut, most), keptBytes);
  let kept: Feeds[] | undefined;
  return {
    async sqnr(model) {
      const known = kept;
      const reference = known ? undefined : await runtime.open(runnableBytes(float), settings);
      const session = await runtime.open(runnableBytes(model), settings);
      const meter = createErrorMeter();
      let seen: Feeds[] | undefined = [];
      let bytes = 0;
      try {
        let index = 0;
        for await (const feeds of samples) {
          const x = known?.[index++] ?? ((await reference?.run(feeds)) as Feeds);
          const y = await session.run(feeds);
          for (const name of Object.keys(x)) {
            if (x[name].isFloat && y[name]) meter.add(x[name].floats(), y[name].floats());
            bytes += x[name].byteLength;
          }
          if (bytes > keptBytes) seen = undefined;
          seen?.push(x);
        }
      } finally {
        await reference?.close();
        await session.close();
      }
      kept ??= seen;
      return meter.summary().sqnr;
    },
  };
}
