/**
 * Chooses the codes of layers again so that errors of one weight make up for those of others (GPTQ, Frantar et al. 2022),
 * layer after layer behind the already quantized part: each layer aims at what the float layer makes of the float model's
 * inputs, from the inputs that the quantized model gives it (ALGORITHMS.md §3.6 b).
 */
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { needsWholeTensor, parseScheme, type Scheme } from '../formats/scheme.ts';
import type { LoweringId } from '../lowerings/index.ts';
import { openProducts, type Products } from '../runtime/products.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { compensate, retarget } from '../solvers/gptq.ts';
import { type SolveOptions, solverOf } from '../solvers/index.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import { withBiasRoom } from './bias-room.ts';
import type { LayerTarget } from './correction-targets.ts';
import { collectCrossMoments, collectMoments, type Moments, momentKey } from './moments.ts';
import type { Planning } from './plan.ts';
import type { Simulation } from './simulate.ts';

export interface CompensationOptions {
  /** The float model with its plan, which is not carried out, and its layers, in the order of the simulation's. */
  readonly reference: Planning;
  readonly floatTargets: readonly LayerTarget[];
  /** Scheme of each weight as planned. */
  readonly schemes: ReadonlyMap<string, string>;
  readonly samples: Samples;
  readonly runtime: Runtime;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** Why a weight kept the codes it had, by its name. */
export type Fallbacks = ReadonlyMap<string, string>;

/** Layers whose inputs have more columns than this are left: their moments would not be worth the memory. */
const maxColumns = 8192;

/** How much of the mean diagonal is added where a layer is aimed anew (ALGORITHMS.md §3.6 b). */
const retargetDamping = 0.01;

/** With fewer samples a layer is not aimed anew: that would fit the samples, and not the layer. */
const samplesPerColumn = 4;

export interface Compensator {
  /** Chooses the codes of some layers that do not depend on each other, and puts them into the simulation. */
  run(simulation: Simulation, group: readonly LayerTarget[]): Promise<void>;
  /** Weights that got other codes. */
  readonly changed: number;
  readonly fallbacks: Fallbacks;
  close(): Promise<void>;
}

export function createCompensator(options: CompensationOptions): Compensator {
  const { reference, floatTargets, samples, runtime, threads, signal } = options;
  const { plan } = reference;
  const products = openProducts(runtime, threads ? { threads } : {});
  const integer = new Map(plan.weights.map(({ tensor, quantize }) => [tensor, isInteger(quantize?.lowering)]));
  let changed = 0;
  const fallbacks = new Map<string, string>();
  const own = new Map(floatTargets.map((target) => [keyOf(target), target]));
  return {
    get changed() {
      return changed;
    },
    fallbacks,
    async run(simulation, group) {
      const targets = group.flatMap((target) => {
        const { value, uses, use } = target.weight;
        const refuse = (why: string) => {
          fallbacks.set(value.name, why);
          return [];
        };
        if (uses.length > 1) return refuse('several layers read it');
        if (use.view.columns > maxColumns) return refuse(`its ${use.view.columns} columns are too many`);
        const twin = own.get(keyOf(target));
        return twin ? [{ target, twin }] : refuse('the float model has no such layer');
      });
      const settings = { ...(threads ? { threads } : {}), ...(signal ? { signal } : {}), maxColumns };
      const layers = targets.map(({ twin }) => twin);
      // The noise of quantized activations is nothing that weights could make up for: they would only shrink.
      const moments: Map<string, LayerMoments[]> = simulation.hasFloatActivations
        ? await collectCrossMoments(reference.model, simulation.model, layers, samples, runtime, settings)
        : wrapped(
            await collectMoments(
              simulation.model,
              targets.map(({ target }) => target),
              samples,
              runtime,
              settings,
            ),
          );
      for (const { target, twin } of targets) {
        const { name } = target.weight.value;
        const found = moments.get(momentKey(twin));
        const scheme = options.schemes.get(name);
        if (!found || !scheme || found.some(({ moments: { count } }) => count === 0)) {
          fallbacks.set(name, 'nothing is known of its inputs');
          continue;
        }
        const hasBias = 'bias' in target && target.bias !== undefined;
        const arithmetic = integer.get(name) === true;
        const limits = { reduceRange: arithmetic && plan.recipe.reduceRange, positiveScale: arithmetic };
        const result = await compensateWeight(twin, parseScheme(scheme), found, products, limits, hasBias);
        if (typeof result === 'string') {
          fallbacks.set(name, result);
          continue;
        }
        changed++;
        simulation.replace(target, arithmetic ? withBiasRoom(twin.weight, result, reference) : result);
      }
    },
    close: () => products.close(),
  };
}

/** A recurrent layer has two weights. */
function keyOf({ tensor, weight }: LayerTarget): string {
  return `${tensor}/${weight.value.name}`;
}

/** Of the inputs of some rows, and how they go with those of the float model where the rows are aimed anew. */
interface LayerMoments {
  readonly moments: Moments;
  readonly cross?: Float32Array;
  /** Of the float model's inputs. */
  readonly mean?: Float32Array;
}

function wrapped(found: ReadonlyMap<string, readonly Moments[]>): Map<string, LayerMoments[]> {
  return new Map([...found].map(([name, parts]) => [name, parts.map((moments) => ({ moments }))]));
}

/** Whether scales and codes meet integer arithmetic. */
function isInteger(lowering: LoweringId | undefined): boolean {
  return lowering === 'qdq' || lowering === 'qoperator' || lowering === 'dynamic';
}

/** A weight whose rows are parts with moments of their own. Returns why nothing could be done, where that is so. */
async function compensateWeight(
  { weight }: LayerTarget,
  scheme: Scheme,
  parts: readonly LayerMoments[],
  products: Products,
  limits: Pick<SolveOptions, 'reduceRange' | 'positiveScale'>,
  hasBias: boolean,
): Promise<QuantizedMatrix | string> {
  const { view } = weight.use;
  const { rows, columns } = view;
  if (parts.length > 1 && needsWholeTensor(scheme)) return 'its groups share a scale';
  const values = toMatrix(weight.tensor.floats(), view);
  const height = rows / parts.length;
  const solve = async (own: Scheme): Promise<QuantizedMatrix[] | string> => {
    const solved: QuantizedMatrix[] = [];
    for (const [index, { moments: found, cross, mean }] of parts.entries()) {
      // Where nothing makes up for the mean of the error, it counts as any other part of it.
      const moments = hasBias ? found : { ...found, mean: new Float32Array(columns) };
      const part = values.subarray(index * height * columns, (index + 1) * height * columns);
      const target =
        !cross || weight.use.kind === 'recurrent' || moments.count < samplesPerColumn * columns
          ? part
          : halfWay(
              part,
              await retarget(part, height, columns, cross, moments, retargetDamping, {
                products,
                ...(hasBias && mean ? { mean } : {}),
              }),
            );
      const importance = Float32Array.from({ length: columns }, (_, i) => Math.max(moments.moment[i * columns + i], 0));
      const start = solverOf('search').solve(target, height, columns, own, { ...limits, importance });
      const { matrix, fallback } = await compensate(part, height, columns, start, {
        ...{ moments, target, products },
        reduceRange: limits.reduceRange === true,
      });
      if (fallback) return fallback;
      solved.push(matrix);
    }
    return solved;
  };
  const solved = await solve(scheme);
  if (typeof solved === 'string') return solved;
  if (solved.every((matrix) => matrix.scheme.scaleType === solved[0].scheme.scaleType)) return joined(solved, rows);
  const again = await solve({ ...scheme, scaleType: 'float32' });
  return typeof again === 'string' ? again : joined(again, rows);
}

/**
 * Between the weights and what they are aimed at anew. The whole way would fit the noise of the samples as well, and shrink
 * the signal: resnet20 at 3 bits has 19.9 dB without, 20.1 all the way and 21.0 half way, shakespeare-gpt 27.2, 27.8 and
 * 28.3, mobilenet-v2 at 4 bits 10.5, 10.6 and 11.2 (held-out samples of `npm run bench:stages -- --quick`).
 */
function halfWay(values: Float32Array, aimed: Float32Array): Float32Array {
  return aimed.map((value, index) => (value + values[index]) / 2);
}

/** Matrices of consecutive rows as one. */
function joined(parts: readonly QuantizedMatrix[], rows: number): QuantizedMatrix {
  const [first] = parts;
  if (parts.length === 1) return first;
  const all = <Numbers extends { readonly length: number; set(from: Numbers, at: number): void }>(
    pick: (part: QuantizedMatrix) => Numbers,
    make: (length: number) => Numbers,
  ): Numbers => {
    const result = make(parts.reduce((sum, part) => sum + pick(part).length, 0));
    let at = 0;
    for (const part of parts) {
      result.set(pick(part), at);
      at += pick(part).length;
    }
    return result;
  };
  const floats = (pick: (part: QuantizedMatrix) => Float32Array) => all(pick, (length) => new Float32Array(length));
  const Codes = first.codes.constructor as new (length: number) => QuantizedMatrix['codes'];
  return {
    ...first,
    rows,
    codes: all(
      ({ codes }) => codes,
      (length) => new Codes(length),
    ),
    scales: floats(({ scales }) => scales),
    zeroPoints: floats(({ zeroPoints }) => zeroPoints),
    ...(first.factors ? { factors: floats(({ factors = new Float32Array(0) }) => factors) } : {}),
    ...(first.codebook ? { codebook: floats(({ codebook = new Float32Array(0) }) => codebook) } : {}),
  };
}
