/**
 * Finds the codes of every weight of a plan: cuts weights into jobs, has them done by an executor, and keeps the results in
 * a store, in the order of the plan. What is found depends neither on the number of workers nor on how weights are cut.
 */
import { HalftoneError } from '../base/errors.ts';
import { parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import { formatScheme, isPlainFloat, needsWholeTensor, parseScheme } from '../formats/scheme.ts';
import { loadedMatrix, storedMatrix, zeroPointBytes } from '../kernel/index.ts';
import { computesInIntegers, hasStaticPairs } from '../lowerings/index.ts';
import type { Weight } from '../lowerings/weight.ts';
import { decibels } from '../metrics/error.ts';
import type { RangeId } from '../ranges/index.ts';
import type { SolverId } from '../solvers/index.ts';
import { isRowMajor } from '../tensor/matrix-view.ts';
import { Tensor } from '../tensor/tensor.ts';
import { withBiasRoom } from './bias-room.ts';
import type { Executor } from './executor.ts';
import { canSplit, joinedField, type SolvedPart, type SolveJob } from './job.ts';
import type { Planning, WeightPlan } from './plan.ts';
import type { Recipe } from './recipe.ts';
import type { WeightResult } from './report.ts';
import type { Matrices } from './simulate.ts';
import type { FinishedWeight, Store, StoredRange } from './store.ts';

export interface Solved {
  readonly matrices: Matrices;
  readonly results: readonly WeightResult[];
}

export interface SolveWeightsOptions {
  readonly executor: Executor;
  readonly store: Store;
  /** Float32 bytes of a weight that one job works on. Default 16 MiB. */
  readonly partBytes?: number;
  /** Float32 bytes of a weight that can only be worked on as a whole. Default: any. */
  readonly wholeBytes?: number;
  /** Float32 bytes of a weight whose codes can only be written as a whole, which takes less room. Default: any. */
  readonly loweredBytes?: number;
  /** Tensors finished, of all; and the bytes of float weights that have been read. */
  readonly onProgress?: (done: number, total: number, tensor: string, bytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
}

/** Float32 bytes of a weight in one job: large enough to hide what a job costs, small enough for many workers. */
export const defaultPartBytes = 2 ** 24;

/** Smaller matrices are kept in memory as they are. */
const keptCodes = 2 ** 20;

interface Task {
  readonly weight: Weight;
  readonly plan: WeightPlan;
  readonly jobs: readonly SolveJob[];
}

/**
 * Changes nothing in the model. A weight with NaN or infinite values is left as it is, which its result says.
 * @throws HalftoneError as the executor and the store; the signal's reason when aborted.
 */
export async function solveWeights(planning: Planning, options: SolveWeightsOptions): Promise<Solved> {
  const { executor, store, signal } = options;
  const matrices = new Map<string, QuantizedMatrix>();
  const results: WeightResult[] = [];
  const byName = new Map(planning.weights.map((weight) => [weight.value.name, weight]));
  const tasks = planning.plan.weights.flatMap((plan): Task[] => {
    if (!plan.quantize || isPlainFloat(plan.quantize.scheme)) return [];
    const weight = byName.get(plan.tensor);
    if (!weight) throw new HalftoneError('internal', `plan: expected weight "${plan.tensor}" in the model, got none`);
    const known = store.find(plan.tensor) !== undefined;
    const jobs = known ? [] : jobsOf(weight, plan, planning.plan.recipe, options);
    return [{ weight, plan, jobs }];
  });
  const bytesOf = (some: readonly Task[]) => some.reduce((sum, { weight }) => sum + weight.tensor.byteLength, 0);
  const totalBytes = bytesOf(tasks);
  let bytes = bytesOf(tasks.filter(({ plan }) => store.find(plan.tensor)));
  const report = (done: number, tensor: string) => options.onProgress?.(done, tasks.length, tensor, bytes, totalBytes);

  const parts = inOrder(
    executor,
    tasks.flatMap(({ jobs }) => jobs),
    signal,
  );
  try {
    for (const [index, { weight, plan, jobs }] of tasks.entries()) {
      signal?.throwIfAborted();
      report(index, plan.tensor);
      let finished = store.find(plan.tensor);
      if (!finished) {
        const collected = new Collected(plan, store);
        for (const _ of jobs) {
          const { value } = await parts.next();
          if (value) collected.add(value);
          bytes += weight.tensor.byteLength / jobs.length;
          report(index, plan.tensor);
        }
        if (collected.isMixed) await collected.again(inOrder(executor, jobs.map(withFloatScales), signal));
        finished = collected.finish();
        store.finished(finished);
      }
      const { scheme, energy, error, left } = finished;
      if (left !== undefined) {
        results.push({ tensor: plan.tensor, left });
        continue;
      }
      const matrix = matrixOf(weight, finished, store);
      const integer = plan.quantize !== undefined && hasStaticPairs(plan.quantize.lowering);
      matrices.set(plan.tensor, integer ? withBiasRoom(weight, matrix, planning) : matrix);
      results.push({ tensor: plan.tensor, scheme, sqnr: decibels(energy, error) });
    }
  } finally {
    await parts.return(undefined);
  }
  return { matrices, results };
}

/** Cuts a weight into jobs of whole rows. Each but the last fills whole bytes with codes of any width. */
function jobsOf(
  weight: Weight,
  plan: WeightPlan,
  recipe: Recipe,
  {
    partBytes = defaultPartBytes,
    wholeBytes = Number.POSITIVE_INFINITY,
    loweredBytes = Number.POSITIVE_INFINITY,
  }: SolveWeightsOptions,
): SolveJob[] {
  const { tensor, use } = weight;
  const { quantize } = plan;
  if (!quantize) throw new HalftoneError('internal', `plan: expected "${plan.tensor}" to be quantized`);
  const { rows, columns, permutation, rowAxes } = use.view;
  const integer = computesInIntegers(quantize.lowering);
  const { range } = quantize;
  const [solver, weightRange]: [SolverId, RangeId | undefined] =
    range === 'search' || range === 'hqq' ? [range, undefined] : ['rtn', range];
  const isBlocked = quantize.lowering === 'matmul-nbits' || quantize.lowering === 'gather-block';
  const floatBytes = rows * columns * 4;
  if (!isBlocked && floatBytes > loweredBytes) refuseWhole(plan, floatBytes, loweredBytes, `as ${quantize.lowering}`);
  const { source } = tensor;
  const job = {
    tensor: plan.tensor,
    dtype: tensor.dtype,
    shape: tensor.shape,
    data: source?.range ?? tensor.bytes,
    rowAxes: permutation.slice(0, rowAxes),
    solver,
    scheme: quantize.scheme,
    options: {
      ...(weightRange && { range: weightRange }),
      percentile: recipe.percentile,
      reduceRange: recipe.reduceRange && integer,
      positiveScale: integer,
    },
  };
  const inMemory = job.data instanceof Uint8Array ? job.data : undefined;
  const whole =
    needsWholeTensor(parseScheme(quantize.scheme)) || !canSplit(use.view) || (inMemory && !isRowMajor(use.view));
  const most = Math.max(wholeBytes, partBytes);
  if (whole && floatBytes > most) refuseWhole(plan, floatBytes, most, 'read');
  const step = whole ? rows : Math.max(8, Math.floor(partBytes / (columns * 4) / 8) * 8);
  const rowBytes = tensor.byteLength / rows;
  const jobs: SolveJob[] = [];
  for (let first = 0; first < rows; first += step) {
    const end = Math.min(first + step, rows);
    // Bytes are sent to workers: no more of them than the job needs.
    jobs.push(
      inMemory && !whole
        ? {
            ...job,
            shape: [end - first, columns],
            rowAxes: [0],
            data: inMemory.subarray(first * rowBytes, end * rowBytes),
            rows: [0, end - first],
          }
        : { ...job, rows: [first, end] },
    );
  }
  return jobs;
}

function refuseWhole({ tensor, quantize }: WeightPlan, bytes: number, limit: number, how: string): never {
  throw new HalftoneError(
    'usage',
    `weight "${tensor}": expected at most ${Math.floor(limit)} bytes of float32 in so little memory, got ${bytes} that ` +
      `${quantize?.scheme} needs together ${how === 'read' ? 'to choose its grids' : `to be written ${how}`}; ` +
      'allow more memory, leave it out, or use MatMulNBits blocks',
    { fields: { tensor } },
  );
}

function withFloatScales(job: SolveJob): SolveJob {
  return { ...job, scheme: formatScheme({ ...parseScheme(job.scheme), scaleType: 'float32' }) };
}

/** Results in the order of the jobs, a few of which are always under way. */
async function* inOrder(
  executor: Executor,
  jobs: readonly SolveJob[],
  signal: AbortSignal | undefined,
): AsyncGenerator<SolvedPart, undefined> {
  const underWay: Promise<SolvedPart>[] = [];
  const ahead = executor.workers > 1 ? executor.workers + 1 : 1;
  for (const job of jobs) {
    signal?.throwIfAborted();
    const part = executor.solve(job, signal);
    // A failure is thrown where its turn comes; until then it is no unhandled one.
    part.catch(() => {});
    underWay.push(part);
    if (underWay.length >= ahead) {
      const next = underWay.shift();
      if (next) yield await next;
    }
  }
  for (const part of underWay) yield await part;
  return undefined;
}

/** The parts of one weight. */
class Collected {
  readonly #plan: WeightPlan;
  readonly #store: Store;
  #parts: SolvedPart[] = [];
  #codesAt: number | undefined;
  #codesBytes = 0;

  constructor(plan: WeightPlan, store: Store) {
    this.#plan = plan;
    this.#store = store;
  }

  /** Codes go to the store at once; scales wait for the others. */
  add(part: SolvedPart): void {
    if (this.#codesAt === undefined) this.#store.align();
    const offset = this.#store.append(part.codes);
    this.#codesAt ??= offset;
    this.#codesBytes += part.codes.byteLength;
    this.#parts.push({ ...part, codes: new Uint8Array(0) });
  }

  /** True when some parts could not have scales of the wanted type, and others could: all must be alike. */
  get isMixed(): boolean {
    return this.#parts.some(({ scheme }) => scheme !== this.#parts[0].scheme);
  }

  async again(parts: AsyncIterable<SolvedPart>): Promise<void> {
    this.#giveUp();
    this.#parts = [];
    this.#codesAt = undefined;
    this.#codesBytes = 0;
    for await (const part of parts) this.add(part);
  }

  finish(): FinishedWeight {
    const sum = (pick: (part: SolvedPart) => number) => this.#parts.reduce((total, part) => total + pick(part), 0);
    const { tensor } = this.#plan;
    const { scheme, zeroPoints: zero } = this.#parts[0];
    const notFinite = sum((part) => part.notFinite);
    if (notFinite > 0) {
      this.#giveUp();
      const left = `${notFinite} of its numbers are NaN or infinite`;
      return { tensor, scheme, energy: 0, error: 0, left, codes: [0, 0], scales: [0, 0], zeroPoints: 0 };
    }
    const same = typeof zero === 'number' && this.#parts.every(({ zeroPoints }) => zeroPoints === zero);
    const { scaleType } = parseScheme(scheme);
    return {
      tensor,
      scheme,
      energy: sum(({ energy }) => energy),
      error: sum(({ error }) => error),
      codes: [this.#codesAt ?? 0, this.#codesBytes],
      scales: this.#keep(this.#parts.map(({ scales }) => scales)),
      zeroPoints: same ? zero : this.#keep(this.#parts.map((part) => zeroPointBytes(part, scaleType))),
      ...this.#keepField('factors'),
      ...this.#keepField('codebook'),
    };
  }

  /** Nothing of what will not be used stays in the store: what is written must not depend on how weights were cut. */
  #giveUp(): void {
    if (this.#codesAt !== undefined) this.#store.rewind(this.#codesAt);
  }

  #keepField(key: 'factors' | 'codebook'): { readonly [key in 'factors' | 'codebook']?: StoredRange } {
    const bytes = joinedField(this.#parts, key)[key];
    return bytes ? { [key]: this.#keep([bytes]) } : {};
  }

  #keep(pieces: readonly Uint8Array[]): StoredRange {
    let offset: number | undefined;
    let byteLength = 0;
    this.#store.align();
    for (const piece of pieces) {
      const at = this.#store.append(piece);
      offset ??= at;
      byteLength += piece.byteLength;
    }
    return [offset ?? 0, byteLength];
  }
}

function matrixOf({ use }: Weight, finished: FinishedWeight, store: Store): QuantizedMatrix {
  const { rows, columns } = use.view;
  const scheme = parseScheme(finished.scheme);
  const { zeroPoints } = finished;
  const stored = {
    codes: store.range(finished.codes),
    scales: store.range(finished.scales),
    zeroPoints: typeof zeroPoints === 'number' ? zeroPoints : store.range(zeroPoints),
    ...(finished.factors ? { factors: floatsIn(store, finished.factors) } : {}),
    ...(finished.codebook ? { codebook: floatsIn(store, finished.codebook) } : {}),
  };
  const matrix = storedMatrix(scheme, rows, columns, stored);
  const isSmall = rows * columns < keptCodes && parameterLayout(scheme, rows, columns).count < keptCodes;
  return isSmall ? loadedMatrix(matrix) : matrix;
}

function floatsIn(store: Store, range: StoredRange): Float32Array {
  const bytes = store.range(range).read();
  return new Tensor('float32', [bytes.byteLength / 4], bytes).floats();
}
