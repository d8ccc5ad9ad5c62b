/**
 * Chooses the codes of layers again so that errors of one weight make up for those of others (GPTQ, Frantar et al. 2022),
 * layer after layer behind the already quantized part: each layer aims at what the float layer makes of the float model's
 * inputs, from the inputs that the quantized model gives it (ALGORITHMS.md §3.6 b).
 */

import { formatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { needsWholeTensor, parseScheme, type Scheme } from '../formats/scheme.ts';
import { computesInIntegers } from '../lowerings/index.ts';
import { openProducts, type Products } from '../runtime/products.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { split } from '../samples/select.ts';
import { compensate } from '../solvers/gptq.ts';
import { type SolveOptions, solverOf } from '../solvers/index.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import { type AimedRows, aimOf, together } from './aim.ts';
import { withBiasRoom } from './bias-room.ts';
import { changingNodes, type Way } from './correction.ts';
import type { LayerTarget } from './correction-targets.ts';
import { embeddingMoments } from './embedding-moments.ts';
import { type CrossMoments, collectCrossMoments, type Moments, momentKey } from './moments.ts';
import type { Planning } from './plan.ts';
import { Prefix } from './prefix.ts';
import type { Simulation } from './simulate.ts';
import { orWhyNot } from './why-not.ts';

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
  const { reference, floatTargets, samples, runtime, threads, signal } = options;
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
  const own = new Map(floatTargets.map((target) => [keyOf(target), target]));
  let float: Prefix | undefined;
  const shared = { ...(threads ? { threads } : {}), ...(signal ? { signal } : {}) };
  const withTwins = (group: readonly LayerTarget[]) =>
    group.flatMap((target) => {
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
      for (const { target, twin } of targets) {
        const { name } = target.weight.value;
        const found = partsOf(twin, fitted.get(momentKey(twin)), checked.get(momentKey(twin)));
        const scheme = options.schemes.get(name);
        if (!found || !scheme || found.some(({ all }) => all.moments.count === 0)) {
          fallbacks.set(name, 'nothing is known of its inputs');
          continue;
        }
        const hasBias = 'bias' in target && target.bias !== undefined;
        const arithmetic = integer.get(name) === true;
        const limits = { reduceRange: arithmetic && plan.recipe.reduceRange, positiveScale: arithmetic };
        const result = await compensateWeight(twin, parseScheme(scheme), found, products, limits, hasBias);
        const hasRoom = typeof result !== 'string' && arithmetic;
        put(simulation, target, hasRoom ? withBiasRoom(twin.weight, result, reference) : result);
      }
    },
    async runEmbeddings(simulation, embeddings) {
      const wide = embeddings.filter(({ weight }) => {
        const scheme = options.schemes.get(weight.value.name);
        if (!scheme || formatOf(parseScheme(scheme).format).bits < 8) return false;
        fallbacks.set(weight.value.name, 'at 8 bits the nearest codes of an embedding do');
        return true;
      });
      const targets = withTwins(embeddings.filter((target) => !wide.includes(target)));
      if (targets.length === 0) return;
      const given = targets.map(({ twin }) => ({ tensor: twin.tensor, columns: twin.weight.use.view.columns }));
      const found = await orWhyNot(() => embeddingMoments(reference.model, given, samples, runtime, shared));
      for (const { target, twin } of targets) {
        const { name } = target.weight.value;
        const moments = typeof found === 'string' ? found : found.get(twin.tensor);
        const scheme = options.schemes.get(name);
        if (!moments || !scheme || typeof moments === 'string') {
          fallbacks.set(name, typeof moments === 'string' ? moments : 'nothing is known of its influence');
          continue;
        }
        const { rows, columns } = twin.weight.use.view;
        const values = toMatrix(twin.weight.tensor.floats(), twin.weight.use.view);
        const result = await codesOf(
          [{ values, target: values, rows, columns, moments }],
          parseScheme(scheme),
          products,
          {},
        );
        put(simulation, target, result);
      }
    },
    close: () => products.close(),
  };
}

/** A recurrent layer has two weights. */
function keyOf({ tensor, weight }: LayerTarget): string {
  return `${tensor}/${weight.value.name}`;
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
    ...{ rows, columns, fitted: own, checked: checked[index], all: together(own, checked[index]) },
  }));
}

/** Rows, what their codes are to come near to, and what their errors do. */
interface SolvableRows {
  readonly values: Float32Array;
  readonly target: Float32Array;
  readonly rows: number;
  readonly columns: number;
  readonly moments: Moments;
}

type Limits = Pick<SolveOptions, 'reduceRange' | 'positiveScale'>;

/** A weight whose rows are parts with moments of their own. Returns why nothing could be done, where that is so. */
async function compensateWeight(
  { weight }: LayerTarget,
  scheme: Scheme,
  parts: readonly AimedRows[],
  products: Products,
  limits: Limits,
  hasBias: boolean,
): Promise<QuantizedMatrix | string> {
  if (parts.length > 1 && needsWholeTensor(scheme)) return 'its groups share a scale';
  // What a recurrent layer makes comes back to it: its inputs change with its weights.
  const isRecurrent = weight.use.kind === 'recurrent';
  const targets = isRecurrent ? parts.map(({ values }) => values) : await aimOf(parts, hasBias, products);
  const solvable = parts.map(({ values, rows, columns, all: { moments } }, index) => ({
    ...{ values, rows, columns, target: targets[index] },
    // Where nothing makes up for the mean of the error, it counts as any other part of it.
    moments: hasBias ? moments : { ...moments, mean: new Float32Array(columns) },
  }));
  return codesOf(solvable, scheme, products, limits);
}

async function codesOf(
  parts: readonly SolvableRows[],
  scheme: Scheme,
  products: Products,
  limits: Limits,
): Promise<QuantizedMatrix | string> {
  const solve = async (own: Scheme): Promise<QuantizedMatrix[] | string> => {
    const solved: QuantizedMatrix[] = [];
    for (const { values, target, rows, columns, moments } of parts) {
      const importance = Float32Array.from({ length: columns }, (_, i) => Math.max(moments.moment[i * columns + i], 0));
      const start = solverOf('search').solve(target, rows, columns, own, { ...limits, importance });
      const { matrix, fallback } = await compensate(values, rows, columns, start, {
        ...{ moments, target, products, refit: true },
        reduceRange: limits.reduceRange === true,
      });
      if (fallback) return fallback;
      solved.push(matrix);
    }
    return solved;
  };
  const solved = await solve(scheme);
  if (typeof solved === 'string') return solved;
  if (solved.every((matrix) => matrix.scheme.scaleType === solved[0].scheme.scaleType)) return joined(solved);
  const again = await solve({ ...scheme, scaleType: 'float32' });
  return typeof again === 'string' ? again : joined(again);
}

/** Matrices of consecutive rows as one. */
function joined(parts: readonly QuantizedMatrix[]): QuantizedMatrix {
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
    rows: parts.reduce((sum, part) => sum + part.rows, 0),
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
