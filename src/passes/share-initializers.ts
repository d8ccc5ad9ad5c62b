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
  const { byteLength, strings } = tensor;
  const parts = strings ?? [
    tensor.bytesAt(0, Math.min(hashedBytes, byteLength)),
    tensor.bytesAt(Math.max(Math.min(hashedBytes, byteLength), byteLength - hashedBytes), byteLength),
  ];
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

/** Adds a value to, or takes one from, the values of one key. */
function remember(values: Map<string, Value[]> | undefined, key: string, added?: Value, removed?: Value): void {
  if (!values) return;
  const kept = (values.get(key) ?? []).filter((value) => value !== removed);
  values.set(key, added ? [...kept, added] : kept);
}

/** What moves to the main graph may be equal to what is there already, so one round may call for another. */
function run(model: Model): boolean {
  let changed = false;
  while (shareOnce(model)) changed = true;
  return changed;
}

function shareOnce(model: Model): boolean {
  const ambiguous = ambiguousNames(model);
  const parents = new Map<Graph, Graph>();
  const known = new Map<Graph, Map<string, Value[]>>();
  const elsewhere = new Map<string, Value[]>();
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
      if (!same && graph !== model.graph) {
        // Branches do not see each other's values: what two of them hold moves to the main graph, which both see.
        const twin = elsewhere.get(key)?.find((other) => other.tensor?.equals(tensor));
        if (twin) {
          same = model.graph.addInitializer(twin.name, tensor);
          twin.replaceWith(same);
          twin.graph.initializers.delete(twin);
          remember(elsewhere, key, undefined, twin);
          remember(known.get(twin.graph), key, undefined, twin);
          remember(known.get(model.graph), key, same);
        }
      }
      if (!same) {
        remember(graph === model.graph ? undefined : elsewhere, key, value);
        remember(own, key, value);
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
