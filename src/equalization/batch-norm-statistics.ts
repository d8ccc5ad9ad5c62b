/**
 * Statistics of activations without data: what a trained BatchNormalization gives has its β for mean and its |γ| for
 * deviation in each channel, and nearly a normal distribution (Nagel et al. 2019, arXiv 1906.04721, sections 4.1.3 and
 * 4.2.1). From there they follow through the operators behind.
 */
import { clipBounds } from '../graph/clip-bounds.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import { averagesPadding } from './layers.ts';
import { clippedNormal, leakyNormal, type Moments } from './normal.ts';
import type { ScaledGroup } from './scale.ts';
import { constant } from './tracer.ts';

/** One number for each channel: axis 1, which is the last one behind a pooling that was made a matrix. */
export interface ChannelMoments {
  readonly mean: Float64Array;
  /** Standard deviation; behind averages over space an upper bound, since neighbours go together. */
  readonly deviation: Float64Array;
}

interface Known extends ChannelMoments {
  /** False behind a function that made it another distribution: no negative numbers, say. */
  readonly isNormal: boolean;
  readonly isPooled: boolean;
}

/**
 * To be called before `fold-batch-norm`: the folded layer's result keeps the name of BatchNormalization's, and so do all
 * values behind it. Sums are taken to be of independent summands, and as normal themselves.
 * @returns by the name of the value, for values of the main graph that BatchNormalization decides
 */
export function batchNormStatistics(model: Model): Map<string, ChannelMoments> {
  const known = new Map<string, Known>();
  const nodes = model.graph.sorted();
  for (const node of nodes) {
    const found = node.domain === '' ? follow(node, known) : undefined;
    if (found) known.set(node.output().name, found);
  }
  return new Map([...known].map(([name, { mean, deviation }]) => [name, { mean, deviation }]));
}

/** The statistics behind a pass that divided channels: what was known before it still is. */
export function dividedStatistics(
  statistics: ReadonlyMap<string, ChannelMoments>,
  scaled: readonly Pick<ScaledGroup, 'divisors'>[],
): Map<string, ChannelMoments> {
  const result = new Map(statistics);
  for (const { divisors } of scaled) {
    for (const [name, own] of divisors) {
      const known = result.get(name);
      if (known?.mean.length !== own.length) continue;
      result.set(name, {
        mean: known.mean.map((mean, channel) => mean / own[channel]),
        deviation: known.deviation.map((deviation, channel) => deviation / own[channel]),
      });
    }
  }
  return result;
}

function follow(node: Node, known: ReadonlyMap<string, Known>): Known | undefined {
  const of = (index: number) => known.get(node.inputs[index]?.name ?? '');
  const first = of(0);
  if (node.op === 'BatchNormalization') return normalized(node);
  if (!first) return undefined;
  switch (node.op) {
    case 'Relu':
      return through(first, (moments) => clippedNormal(moments, 0, Number.POSITIVE_INFINITY), 0);
    case 'Clip': {
      const bounds = clipBounds(node);
      if (!bounds) return undefined;
      return through(first, (moments) => clippedNormal(moments, bounds.min, bounds.max));
    }
    case 'LeakyRelu':
      return through(first, (moments) => leakyNormal(moments, node.float('alpha', Math.fround(0.01))));
    case 'Identity':
    case 'Dropout':
      return first;
    case 'AveragePool':
    case 'GlobalAveragePool':
      return averagesPadding(node) ? undefined : { ...first, isPooled: node.op === 'GlobalAveragePool' };
    case 'Flatten':
      return first.isPooled && node.int('axis', 1) === 1 ? first : undefined;
    case 'Slice': {
      const axes = node.ints('axes') ?? node.inputs[3]?.tensor?.integers();
      return axes?.every((axis) => axis >= 2) ? first : undefined;
    }
    case 'Pad':
      return padded(node, first);
    case 'Concat': {
      const parts = node.inputs.map((_, index) => of(index));
      if (node.int('axis', 0) !== 1 || parts.includes(undefined)) return undefined;
      const all = parts as Known[];
      return {
        mean: Float64Array.from(all.flatMap(({ mean }) => [...mean])),
        deviation: Float64Array.from(all.flatMap(({ deviation }) => [...deviation])),
        isNormal: all.every(({ isNormal }) => isNormal),
        isPooled: all.every(({ isPooled }) => isPooled),
      };
    }
    case 'Add': {
      const second = of(1);
      if (second?.mean.length !== first.mean.length || node.inputs[0] === node.inputs[1]) return undefined;
      return {
        mean: first.mean.map((mean, channel) => mean + second.mean[channel]),
        deviation: first.deviation.map((deviation, channel) => Math.hypot(deviation, second.deviation[channel])),
        isNormal: true,
        isPooled: first.isPooled && second.isPooled,
      };
    }
    default:
      return undefined;
  }
}

/** Zeros as more channels; around a map they would change its mean. */
function padded(node: Node, before: Known): Known | undefined {
  const pads = node.ints('pads') ?? node.inputs[1]?.tensor?.integers();
  const value = node.inputs[2] ? constant(node.inputs[2])?.floats()[0] : node.float('value', 0);
  const rank = (pads?.length ?? 0) / 2;
  if (!pads || rank < 2 || value !== 0 || node.inputs[3] || node.string('mode', 'constant') !== 'constant')
    return undefined;
  if (pads.some((pad, index) => pad < 0 || (pad !== 0 && index % rank !== 1))) return undefined;
  const widened = (numbers: Float64Array) => {
    const all = new Float64Array(pads[1] + numbers.length + pads[rank + 1]);
    all.set(numbers, pads[1]);
    return all;
  };
  return { ...before, mean: widened(before.mean), deviation: widened(before.deviation) };
}

function normalized(node: Node): Known | undefined {
  const [gamma, beta] = [constant(node.inputs[1])?.floats(), constant(node.inputs[2])?.floats()];
  if (!gamma || !beta || node.int('training_mode', 0) !== 0) return undefined;
  return {
    mean: Float64Array.from(beta),
    deviation: Float64Array.from(gamma, Math.abs),
    isNormal: true,
    isPooled: false,
  };
}

/** @param floor the function leaves alone what is not below it: a second Relu changes nothing */
function through(before: Known, change: (moments: Moments) => Moments, floor?: number): Known | undefined {
  if (!before.isNormal) return floor === undefined ? undefined : before;
  const after = Array.from(before.mean, (mean, channel) => change({ mean, deviation: before.deviation[channel] }));
  return {
    mean: Float64Array.from(after, ({ mean }) => mean),
    deviation: Float64Array.from(after, ({ deviation }) => deviation),
    isNormal: false,
    isPooled: before.isPooled,
  };
}
