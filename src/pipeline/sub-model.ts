/** The part of a model that computes chosen values: what a prefix run or a statistic needs, and nothing more. */
import { Graph } from '../graph/graph.ts';
import { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import { Value } from '../graph/value.ts';
import type { DType } from '../tensor/dtype.ts';

/**
 * A model whose outputs are `outputs` (values of the main graph) and whose nodes are those they depend on. It shares
 * nodes and values with `model` and is meant to be written out at once: neither model may be edited meanwhile.
 * @param given values that are not computed but inputs of their own, with their types
 */
export function subModel(model: Model, outputs: readonly Value[], given: ReadonlyMap<Value, DType> = new Map()): Model {
  const needed = new Set<Node>();
  const read = new Set<Value>(outputs);
  const pending: Node[] = [];
  const need = (value: Value) => {
    read.add(value);
    if (value.producer?.graph === model.graph && !given.has(value) && !needed.has(value.producer)) {
      needed.add(value.producer);
      pending.push(value.producer);
    }
  };
  for (const output of outputs) need(output);
  for (let node = pending.pop(); node; node = pending.pop()) node.reads.forEach(need);

  const graph = new Graph(model.graph.name, model.graph.names);
  graph.carried = model.graph.carried;
  graph.inputs.push(...model.graph.inputs);
  for (const [value, dtype] of given) {
    if (read.has(value)) graph.inputs.push(new Value(graph, value.name, { type: { dtype, shape: undefined } }));
  }
  graph.outputs.push(...outputs);
  graph.nodes = model.graph.nodes.filter((node) => needed.has(node));
  for (const value of model.graph.initializers)
    if (read.has(value) || value.isGraphInput) graph.initializers.add(value);
  const part = new Model(graph, model.irVersion, model.opsets);
  part.carried = model.carried;
  return part;
}
