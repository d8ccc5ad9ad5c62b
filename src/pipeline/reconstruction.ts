/**
 * Learns scales and biases, and the codes of wide weights, of one block of layers after the other behind the already
 * quantized part, so that the block gives what the float model's gives, from the inputs that the quantized model gives
 * it. No labels are needed. Blocks in their order are BRECQ's (Li et al. 2021, §3.2); learning with gradients that pass
 * through the rounding is EfficientQAT's (Chen et al. 2024, §3.2); ALGORITHMS.md §3.4 and §3.14.
 */
import { createRandom } from '../base/random.ts';
import type { Model } from '../graph/model.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import type { Samples } from '../samples/sample.ts';
import { type Block, type BlockOptions, cutBlocks } from './blocks.ts';
import type { CorrectionTarget, NormalizationTarget } from './correction-targets.ts';
import { bytesOfRow, joinedRows, type Row, recordRows } from './reconstruction-data.ts';
import { extractBlock, openTrainer, powerOf, type Trainer } from './reconstruction-graph.ts';
import {
  type Learner,
  layerLearner,
  normalizationLearner,
  type ReconstructionRates,
} from './reconstruction-learners.ts';
import type { Simulation } from './simulate.ts';
import { orWhyNot } from './why-not.ts';

export type { ReconstructionRates } from './reconstruction-learners.ts';

export interface ReconstructionOptions extends BlockOptions {
  /** The float model, prepared, with the names of values that the simulation has. */
  readonly float: Model;
  /** What is learned from, in batches where the model takes them. */
  readonly samples: Samples;
  /** What decides whether a block is better: samples that no earlier step was fitted to. */
  readonly heldOut: Samples;
  readonly runtime: Runtime;
  /** Steps for each block. Default 100. */
  readonly iterations?: number;
  /** Samples of one step. Default 16. */
  readonly batchSize?: number;
  readonly rates?: Partial<ReconstructionRates>;
  /** Decides the order of samples. Default 0. */
  readonly seed?: number;
  /** Bytes of activations that are kept of a block. Default 256 MiB. */
  readonly maxBytes?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number, block: BlockResult) => void;
  /**
   * Done to the layers of a block before they are learned: means were corrected, and codes chosen, behind other blocks
   * than those that lie before it by now.
   */
  readonly before?: (layers: readonly CorrectionTarget[]) => Promise<void>;
}

export interface BlockResult {
  /** Names of the block's outputs, and of its weights. */
  readonly outputs: readonly string[];
  readonly weights: readonly string[];
  /** Squared error of the outputs relative to their power, on samples held out; NaN where nothing was learned. */
  readonly before: number;
  readonly after: number;
  /** Steps after which it was best; 0 where nothing was better than the start. */
  readonly iterations: number;
  /** Why nothing was learned, where that is so. */
  readonly left?: string;
}

const defaults = {
  iterations: 100,
  batchSize: 16,
  rates: { codes: 0.03, scales: 0.002, biases: 0.004 },
  maxBytes: 256 * 2 ** 20,
} as const;

/** How often held-out samples are looked at. */
const evaluations = 8;

/** Learning ends early when so many looks in a row brought nothing. */
const patience = 4;

/** Inputs and targets of one run: what lies between them takes many times as much. */
const runBytes = 24 * 2 ** 20;

/** Of the bytes that are kept, what is learned from; the rest is held out. */
const learnedShare = 0.75;

/** Learns block after block, and puts what is better into the simulation. */
export async function reconstruct(
  simulation: Simulation,
  targets: readonly (CorrectionTarget | NormalizationTarget)[],
  options: ReconstructionOptions,
): Promise<BlockResult[]> {
  const blocks = cutBlocks(options.float, options);
  const results: BlockResult[] = [];
  for (const [index, block] of blocks.entries()) {
    const nodes = new Set(block.nodes);
    const own = targets.filter(({ tensor, node }) => nodes.has(tensor) || nodes.has(node.outputs[0]?.name ?? ''));
    await options.before?.(own.filter((target) => 'weight' in target));
    const learners = own.flatMap((target) => learnerOf(target, simulation) ?? []);
    const result =
      learners.length > 0
        ? await learnBlock(simulation, block, learners, { ...options, seed: (options.seed ?? 0) + index })
        : left('none of its weights has integer codes');
    result.keep?.(simulation);
    const { outputs, weights } = block;
    results.push({ outputs, weights, ...result.found });
    options.onProgress?.(index + 1, blocks.length, results[index]);
  }
  return results;
}

function learnerOf(target: CorrectionTarget | NormalizationTarget, simulation: Simulation): Learner | undefined {
  return 'weight' in target ? layerLearner(target, simulation) : normalizationLearner(target);
}

interface Learned {
  readonly found: Omit<BlockResult, 'outputs' | 'weights'>;
  readonly keep?: (simulation: Simulation) => void;
}

function left(because: string): Learned {
  return { found: { before: Number.NaN, after: Number.NaN, iterations: 0, left: because } };
}

async function learnBlock(
  simulation: Simulation,
  block: Block,
  learners: readonly Learner[],
  options: ReconstructionOptions,
): Promise<Learned> {
  const { runtime, threads, signal, batchSize = defaults.batchSize } = options;
  const feeds = (): Feeds => Object.fromEntries(learners.flatMap((learner) => learner.feeds()));
  const part = extractBlock(simulation.model, block, Object.keys(feeds()));
  const inputs = [...part.inputs.keys()];
  const record = (samples: Samples, share: number, like?: Row) =>
    recordRows(options.float, simulation.model, samples, {
      ...{ inputs, targets: block.outputs, runtime },
      maxBytes: share * (options.maxBytes ?? defaults.maxBytes),
      ...(like ? { like } : {}),
      ...(threads ? { threads } : {}),
      ...(signal ? { signal } : {}),
    });
  const { rows: train, isBatched } = await record(options.samples, learnedShare);
  const { rows: test } = await record(options.heldOut, 1 - learnedShare, train[0]);
  if (train.length === 0 || test.length === 0) return left('there are no samples of one shape');
  const fitting = Math.max(1, Math.floor(runBytes / bytesOfRow(train[0])));
  const runSize = isBatched ? Math.min(batchSize, fitting, train.length, test.length) : 1;
  const join = (rows: readonly Row[]) =>
    joinedRows(
      rows,
      inputs,
      part.outputs.map(({ target }) => target),
    );
  const shares = block.outputs.map((_, index) => 1 / powerOf(test.map(({ targets }) => targets[index])));
  const trainer = await orWhyNot(() =>
    openTrainer(part, shares, { ...join(train.slice(0, runSize)), ...feeds() }, runtime, threads),
  );
  if (typeof trainer === 'string') return left(trainer);
  try {
    return await learn(learners, trainer, {
      ...options,
      runs: Math.max(1, Math.floor(Math.min(batchSize, train.length) / runSize)),
      batches: shuffledBatches(train, runSize, createRandom(options.seed ?? 0)),
      tests: evenBatches(test, runSize).map(join),
      join,
      feeds,
    });
  } finally {
    await trainer.close();
  }
}

interface Lesson extends ReconstructionOptions {
  /** Runs of one step. */
  readonly runs: number;
  readonly batches: Iterator<readonly Row[], never>;
  readonly tests: readonly Feeds[];
  readonly join: (rows: readonly Row[]) => Feeds;
  readonly feeds: () => Feeds;
}

/** Steps with rates that fall to zero along half a cosine; the best of what held-out samples saw is kept. */
async function learn(learners: readonly Learner[], trainer: Trainer, lesson: Lesson): Promise<Learned> {
  const { iterations = defaults.iterations, runs, batches, tests, join, feeds, signal } = lesson;
  const rates = { ...defaults.rates, ...lesson.rates };
  const evaluate = async () => {
    const own = feeds();
    let sum = 0;
    for (const test of tests) sum += await trainer.loss({ ...test, ...own });
    return sum / tests.length;
  };
  const before = await evaluate();
  let best: Learned = { found: { before, after: before, iterations: 0 } };
  const every = Math.max(1, Math.floor(iterations / evaluations));
  for (let step = 1, idle = 0; step <= iterations && idle < patience; step++) {
    signal?.throwIfAborted();
    const own = feeds();
    const sums = new Map<string, Float32Array>();
    for (let run = 0; run < runs; run++) {
      const { gradients } = await trainer.gradients({ ...join(batches.next().value), ...own });
      for (const [name, gradient] of gradients) addTo(sums, name, gradient.floats());
    }
    const share = (1 + Math.cos((Math.PI * (step - 1)) / iterations)) / 2;
    const { codes, scales, biases } = rates;
    for (const learner of learners) {
      learner.step(sums, { codes: share * codes, scales: share * scales, biases: share * biases });
    }
    if (step % every !== 0 && step !== iterations) continue;
    const after = await evaluate();
    idle++;
    if (!(after < best.found.after)) continue;
    const kept = learners.map((learner) => learner.snapshot());
    best = {
      found: { before, after, iterations: step },
      keep: (simulation) => {
        for (const keep of kept) keep(simulation);
      },
    };
    idle = 0;
  }
  return best;
}

function addTo(sums: Map<string, Float32Array>, name: string, numbers: Float32Array): void {
  const sum = sums.get(name);
  if (!sum) sums.set(name, numbers.slice());
  else for (let i = 0; i < sum.length; i++) sum[i] += numbers[i];
}

/** Batches of one size that hold every row; the last takes some again where the size does not divide their number. */
function evenBatches(rows: readonly Row[], size: number): Row[][] {
  return Array.from({ length: Math.ceil(rows.length / size) }, (_, index) => {
    const first = Math.min(index * size, rows.length - size);
    return rows.slice(first, first + size);
  });
}

/** Batches without end: all rows in a new order each time round. */
function* shuffledBatches(rows: readonly Row[], size: number, random: () => number): Generator<Row[], never> {
  const order: Row[] = [];
  for (;;) {
    while (order.length < size) {
      const next = [...rows];
      for (let i = next.length - 1; i > 0; i--) {
        const j = Math.floor(random() * (i + 1));
        [next[i], next[j]] = [next[j], next[i]];
      }
      order.push(...next);
    }
    yield order.splice(0, size);
  }
}
