/** Judges models by samples: how far their outputs are from the float model's. */
import type { Model } from '../graph/model.ts';
import { createDivergenceMeter } from '../metrics/divergence.ts';
import { createErrorMeter, type ErrorEnergies } from '../metrics/error.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { remember, take } from '../samples/select.ts';
import { classesOf, takesTokens } from './comparable.ts';
import { runnableBytes } from './runnable.ts';

/** Outputs of the float model are kept up to this size; more are computed again each time. */
const keptBytes = 64 * 2 ** 20;

export interface Verdict {
  /**
   * Signal to noise in dB: −20·log10 of the error relative to the signal, in the mean over all runs. Of several outputs each
   * counts the same, whatever its size. A single run with noise of another order, as there is one among some dozen of most
   * networks, would decide alone where noise were summed up. NaN where the float model gave nothing finite.
   */
  readonly sqnr: number;
  /**
   * The less, the better: the mean divergence of the classes of the first output, in nats, or where that has none, noise
   * relative to the signal.
   */
  readonly divergence: number;
}

export type Judge = (model: Model) => Promise<Verdict>;

/** @param most so many runs judge at most: more tell little more */
export function createJudge(
  float: Model,
  runs: Samples,
  runtime: Runtime,
  { most = 256, threads }: { readonly most?: number; readonly threads?: number } = {},
): Judge {
  const settings = threads ? { threads } : {};
  const samples = remember(take(runs, most), keptBytes);
  const tokens = takesTokens(float);
  const main = float.graph.outputs[0]?.name ?? '';
  let kept: Feeds[] | undefined;
  return async (model) => {
    const known = kept;
    const reference = known ? undefined : await runtime.open(runnableBytes(float), settings);
    const session = await runtime.open(runnableBytes(model), settings);
    const energies = new Map<string, ErrorEnergies[]>();
    const divergence = createDivergenceMeter();
    let seen: Feeds[] | undefined = [];
    let bytes = 0;
    try {
      let index = 0;
      for await (const feeds of samples) {
        const x = known?.[index++] ?? ((await reference?.run(feeds)) as Feeds);
        const y = await session.run(feeds);
        for (const name of Object.keys(x)) {
          if (x[name].isFloat && y[name]) {
            const known = energies.get(name) ?? [];
            energies.set(name, known);
            const meter = createErrorMeter();
            meter.add(x[name].floats(), y[name].floats());
            known.push(meter.energies());
          }
          bytes += x[name].byteLength;
        }
        const classes = classesOf(x[main], tokens);
        if (classes !== undefined && y[main]) divergence.add(x[main].floats(), y[main].floats(), classes);
        if (bytes > keptBytes) seen = undefined;
        seen?.push(x);
      }
    } finally {
      await reference?.close();
      await session.close();
    }
    kept ??= seen;
    const sqnr = sqnrOf([...energies.values()]);
    const nats = divergence.mean();
    return { sqnr, divergence: Number.isNaN(nats) ? 10 ** (-sqnr / 10) : nats };
  };
}

/** What is nearly silent counts as if it had this share of the energy that runs have in the mean. */
const leastShare = 0.01;

/** @param outputs for each the runs, as many for all */
function sqnrOf(outputs: readonly (readonly ErrorEnergies[])[]): number {
  const noises = outputs.flatMap((runs) => {
    const known = runs.filter(({ count, nonFinite }) => count + nonFinite > 0);
    const least = (leastShare * known.reduce((sum, { signal }) => sum + signal, 0)) / known.length;
    // What is zero in the float model has no size to compare its noise with.
    if (!(least > 0) && known.every(({ nonFinite }) => nonFinite === 0)) return [];
    return [
      runs.map(({ signal, noise, count, nonFinite }) => {
        if (nonFinite > 0) return Number.POSITIVE_INFINITY;
        return count > 0 ? noise / Math.max(signal, least) : Number.NaN;
      }),
    ];
  });
  const errors: number[] = [];
  for (let run = 0; run < (noises[0]?.length ?? 0); run++) {
    const known = noises.map((runs) => runs[run]).filter((noise) => !Number.isNaN(noise));
    if (known.length > 0) errors.push(Math.sqrt(known.reduce((sum, noise) => sum + noise, 0) / known.length));
  }
  return -20 * Math.log10(errors.reduce((sum, error) => sum + error, 0) / errors.length);
}
