/** Constant nodes become initializers, in every graph, so that the other passes see one kind of constant. */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import { Tensor } from '../tensor/tensor.ts';
import { allowConstants } from './lift-initializers.ts';
import type { Pass } from './pass.ts';

/** The tensor of a Constant node (onnx/docs/Operators.md, Constant-13); undefined for a sparse one. */
export function constantTensor(node: Node): Tensor | undefined {
  for (const [name, attribute] of node.attributes) {
    switch (attribute.type) {
      case 'tensor':
        return attribute.value;
      case 'float':
        return Tensor.float32([], [attribute.value]);
      case 'floats':
        return Tensor.float32([attribute.value.length], attribute.value);
      case 'int':
        return Tensor.int64([], [attribute.value]);
      case 'ints':
        return Tensor.int64([attribute.value.length], attribute.value);
      case 'string':
        if (name === 'value_string') return new Tensor('string', [], new Uint8Array(0), [attribute.value]);
        break;
      case 'strings':
        return new Tensor('string', [attribute.value.length], new Uint8Array(0), attribute.value);
    }
  }
  return undefined;
}

/** Turns an output of `node` into an initializer of the same name; its users stay. */
export function becomeInitializer(node: Node, index: number, tensor: Tensor): void {
  const value = node.output(index);
  node.setOutput(index, undefined);
  value.tensor = tensor;
  node.graph.initializers.add(value);
}

function run(model: Model): boolean {
  let changed = false;
  for (const node of model.nodes()) {
    if (!node.is('Constant')) continue;
    const tensor = constantTensor(node);
    // A graph output must be made by a node.
    if (!tensor || node.output().isGraphOutput) continue;
    becomeInitializer(node, 0, tensor);
    node.graph.remove(node);
    changed = true;
  }
  if (changed) allowConstants(model);
  return changed;
}

export const constantsToInitializers = {
  id: 'constants-to-initializers',
  summary: 'turn Constant nodes into initializers',
  run,
} as const satisfies Pass;
