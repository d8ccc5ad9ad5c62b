/** Softmax, LogSoftmax and Hardmax before opset 13 see the input as a matrix, split at `axis`; later along `axis` alone. */
import type { Node } from '../../graph/node.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { computedFor, constantFor, type OpsetChange } from './change.ts';

/** The axis along which the later form computes the same; undefined when only the matrix itself will do. */
function equivalentAxis(node: Node): number | undefined {
  // Input and output have the same shape; either may be declared.
  const shape = node.input(0).type?.shape ?? node.input(0).tensor?.shape ?? node.output().type?.shape;
  const declared = node.int('axis', 1);
  if (declared === -1) return -1;
  if (!shape) return undefined;
  const axis = declared < 0 ? declared + shape.length : declared;
  const wide = shape.flatMap((size, index) => (index >= axis && size !== 1 ? [index] : []));
  if (wide.length > 1) return undefined;
  const found = wide[0] ?? shape.length - 1;
  return found === shape.length - 1 ? -1 : found;
}

export const softmaxChanges: readonly OpsetChange[] = [
  {
    ops: ['Softmax', 'LogSoftmax', 'Hardmax'],
    at: 13,
    apply(node) {
      const axis = equivalentAxis(node);
      if (axis !== undefined) {
        node.set('axis', axis);
        return;
      }
      const input = node.input(0);
      const output = node.output();
      const shape = input.type?.shape;
      const known = shape?.every((size): size is number => typeof size === 'number' && size > 0);
      const target = known
        ? constantFor(node, 'shape', Tensor.int64([shape!.length], shape as number[]))
        : computedFor(node, 'Shape', [input]);
      node.setInput(0, computedFor(node, 'Flatten', [input], { axis: node.int('axis', 1) }));
      node.set('axis', -1);
      const matrix = node.graph.addValue(`${output.name}.matrix`);
      node.setOutput(0, matrix);
      const after = node.graph.nodes[node.graph.nodes.indexOf(node) + 1];
      node.graph.add({ op: 'Reshape', inputs: [matrix, target], outputs: [output] }, after);
    },
  },
];
