/** Gradients of operators that work element by element, with broadcasting. */
import type { Value } from '../../graph/value.ts';
import type { Builder } from '../builder.ts';
import type { Rule, Rules } from './rule.ts';

/** An operator of one input whose gradient is the given product of ∂L/∂y with its derivative. */
const unary =
  (derivative: (build: Builder, gradient: Value, x: Value, y: Value) => Value): Rule =>
  ({ node, gradient, build }) => [derivative(build, gradient, node.input(0), node.output())];

/** An operator of two inputs: what ∂L/∂y becomes for each before it is summed where that input was broadcast. */
const binary =
  (
    left: (build: Builder, gradient: Value, a: Value, b: Value, y: Value) => Value,
    right: (build: Builder, gradient: Value, a: Value, b: Value, y: Value) => Value,
  ): Rule =>
  ({ node, gradient, needs, build }) => {
    const [a, b, y] = [node.input(0), node.input(1), node.output()];
    return [
      needs(0) ? build.sumTo(left(build, gradient, a, b, y), build.shape(a)) : undefined,
      needs(1) ? build.sumTo(right(build, gradient, a, b, y), build.shape(b)) : undefined,
    ];
  };

const multiply: Rule = (input) => {
  const { node, gradient, build } = input;
  const [a, b] = node.inputs;
  if (a && a === b) return [build.multiply(build.multiply(gradient, a), 2)];
  return binary(
    (_, g, __, y) => build.multiply(g, y),
    (_, g, x) => build.multiply(g, x),
  )(input);
};

export const elementwiseRules: Rules = {
  Identity: unary((_, g) => g),
  Neg: unary((build, g) => build.unary('Neg', g)),
  Add: binary(
    (_, g) => g,
    (_, g) => g,
  ),
  Sub: binary(
    (_, g) => g,
    (build, g) => build.unary('Neg', g),
  ),
  Mul: multiply,
  Relu: unary((build, g, _, y) => build.where(build.compare('Greater', y, 0), g, 0)),
};
