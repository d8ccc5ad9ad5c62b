/** Removes nodes that no output depends on, and initializers that nothing reads, in every graph. */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import type { Pass } from './pass.ts';

/** Every node that an output of the model depends on; a node with subgraphs depends on all of their outputs. */
function liveNodes(model: Model): Set<Node> {
  const live = new Set<Node>();
  const pending: (Value | undefined)[] = [...model.graph.outputs];
  while (pending.length > 0) {
    const node = pending.pop()?.producer;
    if (!node || live.has(node)) continue;
    live.add(node);
    pending.push(...node.inputs);
    for (const graph of node.subgraphs) pending.push(...graph.outputs);
  }
  return live;
}

function run(model: Model): boolean {
  const live = liveNodes(model);
  let changed = false;
  // An outer graph comes before the graphs inside it, so that those of removed nodes are never reached.
  for (const graph of model.graphs()) {
    const dead = graph.nodes.filter((node) => !live.has(node));
    // First all edges, then the nodes: dead nodes read each other.
    for (const node of dead) {
      node.setInputs([]);
      for (const inner of node.subgraphs) inner.release();
    }
    for (const node of dead) graph.remove(node);
    if (dead.length > 0) changed = true;
  }
  for (const graph of model.graphs()) if (graph.removeUnusedInitializers() > 0) changed = true;
  return changed;
}

export const eliminateDead = {
  id: 'eliminate-dead',
  summary: 'remove nodes and initializers that nothing reads',
  run,
} as const satisfies Pass;
