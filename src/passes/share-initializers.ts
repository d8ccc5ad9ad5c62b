/** Equal initializers become one, so that tied weights stay tied and are quantized once. */
import type { Graph } from '../graph/graph.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { Pass } from './pass.ts';

/** Bytes that enter the hash from each end; equality is decided on all of them. */
const hashedBytes = 4096;

/** FNV-1a, 32 bits (draft-eastlake-fnv, section 2). */
function hash(parts: readonly Uint8Array[]): number {
  let state = 0x811c9dc5;
  for (const part of parts) for (const byte of part) state = Math.imul(state ^ byte, 0x01000193);
  return state >>> 0;
}

function keyOf(tensor: Tensor): string {
  const { bytes, strings } = tensor;
  const parts = strings ?? [bytes.subarray(0, hashedBytes), bytes.subarray(Math.max(hashedBytes, bytes.length - 4096))];
  return `${tensor.dtype}[${tensor.shape.join(',')}]${hash(parts)}`;
}

/** Names that two values of the model have. Reading such a value from an inner graph may find the other one. */
function ambiguousNames(model: Model): Set<string> {
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const graph of model.graphs()) {
    const values = new Set<Value | undefined>([...graph.inputs, ...graph.initializers]);
    for (const node of graph.nodes) for (const output of node.outputs) values.add(output);
    for (const value of values) {
      if (!value) continue;
      if (seen.has(value.name)) twice.add(value.name);
      seen.add(value.name);
    }
  }
  return twice;
}

function run(model: Model): boolean {
  const ambiguous = ambiguousNames(model);
  const parents = new Map<Graph, Graph>();
  const known = new Map<Graph, Map<string, Value[]>>();
  let changed = false;
  for (const graph of model.graphs()) {
    for (const node of graph.nodes) for (const inner of node.subgraphs) parents.set(inner, graph);
    const own = new Map<string, Value[]>();
    known.set(graph, own);
    for (const value of [...graph.initializers]) {
      const { tensor } = value;
      if (!tensor || !value.isConstant || value.isGraphOutput || value.carried) continue;
      const key = keyOf(tensor);
      let same: Value | undefined;
      for (let scope: Graph | undefined = graph; scope && !same; scope = parents.get(scope)) {
        same = known
          .get(scope)
          ?.get(key)
          ?.find((other) => other.tensor?.equals(tensor) && (scope === graph || !ambiguous.has(other.name)));
      }
      if (!same) {
        const alike = own.get(key);
        if (alike) alike.push(value);
        else own.set(key, [value]);
        continue;
      }
      value.replaceWith(same);
      graph.initializers.delete(value);
      changed = true;
    }
  }
  return changed;
}

export const shareInitializers = {
  id: 'share-initializers',
  summary: 'make equal initializers one',
  run,
} as const satisfies Pass;
