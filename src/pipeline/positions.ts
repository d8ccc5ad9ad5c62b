/** Which layers stand first and last in a graph: those that no other layer comes before, or behind. */
import type { Graph } from '../graph/graph.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { Weight } from '../lowerings/weight.ts';

export interface Positions {
  readonly first: ReadonlySet<Node>;
  readonly last: ReadonlySet<Node>;
}

/** Recurrent layers do not count: they hold most weights of their models and bear low widths well. */
const counted = ['convolution', 'depthwise-convolution', 'transposed-convolution', 'matrix', 'embedding'];

/** First and last layers of the main graph, among the nodes that read `weights`. */
export function findPositions(graph: Graph, weights: readonly Weight[]): Positions {
  const layers = new Set<Node>();
  const all = new Set<Node>();
  for (const weight of weights) {
    for (const use of weight.uses) {
      if (use.kind !== 'other') all.add(use.node);
      if (counted.includes(use.kind)) layers.add(use.node);
    }
  }
  const first = new Set<Node>();
  const last = new Set<Node>();
  const fromInputs = (throughShapes: boolean) => {
    const found = new Set<Node>();
    const next = (node: Node) => (node.is('Shape', 'Size') && !throughShapes ? [] : node.outputs);
    walk(graph.inputs, (value) => [...value.users], next, all, found);
    return found;
  };
  // A table of positions is looked up by what comes from the shape of an input; for other layers shapes are no data.
  for (const node of fromInputs(false)) first.add(node);
  for (const node of fromInputs(true)) if (node.is('Gather')) first.add(node);
  walk(
    graph.outputs,
    (value) => (value.producer ? [value.producer] : []),
    (node) => node.inputs,
    all,
    last,
  );
  const keep = (found: Set<Node>) => new Set([...found].filter((node) => layers.has(node)));
  return { first: keep(first), last: keep(last) };
}

function walk(
  start: readonly Value[],
  nodesAt: (value: Value) => readonly Node[],
  valuesAt: (node: Node) => readonly (Value | undefined)[],
  layers: ReadonlySet<Node>,
  found: Set<Node>,
): void {
  const seen = new Set<Value>(start);
  const pending = [...start];
  for (let value = pending.pop(); value; value = pending.pop()) {
    for (const node of nodesAt(value)) {
      if (layers.has(node)) {
        found.add(node);
        continue;
      }
      for (const next of valuesAt(node)) {
        if (next && !seen.has(next)) {
          seen.add(next);
          pending.push(next);
        }
      }
    }
  }
}
