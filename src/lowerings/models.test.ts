/** Every lowering on real models: they load, leave the expected operators, and stay as close as 8 and 4 bits can. */
import { describe, expect, test } from 'vitest';
import { asset, assetModels } from '../../test/onnx/assets.ts';
import { context, type FeedOptions, feedsFor, run } from '../../test/support/before-after.ts';
import {
  copyOf,
  decibels,
  executedOperators,
  finished,
  quantized,
  relativeError,
  withDequantized,
  withLowered,
} from '../../test/support/lowered.ts';
import { readModel } from '../files/onnx/node.ts';
import { parseScheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import { runPasses } from '../passes/index.ts';
import type { Feeds } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { dynamic, lowerDynamic, lowerDynamicLstm } from './dynamic.ts';
import { foldAtLoad, lowerFoldAtLoad } from './fold-at-load.ts';
import { gatherBlock, lowerGatherBlock } from './gather-block.ts';
import { lowerMatmulNbits, matmulNbits } from './matmul-nbits.ts';
import { findWeights, SharedConstants, type Weight } from './weight.ts';

interface Case extends FeedOptions {
  /** The output to compare; one whose size under noise means something. */
  readonly output: string;
  /** Decibels that 8-bit weights must reach with min-max ranges per channel, under noise as input. */
  readonly floor: number;
  /** The same for dynamic activations; by default 8 dB less. */
  readonly dynamicFloor?: number;
  /** What can run with dynamic activations: products and convolutions, and LSTM nodes. */
  readonly dynamic: readonly [number, number];
  /** What can be MatMulNBits, GatherBlockQuantized, and neither, at 4 bits in blocks. */
  readonly blocks: readonly [number, number, number];
}

/** MobileNet loses most to depthwise channels under min-max, and dtln, silero and squeezenet to noise as input. */
const models: Readonly<Record<string, Case>> = {
  'models/shakespeare-gpt.onnx': {
    sizes: { batch: 1, time: 64 },
    vocabulary: 65,
    output: 'logits',
    floor: 40,
    dynamic: [17, 0],
    blocks: [17, 1, 0],
  },
  'models/digits-ds2.onnx': {
    sizes: { batch: 1, time: 60 },
    output: 'log_probs',
    floor: 50,
    dynamic: [3, 2],
    blocks: [1, 0, 6],
  },
  'models/silero-vad.onnx': {
    sizes: { batch: 1, sequence: 512 },
    feeds: { sr: Tensor.int64([], [16000]) },
    output: 'stateN',
    floor: 25,
    dynamicFloor: 12,
    dynamic: [6, 0],
    blocks: [0, 0, 8],
  },
  'models/nsnet2-gru.onnx': { sizes: { N: 1, T: 40 }, output: 'gain', floor: 40, dynamic: [4, 0], blocks: [4, 0, 4] },
  'models/dtln-1.onnx': { output: 'activation_2', floor: 35, dynamic: [1, 2], blocks: [1, 0, 4] },
  'models/stories260K.onnx': {
    sizes: { N: 1, T: 64 },
    vocabulary: 512,
    output: 'logits',
    floor: 40,
    dynamic: [36, 0],
    blocks: [36, 1, 0],
  },
  'models/mobilenet-v2.onnx': { sizes: { N: 1 }, output: 'output', floor: 15, dynamic: [53, 0], blocks: [1, 0, 52] },
};

const isLayer = (weight: Weight) => weight.use.kind !== 'other';
const eight = parseScheme('int8:channel');
const four = parseScheme('uint4:g32:asym');

async function prepared(file: string): Promise<Model> {
  const model = readModel(asset(file));
  await runPasses(model, undefined, context);
  return model;
}

const sqnr = (one: Case, before: Feeds, after: Feeds) =>
  decibels(before[one.output].floats(), after[one.output].floats());

/** Writes 4-bit blocks with whichever operator takes them, and folds the rest. */
function inBlocks(model: Model, accuracyLevel: 0 | 4): { lowered: Model; counts: [number, number, number] } {
  const lowered = copyOf(model);
  const constants = new SharedConstants(lowered);
  const counts: [number, number, number] = [0, 0, 0];
  for (const weight of findWeights(lowered).filter(isLayer)) {
    const matrix = quantized(weight, four);
    if (!matmulNbits.refuses(weight, four)) {
      lowerMatmulNbits(weight, matrix, constants, accuracyLevel);
      counts[0]++;
    } else if (!gatherBlock.refuses(weight, four)) {
      lowerGatherBlock(weight, matrix, constants);
      counts[1]++;
    } else {
      lowerFoldAtLoad(weight, matrix, constants);
      counts[2]++;
    }
  }
  return { lowered: finished(lowered, [...matmulNbits.domains, ...gatherBlock.domains]), counts };
}

/** Gives dynamic activations to every layer that can have them; the rest stays float. */
function withDynamic(model: Model): { lowered: Model; counts: [number, number] } {
  const lowered = copyOf(model);
  const constants = new SharedConstants(lowered);
  const counts: [number, number] = [0, 0];
  const recurrent = new Map<Node, Weight[]>();
  for (const weight of findWeights(lowered)) {
    if (!isLayer(weight) || dynamic.refuses(weight, eight)) continue;
    const { kind, node } = weight.use;
    if (kind === 'recurrent') {
      recurrent.set(node, [...(recurrent.get(node) ?? []), weight]);
    } else {
      lowerDynamic(weight, quantized(weight, eight, true), constants);
      counts[0]++;
    }
  }
  for (const [node, weights] of recurrent) {
    const [w, r] = [1, 2].map((input) => weights.find((weight) => weight.use.input === input)!);
    lowerDynamicLstm(node, quantized(w, eight, true), quantized(r, eight, true));
    counts[1]++;
  }
  return { lowered: finished(lowered, dynamic.domains), counts };
}

const files = new Set(assetModels());

describe.each(Object.entries(models))('%s', (file, one) => {
  test.skipIf(!files.has(file))('fold-at-load: the same operators run, the weights are those of 8 bits', async () => {
    const model = await prepared(file);
    const feeds = feedsFor(model, one);
    const choose = (weight: Weight) => (isLayer(weight) ? eight : undefined);
    const lowered = withLowered(model, choose, foldAtLoad, lowerFoldAtLoad);
    const before = await run(model, feeds);
    const after = await run(lowered, feeds);
    expect(after[one.output].equals((await run(withDequantized(model, choose), feeds))[one.output])).toBe(true);
    expect(sqnr(one, before, after)).toBeGreaterThan(one.floor);
    expect(await executedOperators(lowered)).toEqual(await executedOperators(model));
  });

  test.skipIf(!files.has(file))('4-bit blocks: MatMulNBits and GatherBlockQuantized where they can be', async () => {
    const model = await prepared(file);
    const feeds = feedsFor(model, one);
    const rounded = await run(
      withDequantized(model, (weight) => (isLayer(weight) ? four : undefined)),
      feeds,
    );
    const { lowered, counts } = inBlocks(model, 0);
    expect(counts).toEqual(one.blocks);
    expect(relativeError(rounded[one.output], (await run(lowered, feeds))[one.output])).toBeLessThan(1e-4);
    // Level 4 rounds activations to 8 bits in each layer.
    expect(sqnr(one, rounded, await run(inBlocks(model, 4).lowered, feeds))).toBeGreaterThan(35);
  });

  test.skipIf(!files.has(file))('dynamic: close to float wherever it can be', async () => {
    const model = await prepared(file);
    const feeds = feedsFor(model, one);
    const { lowered, counts } = withDynamic(model);
    expect(counts).toEqual(one.dynamic);
    // Codes keep to half their range here, which costs up to 6 dB, and activations have 8 bits.
    expect(sqnr(one, await run(model, feeds), await run(lowered, feeds))).toBeGreaterThan(
      one.dynamicFloor ?? one.floor - 8,
    );
  });
});
