/** Gradients of sums and means over axes. */

import type { Node } from '../../graph/node.ts';
import type { Shape } from '../../tensor/tensor.ts';
import { axisOf, constantInput, type Rule, type Rules } from './rule.ts';

/** The axes a Reduce operator takes: as an attribute in earlier operator sets, as an input in later ones; all by default. */
function reducedAxes(node: Node, shape: Shape): readonly number[] {
  const axes = node.inputs[1] ? constantInput(node, 1) : node.ints('axes');
  if (axes && axes.length > 0) return axes.map((axis) => axisOf(axis, shape.length));
  return node.int('noop_with_empty_axes', 0) === 1 ? [] : shape.map((_, axis) => axis);
}

const sum =
  (mean: boolean): Rule =>
  ({ node, gradient, build }) => {
    const shape = build.shape(node.input(0));
    const axes = reducedAxes(node, shape);
    const kept = build.reshape(
      gradient,
      shape.map((size, axis) => (axes.includes(axis) ? 1 : size)),
    );
    const count = axes.reduce((product, axis) => product * shape[axis], 1);
    return [build.expand(mean ? build.divide(kept, count) : kept, shape)];
  };

export const reductionRules: Rules = { ReduceSum: sum(false), ReduceMean: sum(true) };
