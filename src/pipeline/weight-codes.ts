/**
 * Codes of one weight, once it is known what its errors do: aimed at what the float layer makes, by GPTQ, and where outputs
 * gain, with rows that make up for each other's errors. How much to rely on samples is chosen by some of them that codes were
 * not fitted to.
 */
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { needsWholeTensor, type Scheme } from '../formats/scheme.ts';
import type { Products } from '../runtime/products.ts';
import { type Curvature, compensate, type Moments, prepareCurvature } from '../solvers/gptq.ts';
import { type SolveOptions, solverOf } from '../solvers/index.ts';
import { differencesOf } from '../solvers/residuals.ts';
import { compensateTogether, coupledLoss, hasOwnRows } from '../solvers/together.ts';
import { type AimedRows, aimOf } from './aim.ts';
import type { LayerTarget } from './correction-targets.ts';
import type { Coupling } from './couplings.ts';
import type { GradientMoments } from './gradient-moments.ts';

/** Rows, what their codes are to come near to, and what their errors do. */
export interface SolvableRows {
  readonly values: Float32Array;
  readonly target: Float32Array;
  readonly rows: number;
  readonly columns: number;
  readonly moments: Moments;
}

export interface Settings extends Pick<SolveOptions, 'reduceRange' | 'positiveScale'> {
  /** What the outputs of the model make of errors, where rows are to make up for each other; and whether it pays. */
  readonly coupling?: Coupling;
  readonly isCoupled?: boolean;
  /** For `compensate`. */
  readonly damping?: number;
  readonly sweeps?: number;
  readonly refit?: boolean;
}

/** A weight whose rows are parts with moments of their own. Returns why nothing could be done, where that is so. */
export async function compensateWeight(
  { weight }: LayerTarget,
  scheme: Scheme,
  parts: readonly AimedRows[],
  products: Products,
  settings: Settings,
  hasBias: boolean,
): Promise<QuantizedMatrix | string> {
  if (parts.length > 1 && needsWholeTensor(scheme)) return 'its groups share a scale';
  if (settings.coupling && !hasOwnRows(scheme)) return 'its rows share scales or levels';
  // What a recurrent layer makes comes back to it: its inputs change with its weights.
  const isRecurrent = weight.use.kind === 'recurrent';
  const targets = isRecurrent ? parts.map(({ values }) => values) : await aimOf(parts, hasBias, products);
  // Where nothing makes up for the mean of the error, it counts as any other part of it.
  const known = (moments: Moments) => (hasBias ? moments : withoutMean(moments));
  const fitted = parts.map((part) => ({ ...part, target: part.values, moments: known(part.fitted.moments) }));
  const checked = parts.map((part) => known(part.checked.moments));
  const { damping, isCoupled } = await settle(fitted, checked, scheme, products, settings);
  if (settings.coupling && !isCoupled) return 'rows that make up for each other are no better there';
  const solvable = parts.map((part, index) => ({
    ...part,
    target: targets[index],
    moments: known(part.all.moments),
  }));
  return codesOf(solvable, scheme, products, { ...settings, damping, isCoupled });
}

function withoutMean(moments: Moments): Moments {
  return { ...moments, mean: new Float32Array(moments.mean.length) };
}

/** Shares of the mean diagonal that are added to it: the more, the less codes rely on what few samples have in common. */
const dampings = [0.01, 0.1, 1] as const;

interface Settled {
  readonly damping: number;
  readonly isCoupled: boolean;
}

/** Chooses how codes are found by samples that they are not fitted to. Places of one picture are no independent samples. */
async function settle(
  fitted: readonly SolvableRows[],
  checked: readonly Moments[],
  scheme: Scheme,
  products: Products,
  settings: Settings,
): Promise<Settled> {
  const simple: Settled = { damping: dampings[0], isCoupled: false };
  if ([...fitted.map(({ moments }) => moments), ...checked].some(({ count }) => count === 0)) return simple;
  let best: { readonly damping: number; readonly cost: number; readonly matrix: QuantizedMatrix } | undefined;
  for (const damping of dampings) {
    const matrices: QuantizedMatrix[] = [];
    let cost = 0;
    for (const [index, part] of fitted.entries()) {
      const matrix = await solvePart(part, scheme, products, { ...settings, sweeps: 1, refit: false, damping });
      if (typeof matrix === 'string') return simple;
      matrices.push(matrix);
      cost += await costOf(matrix, part, checked[index], products);
    }
    if (!best || cost < best.cost) best = { damping, cost, matrix: matrices[0] };
  }
  if (!best) return simple;
  const { damping, matrix: alone } = best;
  const [part] = fitted;
  const { coupling, reduceRange = false } = settings;
  const rows = coupling?.checked.rows;
  const curvatures =
    coupling && rows && fitted.length === 1 ? await curvaturesOf(coupling.fitted, part.moments, products) : undefined;
  if (!coupling || !curvatures) return { damping, isCoupled: false };
  const { matrix } = await compensateTogether(alone, {
    ...{ ...curvatures, target: part.target, products, reduceRange, sweeps: 1, rounds: 0 },
  });
  const [before, after] = [
    await costOf(alone, part, coupling.checked.columns, products, rows),
    await costOf(matrix, part, coupling.checked.columns, products, rows),
  ];
  return { damping, isCoupled: after < worthIt * before };
}

/** tr(S·Δ·M·Δᵀ) of the error Δ of a matrix, with M centred, and S that of the rows where it is given: then means are 0. */
async function costOf(
  matrix: QuantizedMatrix,
  { target, rows, columns }: SolvableRows,
  { moment, mean }: Moments,
  products: Products,
  coupling?: Moments,
): Promise<number> {
  const error = differencesOf(matrix, target);
  let cost = await coupledLoss(error, moment, coupling?.moment, [rows, columns], products);
  for (let row = 0; row < rows; row++) {
    let along = 0;
    for (let column = 0; column < columns; column++) along += error[row * columns + column] * mean[column];
    cost -= along * along;
  }
  return cost;
}

/** By how much inputs count, but not as if what never occurred in samples could not: blocks share scales. */
function importanceOf({ moment }: Moments, columns: number): Float32Array {
  const diagonal = Float32Array.from({ length: columns }, (_, i) => Math.max(moment[i * (columns + 1)], 0));
  const mean = diagonal.reduce((sum, value) => sum + value, 0) / columns;
  return diagonal.map((value) => value + mean);
}

/** Codes of parts of a weight, one behind the other; or why there are none. */
export async function codesOf(
  parts: readonly SolvableRows[],
  scheme: Scheme,
  products: Products,
  settings: Settings,
): Promise<QuantizedMatrix | string> {
  const solve = async (own: Scheme): Promise<QuantizedMatrix[] | string> => {
    const solved: QuantizedMatrix[] = [];
    for (const part of parts) {
      const matrix = await solvePart(part, own, products, settings);
      if (typeof matrix === 'string') return matrix;
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

async function solvePart(
  part: SolvableRows,
  scheme: Scheme,
  products: Products,
  { coupling, isCoupled, damping = dampings[0], sweeps = 4, refit = true, ...limits }: Settings,
): Promise<QuantizedMatrix | string> {
  const { values, target, rows, columns, moments } = part;
  const reduceRange = limits.reduceRange === true;
  const importance = importanceOf(moments, columns);
  const start = solverOf('search').solve(target, rows, columns, scheme, { ...limits, importance });
  const { matrix, fallback } = await compensate(values, rows, columns, start, {
    ...{ moments, target, products, damping, sweeps, refit, reduceRange },
  });
  if (fallback) return fallback;
  if (!coupling || !isCoupled) return matrix;
  const curvatures = await curvaturesOf(coupling.all, moments, products);
  if (!curvatures) return matrix;
  return (await compensateTogether(matrix, { ...curvatures, target, products, reduceRange })).matrix;
}

/** As `dampings`, for rows and columns that are chosen together. */
const coupledDamping = 0.03;

/** They are, where samples that they are not fitted to lose less than this share of what they lose otherwise. */
const worthIt = 0.95;

/** The share that the inputs of the layer itself have: gradients are of few samples. */
const ownShare = 0.1;

/** For the columns, gradients and the layer's own inputs together; for the rows, gradients. */
async function curvaturesOf(
  { columns, rows }: GradientMoments,
  own: Moments,
  products: Products,
): Promise<{ readonly curvature: Curvature; readonly coupling: Curvature } | undefined> {
  if (!rows) return undefined;
  const size = own.mean.length;
  const centred = own.moment.map((value, index) => value - own.mean[Math.floor(index / size)] * own.mean[index % size]);
  const traceOf = (matrix: Float32Array) => {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += matrix[i * (size + 1)];
    return sum;
  };
  const share = (ownShare * traceOf(columns.moment)) / traceOf(centred);
  if (!Number.isFinite(share)) return undefined;
  const moment = columns.moment.map((value, index) => value + share * centred[index]);
  const curvature = await prepareCurvature({ ...columns, moment }, size, { products, damping: coupledDamping });
  const coupling = await prepareCurvature(rows, rows.mean.length, { products, damping: coupledDamping });
  return typeof curvature === 'string' || typeof coupling === 'string' ? undefined : { curvature, coupling };
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
