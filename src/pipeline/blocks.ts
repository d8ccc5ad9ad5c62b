/**
 * Cuts a model into blocks for reconstruction: consecutive parts that meet in as few values as possible, one where the
 * graph allows it. Residual blocks, fire modules and halves of transformer blocks have no such place within (BRECQ, Li et
 * al. 2021, §3.2, reconstructs blocks because the error of a layer is made up for best by its neighbours).
 */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { findWeights, type WeightUse } from '../lowerings/weight.ts';

export interface Block {
  /**
   * Names of the values made before the block that its nodes read. What else they read is constant, or computed from the
   * model's inputs without any weight, such as a mask.
   */
  readonly inputs: readonly string[];
  /** Names of the values that later blocks read, or that the model gives. */
  readonly outputs: readonly string[];
  /** Names of the weights of its layers, in graph order. */
  readonly weights: readonly string[];
  /** Names of the results of its nodes. */
  readonly nodes: readonly string[];
}

export interface BlockOptions {
  /** A block takes neighbours in until it has so many layers with weights. Default 3. */
  readonly layers?: number;
  /** It takes none in that would bring it beyond so many weights. Default 4 million. */
  readonly maxWeights?: number;
}

const defaultLayers = 3;
const defaultMaxWeights = 4_000_000;

/** Where the graph has no single value to cut at, parts of more layers than this are cut where the fewest values cross. */
const mostLayers = 12;

/** A node of the main graph with what it reads, also from inside its subgraphs. */
interface Step {
  readonly node: Node;
  readonly reads: readonly Value[];
  readonly layers: readonly { readonly name: string; readonly size: number }[];
}

/** Steps from one position to the next, as in `slice`. */
interface Span {
  readonly from: number;
  readonly to: number;
}

/** The blocks of the main graph in topological order. A model without weights has none. */
export function cutBlocks(model: Model, options: BlockOptions = {}): Block[] {
  const { layers = defaultLayers, maxWeights = defaultMaxWeights } = options;
  const chain = chainOf(model);
  const spans = chain.units({ from: 0, to: chain.length }, maxWeights);
  const blocks: Span[] = [];
  for (const unit of spans) {
    const last = blocks.at(-1);
    const isFull = last && (chain.layers(last) >= layers || chain.size(last) + chain.size(unit) > maxWeights);
    if (last && !(isFull && chain.layers(unit) > 0 && chain.layers(last) > 0)) {
      blocks[blocks.length - 1] = { from: last.from, to: unit.to };
    } else blocks.push(unit);
  }
  return blocks.filter((block) => chain.layers(block) > 0).map((block) => chain.block(block));
}

/** The nodes that depend on weights, in an order of execution, and the values that cross from some to later ones. */
function chainOf(model: Model) {
  const steps = stepsOf(model);
  const made = new Map<Value, number>();
  const lastRead = new Map<Value, number>();
  for (const [position, { node, reads }] of steps.entries()) {
    for (const value of reads) if (made.has(value)) lastRead.set(value, position);
    for (const output of node.outputs) if (output) made.set(output, position);
  }
  const outputs = new Set(model.graph.outputs);
  const crossing = new Int32Array(steps.length + 1);
  for (const [value, position] of lastRead) {
    for (let cut = (made.get(value) as number) + 1; cut <= position; cut++) crossing[cut]++;
  }
  const within = ({ from, to }: Span) => steps.slice(from, to);
  const layers = (span: Span) => within(span).reduce((sum, step) => sum + step.layers.length, 0);
  const size = (span: Span) =>
    within(span).reduce((sum, step) => sum + step.layers.reduce((total, layer) => total + layer.size, 0), 0);

  /** Parts between single values, and parts of those that are too large. */
  const units = (span: Span, maxWeights: number): Span[] => {
    let cuts: number[] = [];
    for (let cut = span.from + 1; cut < span.to; cut++) if (crossing[cut] <= 1) cuts.push(cut);
    if (cuts.length === 0 && (layers(span) > mostLayers || size(span) > maxWeights)) cuts = narrowest(span);
    return cuts.length === 0 ? [span] : between(span, cuts).flatMap((part) => units(part, maxWeights));
  };

  /** The cut with layers on both sides that the fewest values cross; of those, the one nearest to the middle. */
  const narrowest = (span: Span): number[] => {
    const total = layers(span);
    let best: { cut: number; crossing: number; distance: number } | undefined;
    for (let cut = span.from + 1; cut < span.to; cut++) {
      const before = layers({ from: span.from, to: cut });
      if (before === 0 || before === total) continue;
      const distance = Math.abs(2 * before - total);
      const isBetter =
        !best || crossing[cut] < best.crossing || (crossing[cut] === best.crossing && distance < best.distance);
      if (isBetter) best = { cut, crossing: crossing[cut], distance };
    }
    return best ? [best.cut] : [];
  };

  const block = ({ from, to }: Span): Block => {
    const own = within({ from, to });
    const inputs = new Set<string>();
    const results = new Set<string>();
    for (const { node, reads } of own) {
      for (const value of reads) {
        const position = made.get(value);
        if (position !== undefined && position < from) inputs.add(value.name);
      }
      for (const output of node.outputs) {
        if (output && (outputs.has(output) || (lastRead.get(output) ?? -1) >= to)) results.add(output.name);
      }
    }
    const weights = new Set(own.flatMap((step) => step.layers.map(({ name }) => name)));
    const nodes = own.flatMap(({ node }) => node.outputs.flatMap((output) => output?.name ?? []));
    return { inputs: [...inputs], outputs: [...results], weights: [...weights], nodes };
  };
  return { length: steps.length, layers, size, units, block };
}

function between({ from, to }: Span, cuts: readonly number[]): Span[] {
  const ends = [...cuts, to];
  return ends.map((end, index) => ({ from: index === 0 ? from : ends[index - 1], to: end }));
}

/** The steps whose results depend on a weight. */
function stepsOf(model: Model): Step[] {
  const uses = new Map<Node, { use: WeightUse; name: string; size: number }[]>();
  for (const { value, tensor, uses: all } of findWeights(model)) {
    for (const use of all) {
      if (use.kind === 'other') continue;
      uses.set(use.node, [...(uses.get(use.node) ?? []), { use, name: value.name, size: tensor.size }]);
    }
  }
  const weighted = new Set<Value>();
  const steps: Step[] = [];
  for (const node of model.graph.sorted()) {
    const reads = new Set<Value>();
    const layers: { name: string; size: number }[] = [];
    let isWeighted = false;
    const pending: Node[] = [node];
    for (let inner = pending.pop(); inner; inner = pending.pop()) {
      for (const value of inner.inputs) if (value) reads.add(value);
      for (const { use, name, size } of uses.get(inner) ?? []) {
        isWeighted = true;
        if (inner === node && use.kind !== 'embedding') layers.push({ name, size });
      }
      for (const graph of inner.subgraphs) {
        pending.push(...graph.nodes);
        for (const output of graph.outputs) reads.add(output);
      }
    }
    if (!isWeighted && ![...reads].some((value) => weighted.has(value))) continue;
    for (const output of node.outputs) if (output) weighted.add(output);
    steps.push({ node, reads: [...reads], layers });
  }
  return steps;
}
