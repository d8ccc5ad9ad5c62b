/**
 * What the outputs of the float model make of errors of its weights, by moments of gradients: taken of a few layers at a
 * time, in the order of their turn, so that memory stays bounded.
 */
import type { Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { split } from '../samples/select.ts';
import { mixedMoments } from '../solvers/curvature.ts';
import { slicesOf } from './calibrate.ts';
import { type CorrectionTarget, type LayerTarget, layerKey, presentBias, setBias } from './correction-targets.ts';
import { type GradientMoments, gradientMoments, type Place } from './gradient-moments.ts';
import { momentBytes } from './moment-sums.ts';
import { collectMoments, momentKey } from './moments.ts';
import type { Planning } from './plan.ts';
import { orWhyNot } from './why-not.ts';

export interface CouplingsOptions {
  /** The float model, whose layers get biases of zeros where they have none. */
  readonly reference: Planning;
  /** Its layers, in the order of their turn. */
  readonly targets: readonly LayerTarget[];
  /** One at a time. */
  readonly samples: Samples;
  readonly runtime: Runtime;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** What is known of errors of one weight. */
export interface Coupling {
  /** Of most samples, of those that choose, and of all. */
  readonly fitted: GradientMoments;
  readonly checked: GradientMoments;
  readonly all: GradientMoments;
}

export interface Couplings {
  /** Why nothing can be known of a layer, as far as can be told without asking. */
  refusal(target: LayerTarget): string | undefined;
  /** What is known of a layer's weight, or of what an embedding gives; or why nothing is. */
  of(target: LayerTarget): Promise<Coupling | string>;
}

/** More rows or columns than this are not worth the memory. */
const longest = 4096;
/** Bytes of moments and gradients of the layers that are done together. */
const sliceBytes = 256 * 2 ** 20;
/** Gradients that choose; thrice as many are fitted to. */
const checkRuns = 64;
/** Rows of each sample that tell the means of a layer's inputs. */
const rowsOfMeans = 64;

export function createCouplings(options: CouplingsOptions): Couplings {
  const { reference, samples, runtime, threads, signal } = options;
  const shared = { ...(threads ? { threads } : {}), ...(signal ? { signal } : {}) };
  const known = new Map<string, LayerTarget>();
  for (const target of options.targets) if (refusal(target) === undefined) known.set(layerKey(target), target);
  const bytes = [...known].map(([key, { weight }]) => {
    const { rows, columns } = weight.use.view;
    const ofRows = weight.use.kind === 'embedding' ? 0 : momentBytes(rows) + 8 * weight.tensor.size;
    return [key, momentBytes(columns) + ofRows] as const;
  });
  const slices = slicesOf([...known.keys()], new Map(bytes), sliceBytes);
  let current:
    | { readonly slice: readonly string[]; readonly found: ReadonlyMap<string, Omit<Coupling, 'all'>> }
    | undefined;
  let failure: string | undefined;

  const collect = async (slice: readonly string[]): Promise<Map<string, Omit<Coupling, 'all'>> | string> => {
    const targets = slice.map((key) => known.get(key) as LayerTarget);
    const layers = targets.filter(isLayer);
    const means = await collectMoments(
      reference.model,
      layers.filter(({ bias }) => bias),
      samples,
      runtime,
      { ...shared, rowsPerSample: rowsOfMeans },
    );
    const places = targets.map((target): Place => {
      const { tensor, view } = { tensor: target.weight.tensor, view: target.weight.use.view };
      if (!isLayer(target)) return { tensor: target.tensor, columns: view.columns };
      const place = { tensor: target.weight.value.name, values: tensor, view };
      const mean = means.get(momentKey(target))?.[0]?.mean;
      if (!target.bias || !mean) return place;
      setBias(
        target,
        Float32Array.from({ length: target.channels }, (_, channel) => presentBias(target)(channel)),
      );
      const bias = target.bias.node.inputs[target.bias.input];
      return bias?.tensor ? { ...place, bias: { tensor: bias.name, values: bias.tensor, mean } } : place;
    });
    const { calibration, heldOut } = split(samples);
    const fitted = await gradientMoments(reference.model, places, calibration, runtime, {
      ...shared,
      runs: 3 * checkRuns,
    });
    if (typeof fitted === 'string') return fitted;
    const checked = await gradientMoments(reference.model, places, heldOut, runtime, {
      ...shared,
      runs: checkRuns,
      seed: 1,
    });
    if (typeof checked === 'string') return checked;
    return new Map(
      slice.flatMap((key, index) => {
        const [own, other] = [fitted, checked].map((moments) => moments.get(places[index].tensor));
        return own && other ? [[key, { fitted: own, checked: other }] as const] : [];
      }),
    );
  };

  return {
    refusal: (target) => failure ?? refusal(target),
    async of(target) {
      const key = layerKey(target);
      if (failure !== undefined) return failure;
      if (!known.has(key)) return refusal(target) ?? 'it is no layer of the model';
      if (!current?.slice.includes(key)) {
        const slice = slices.find((names) => names.includes(key)) as readonly string[];
        current = undefined;
        const found = await orWhyNot(() => collect(slice));
        if (typeof found === 'string') {
          failure = found;
          return found;
        }
        current = { slice, found };
      }
      const found = current.found.get(key);
      return found ? { ...found, all: bothOf(found) } : 'nothing is known of its influence';
    },
  };
}

function isLayer(target: LayerTarget): target is CorrectionTarget {
  return 'bias' in target;
}

/** Why there are no moments of a layer that are worth having. */
function refusal({ weight, node, ...target }: LayerTarget): string | undefined {
  const { kind, view } = weight.use;
  if (weight.uses.length > 1) return 'several layers read it';
  if (Math.max(view.columns, kind === 'embedding' ? 0 : view.rows) > longest) return 'it is too large';
  if (kind === 'embedding') return undefined;
  if (!('bias' in target) || node.int('group', 1) > 1) return 'its rows meet different inputs';
  return weight.tensor.dtype === 'float32' ? undefined : `it is of ${weight.tensor.dtype}`;
}

function bothOf({ fitted, checked }: Omit<Coupling, 'all'>): GradientMoments {
  const rows = fitted.rows && checked.rows && mixedMoments(fitted.rows, checked.rows);
  return { columns: mixedMoments(fitted.columns, checked.columns), ...(rows ? { rows } : {}) };
}
