/**
 * Chooses the codes of layers again so that errors of one weight make up for those of others (GPTQ, Frantar et al. 2022),
 * layer after layer behind the already quantized part: each layer aims at what the float layer makes of the float model's
 * inputs, from the inputs that the quantized model gives it (ALGORITHMS.md §3.6 b).
 */
import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import { computesInIntegers } from '../lowerings/index.ts';
import { openProducts } from '../runtime/products.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { split } from '../samples/select.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import { type AimedRows, mixedCrossMoments } from './aim.ts';
import { withBiasRoom } from './bias-room.ts';
import { changingNodes, type Way } from './correction.ts';
import { type LayerTarget, layerKey } from './correction-targets.ts';
import { createCouplings } from './couplings.ts';
import { type CrossMoments, collectCrossMoments, momentKey } from './moments.ts';
import type { Planning } from './plan.ts';
import { Prefix } from './prefix.ts';
import type { Simulation } from './simulate.ts';
import { codesOf, compensateWeight } from './weight-codes.ts';

export interface CompensationOptions {
  /** The float model with its plan, which is not carried out, and its layers, in the order of the simulation's. */
  readonly reference: Planning;
  readonly floatTargets: readonly LayerTarget[];
  /** Scheme of each weight as planned. */
  readonly schemes: ReadonlyMap<string, string>;
  /** Whether rows make up for each other's errors, too, by what the outputs of the model see of them. */
  readonly isCoupled: boolean;
  /** What gradients are taken of: the samples one at a time. */
  readonly singles: Samples;
  readonly runtime: Runtime;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** Why a weight kept the codes it had, by its name. */
export type Fallbacks = ReadonlyMap<string, string>;

/** Layers whose inputs have more columns than this are left: their moments would not be worth the memory. */
const maxColumns = 8192;

export interface Compensator {
  /** Chooses the codes of some layers that do not depend on each other, and puts them into the simulation. */
  run(simulation: Simulation, group: readonly LayerTarget[], way: Way): Promise<void>;
  /** The same for embeddings, by what the float model's outputs make of their errors. Before all layers. */
  runEmbeddings(simulation: Simulation, embeddings: readonly LayerTarget[]): Promise<void>;
  /** Weights that got other codes. */
  readonly changed: number;
  readonly fallbacks: Fallbacks;
  close(): Promise<void>;
}

export function createCompensator(options: CompensationOptions): Compensator {
  const { reference, floatTargets, singles, runtime, threads, signal } = options;
  const { plan } = reference;
  const products = openProducts(runtime, threads ? { threads } : {});
  const integer = new Map(
    plan.weights.map(({ tensor, quantize }) => [
      tensor,
      quantize !== undefined && computesInIntegers(quantize.lowering),
    ]),
  );
  let changed = 0;
  const fallbacks = new Map<string, string>();
  const own = new Map(floatTargets.map((target) => [layerKey(target), target]));
  let float: Prefix | undefined;
  const shared = { ...(threads ? { threads } : {}), ...(signal ? { signal } : {}) };
  const seen = floatTargets.filter(({ weight }) => (weight.use.kind === 'embedding') !== options.isCoupled);
  const couplings = createCouplings({ reference, targets: seen, samples: singles, runtime, ...shared });
  const withTwins = (group: readonly LayerTarget[]) =>
    group.flatMap((target) => {
      const { value, uses, use } = target.weight;
      const refuse = (why: string) => {
        fallbacks.set(value.name, why);
        return [];
      };
      if (uses.length > 1) return refuse('several layers read it');
      if (use.view.columns > maxColumns) return refuse(`its ${use.view.columns} columns are too many`);
      const twin = own.get(layerKey(target));
      const scheme = options.schemes.get(value.name);
      if (!twin || scheme === undefined) return refuse('the float model has no such layer');
      const why = options.isCoupled ? couplings.refusal(twin) : undefined;
      return why === undefined ? [{ target, twin, scheme: parseScheme(scheme) }] : refuse(why);
    });
  /** @param result codes, or why there are none */
  const put = (simulation: Simulation, target: LayerTarget, result: QuantizedMatrix | string) => {
    if (typeof result === 'string') {
      fallbacks.set(target.weight.value.name, result);
      return;
    }
    changed++;
    simulation.replace(target, result);
  };
  return {
    get changed() {
      return changed;
    },
    fallbacks,
    async run(simulation, group, { prefix, pending }) {
      const targets = withTwins(group);
      if (targets.length === 0) return;
      float ??= new Prefix(reference.model, prefix.samples, { runtime, ...shared });
      await float.advance(new Set(floatTargets.filter(({ tensor }) => pending.has(tensor)).flatMap(changingNodes)));
      const prefixes = new Map([
        [reference.model, float],
        [simulation.model, prefix],
      ]);
      const settings = { ...shared, prefixes, maxColumns };
      const layers = targets.map(({ twin }) => twin);
      const momentsOf = (some: Samples) =>
        collectCrossMoments(reference.model, simulation.model, layers, some, runtime, settings);
      const { calibration, heldOut } = split(prefix.samples);
      const [fitted, checked] = [await momentsOf(calibration), await momentsOf(heldOut)];
      for (const { target, twin, scheme } of targets) {
        const { name } = target.weight.value;
        const found = partsOf(twin, fitted.get(momentKey(twin)), checked.get(momentKey(twin)));
        if (!found || found.some(({ all }) => all.moments.count === 0)) {
          fallbacks.set(name, 'nothing is known of its inputs');
          continue;
        }
        const hasBias = 'bias' in target && target.bias !== undefined;
        const arithmetic = integer.get(name) === true;
        const limits = { reduceRange: arithmetic && plan.recipe.reduceRange, positiveScale: arithmetic };
        const coupling = options.isCoupled ? await couplings.of(twin) : undefined;
        if (typeof coupling === 'string') {
          fallbacks.set(name, coupling);
          continue;
        }
        const settings = { ...limits, ...(coupling ? { coupling } : {}) };
        const result = await compensateWeight(twin, scheme, found, products, settings, hasBias);
        const hasRoom = typeof result !== 'string' && arithmetic;
        put(simulation, target, hasRoom ? withBiasRoom(twin.weight, result, reference) : result);
      }
    },
    async runEmbeddings(simulation, embeddings) {
      for (const { target, twin, scheme } of withTwins(embeddings)) {
        if (formatOf(scheme.format).bits >= 8) {
          put(simulation, target, 'at 8 bits the nearest codes of an embedding do');
          continue;
        }
        const found = await couplings.of(twin);
        if (typeof found === 'string') {
          put(simulation, target, found);
          continue;
        }
        const { rows, columns } = twin.weight.use.view;
        const values = toMatrix(twin.weight.tensor.floats(), twin.weight.use.view);
        const part = { values, target: values, rows, columns, moments: found.all.columns };
        put(simulation, target, await codesOf([part], scheme, products, {}));
      }
    },
    close: () => products.close(),
  };
}

/** The rows of a weight, by the inputs that they meet. */
function partsOf(
  { weight }: LayerTarget,
  fitted: readonly CrossMoments[] | undefined,
  checked: readonly CrossMoments[] | undefined,
): AimedRows[] | undefined {
  if (!fitted || !checked) return undefined;
  const { view } = weight.use;
  const { columns } = view;
  const rows = view.rows / fitted.length;
  const values = toMatrix(weight.tensor.floats(), view);
  return fitted.map((own, index) => ({
    values: values.subarray(index * rows * columns, (index + 1) * rows * columns),
    ...{ rows, columns, fitted: own, checked: checked[index], all: mixedCrossMoments(own, checked[index]) },
  }));
}
