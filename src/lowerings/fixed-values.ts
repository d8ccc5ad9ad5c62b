/** Nodes whose results do not depend on what a model is fed, or only on its shape. */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';

/** A larger constant is a table that the model looks things up in, no factor in a computation of sizes. */
const maxFactor = 1024;

const random = [
  'Bernoulli',
  'Multinomial',
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
  'Dropout',
];

/**
 * Nodes that compute with constants alone (they run once, when the file is loaded: packed weights being rebuilt), and
 * those that compute sizes and positions from shapes, whose numbers must stay exact.
 */
export function findFixed(model: Model): Set<Node> {
  const fixed = new Set<Node>();
  const constants = new Set<Value>();
  const sizes = new Set<Value>();
  const mark = (node: Node, values: Set<Value>) => {
    fixed.add(node);
    for (const output of node.outputs) if (output) values.add(output);
  };
  const isConstant = (value: Value | undefined) => !value || value.isConstant || constants.has(value);
  for (const graph of model.graphs()) {
    for (const node of graph.sorted()) {
      if (node.is(...random) || node.subgraphs.length > 0) continue;
      if (node.is('Constant') || (node.inputs.length > 0 && node.inputs.every(isConstant))) mark(node, constants);
      else if (node.is('Shape', 'Size')) mark(node, sizes);
      else if (
        !node.is('ConstantOfShape') &&
        node.inputs.length > 0 &&
        node.inputs.every((value) => (value && sizes.has(value)) || (isConstant(value) && isFactor(value)))
      ) {
        mark(node, sizes);
      }
    }
  }
  return fixed;
}

function isFactor(value: Value | undefined): boolean {
  return !value?.tensor?.isFloat || value.tensor.size <= maxFactor;
}
