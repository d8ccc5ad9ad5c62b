/** A whole model: the main graph, the operator sets it is written in, and what travels through untouched. */
import { HalftoneError } from '../base/errors.ts';
import type { Graph } from './graph.ts';
import type { Node } from './node.ts';

export class Model {
  readonly graph: Graph;
  irVersion: number;
  /** Domain → version; '' is the ONNX domain. */
  readonly opsets: Map<string, number>;
  /** What the reader could not interpret (functions, metadata, training information), handed back to the writer. */
  carried: unknown;

  constructor(graph: Graph, irVersion: number, opsets: Map<string, number>) {
    this.graph = graph;
    this.irVersion = irVersion;
    this.opsets = opsets;
  }

  /** Version of the ONNX operator set. */
  get opset(): number {
    const version = this.opsets.get('');
    if (version === undefined)
      throw new HalftoneError('invalid-file', 'model: expected an import of the ONNX operator set, got none');
    return version;
  }

  /** Declares that nodes of `domain` are used, at least at `version`. */
  useDomain(domain: string, version = 1): void {
    this.opsets.set(domain, Math.max(version, this.opsets.get(domain) ?? 0));
  }

  /** Every graph: the main one first, then the subgraphs of If, Loop, Scan …, outer before inner. */
  *graphs(): Generator<Graph> {
    const pending: Graph[] = [this.graph];
    for (let graph = pending.shift(); graph; graph = pending.shift()) {
      yield graph;
      for (const node of graph.nodes) pending.push(...node.subgraphs);
    }
  }

  /** Every node of every graph. Edits during the walk are safe: each graph's node list is copied first. */
  *nodes(): Generator<Node> {
    for (const graph of this.graphs()) yield* [...graph.nodes];
  }
}
