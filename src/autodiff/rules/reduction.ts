/** Gradients of sums, means and extremes over axes. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import type { Shape } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import { axisOf, integersIn, type Rule, type Rules } from './rule.ts';

/** The axes a Reduce operator takes: as an attribute in earlier operator sets, as an input in later ones; all by default. */
function reducedAxes(node: Node, shape: Shape): readonly number[] {
  const axes = node.inputs[1] ? integersIn(node, 1) : node.ints('axes');
  if (axes && axes.length > 0) return axes.map((axis) => axisOf(axis, shape.length));
  return node.int('noop_with_empty_axes', 0) === 1 ? [] : shape.map((_, axis) => axis);
}

const spatialAxes = (_: Node, shape: Shape) => shape.map((_size, axis) => axis).slice(2);

/** ∂L/∂x from x, and from ∂L/∂y and y with the reduced axes kept, of size 1; `count` elements became one. */
type Reduction = (build: Builder, gradient: Value, x: Value, y: Value, count: number) => Value;

const reduction =
  (slope: Reduction, axesOf: (node: Node, shape: Shape) => readonly number[] = reducedAxes): Rule =>
  ({ node, gradient, build }) => {
    const x = node.input(0);
    const shape = build.shape(x);
    const axes = axesOf(node, shape);
    const kept = shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
    const count = axes.reduce((product, axis) => product * shape[axis], 1);
    const result = slope(build, build.reshape(gradient, kept), x, build.reshape(node.output(), kept), count);
    return [build.expand(result, shape)];
  };

const sum: Reduction = (_, gradient) => gradient;
const mean: Reduction = (build, gradient, _x, _y, count) => build.multiply(gradient, 1 / count);
/** Equal extremes share the gradient. */
const extreme: Reduction = (build, gradient, x, y) => {
  const chosen = build.where(build.compare('Equal', x, y), build.scalar(1, x), build.scalar(0, x));
  return build.multiply(chosen, build.divide(gradient, build.sumTo(chosen, build.shape(y))));
};

export const reductionRules: Rules = {
  GlobalAveragePool: reduction(mean, spatialAxes),
  GlobalMaxPool: reduction(extreme, spatialAxes),
  ReduceL2: reduction((build, g, x, y) => build.multiply(x, build.divide(g, y))),
  ReduceMax: reduction(extreme),
  ReduceMean: reduction(mean),
  ReduceMin: reduction(extreme),
  ReduceSum: reduction(sum),
  ReduceSumSquare: reduction((build, g, x) => build.multiply(x, build.multiply(g, 2))),
};
