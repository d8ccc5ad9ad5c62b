/** Gradients of operators that work element by element, with broadcasting. */
import type { Value } from '../../graph/value.ts';
import type { Builder } from '../builder.ts';
import { numbersIn, type Rule, type Rules, unsupportedForm } from './rule.ts';

/** An operator of one input: ∂L/∂x from ∂L/∂y, x and y. */
const unary =
  (derivative: (build: Builder, gradient: Value, x: Value, y: Value) => Value): Rule =>
  ({ node, gradient, build }) => [derivative(build, gradient, node.input(0), node.output())];

/** An operator of two inputs: what ∂L/∂y becomes for each of them before it is summed where that input was broadcast. */
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

const product = binary(
  (build, g, _, b) => build.multiply(g, b),
  (build, g, a) => build.multiply(g, a),
);

const multiply: Rule = (input) => {
  const { node, gradient, build } = input;
  const [a, b] = [node.input(0), node.input(1)];
  return a === b ? [build.multiply(build.multiply(gradient, a), 2)] : product(input);
};

/** Sum of any number of inputs. */
const sum: Rule = ({ node, gradient, needs, build }) =>
  node.inputs.map((value, index) => (value && needs(index) ? build.sumTo(gradient, build.shape(value)) : undefined));

/** ∂L/∂a = p·a^(p−1); the exponent p is no variable. */
const power: Rule = ({ node, gradient, needs, build }) => {
  const [a, exponent] = [node.input(0), node.input(1)];
  if (needs(1)) throw unsupportedForm(node, 'an exponent that is not differentiated', 'one that is');
  const numbers = numbersIn(exponent);
  if (numbers?.length === 1 && numbers[0] === 2) return [build.multiply(build.multiply(gradient, a), 2)];
  const p = build.cast(exponent, build.dtype(a));
  const slope = build.multiply(build.binary('Pow', a, build.subtract(p, 1)), p);
  return [build.sumTo(build.multiply(gradient, slope), build.shape(a))];
};

/** Of two equal elements the first is the one that is taken. */
const extreme =
  (comparison: 'GreaterOrEqual' | 'LessOrEqual'): Rule =>
  ({ node, gradient, needs, build }) => {
    if (node.inputs.length === 1) return [gradient];
    if (node.inputs.length > 2) throw unsupportedForm(node, 'at most two inputs', `${node.inputs.length}`);
    const [a, b] = [node.input(0), node.input(1)];
    const first = build.compare(comparison, a, b);
    return [
      needs(0) ? build.sumTo(build.where(first, gradient, 0), build.shape(a)) : undefined,
      needs(1) ? build.sumTo(build.where(first, 0, gradient), build.shape(b)) : undefined,
    ];
  };

/** The gradient passes where the value was left as it is; a bound gets that of the elements it stands for. */
const clip: Rule = ({ node, gradient, needs, build }) => {
  const [x, y] = [node.input(0), node.output()];
  const beyond = (comparison: string, index: number) => {
    const bound = node.input(index);
    return build.sumTo(build.where(build.compare(comparison, x, bound), gradient, 0), build.shape(bound));
  };
  return [
    needs(0) ? build.masked(build.compare('Equal', x, y), gradient) : undefined,
    needs(1) ? beyond('Less', 1) : undefined,
    needs(2) ? beyond('Greater', 2) : undefined,
  ];
};

const leakyRelu: Rule = ({ node, gradient, build }) => {
  const positive = build.compare('Greater', node.input(0), 0);
  return [build.where(positive, gradient, build.multiply(gradient, node.float('alpha', 0.01)))];
};

const parametricRelu: Rule = ({ node, gradient, needs, build }) => {
  const [x, slope] = [node.input(0), node.input(1)];
  const positive = build.compare('Greater', x, 0);
  return [
    needs(0) ? build.where(positive, gradient, build.multiply(gradient, slope)) : undefined,
    needs(1) ? build.sumTo(build.where(positive, 0, build.multiply(gradient, x)), build.shape(slope)) : undefined,
  ];
};

const exponentialUnit: Rule = ({ node, gradient, build }) => {
  const below = build.multiply(gradient, build.add(node.output(), node.float('alpha', 1)));
  return [build.where(build.compare('Greater', node.input(0), 0), gradient, below)];
};

const hardSigmoid: Rule = ({ node, gradient, build }) => {
  const y = node.output();
  const inside = build.node(
    'And',
    [build.compare('Greater', y, 0), build.compare('Less', y, 1)],
    build.shape(y),
    {},
    'bool',
  );
  return [build.where(inside, build.multiply(gradient, node.float('alpha', Math.fround(0.2))), 0)];
};

/** y = x · max(0, min(1, x/6 + 1/2)) (onnx/docs/Operators.md, HardSwish): its slope is x/3 + 1/2 between −3 and 3. */
const hardSwish: Rule = ({ node, gradient, build }) => {
  const x = node.input(0);
  const inner = build.add(build.multiply(x, 1 / 3), 0.5);
  const upper = build.where(build.compare('Less', x, 3), build.multiply(gradient, inner), gradient);
  return [build.where(build.compare('Greater', x, -3), upper, 0)];
};

/** y = x·Φ(x) with Φ by the error function: its slope is Φ(x) + x·φ(x). */
function exactGelu(build: Builder, gradient: Value, x: Value): Value {
  const cumulative = build.multiply(build.add(build.unary('Erf', build.multiply(x, Math.SQRT1_2)), 1), 0.5);
  const density = build.multiply(
    build.unary('Exp', build.multiply(build.multiply(x, x), -0.5)),
    1 / Math.sqrt(2 * Math.PI),
  );
  return build.multiply(gradient, build.add(cumulative, build.multiply(x, density)));
}

/** y = x/2 · (1 + tanh u), u = √(2/π)·(x + 0.044715·x³) (onnx/docs/Operators.md, Gelu). */
function approximateGelu(build: Builder, gradient: Value, x: Value): Value {
  const factor = Math.sqrt(2 / Math.PI);
  const square = build.multiply(x, x);
  const tangent = build.unary(
    'Tanh',
    build.multiply(build.multiply(x, build.add(build.multiply(square, 0.044715), 1)), factor),
  );
  const slopeOfU = build.multiply(build.add(build.multiply(square, 3 * 0.044715), 1), factor);
  const bend = build.multiply(build.multiply(x, slopeOfU), build.subtract(1, build.multiply(tangent, tangent)));
  return build.multiply(gradient, build.multiply(build.add(build.add(tangent, bend), 1), 0.5));
}

const gelu: Rule = ({ node, gradient, build }) => {
  const form = node.string('approximate', 'none') === 'tanh' ? approximateGelu : exactGelu;
  return [form(build, gradient, node.input(0))];
};

/** y = x · sigmoid(alpha·x) (ONNX Runtime, ContribOperators.md). */
const quickGelu: Rule = ({ node, gradient, build }) => {
  const alpha = node.float('alpha', Math.fround(1.702));
  const scaled = build.multiply(node.input(0), alpha);
  const gate = build.unary('Sigmoid', scaled);
  const slope = build.add(gate, build.multiply(build.multiply(scaled, gate), build.subtract(1, gate)));
  return [build.multiply(gradient, slope)];
};

const where: Rule = ({ node, gradient, needs, build }) => {
  const condition = node.input(0);
  return [
    undefined,
    needs(1) ? build.sumTo(build.where(condition, gradient, 0), build.shape(node.input(1))) : undefined,
    needs(2) ? build.sumTo(build.where(condition, 0, gradient), build.shape(node.input(2))) : undefined,
  ];
};

/** In inference; a constant `training_mode` must be false. */
const dropout: Rule = ({ node, gradient }) => {
  const training = node.inputs[2];
  if (training && numbersIn(training)?.[0] !== 0) throw unsupportedForm(node, 'inference', 'training');
  return [gradient];
};

/** Piecewise constant: no gradient wherever there is one at all. */
const none: Rule = () => [];

export const elementwiseRules: Rules = {
  Abs: unary((build, g, x) => build.multiply(g, build.unary('Sign', x))),
  Add: sum,
  Cast: unary((build, g, x) => build.cast(g, build.dtype(x))),
  Ceil: none,
  Clip: clip,
  Cos: unary((build, g, x) => build.unary('Neg', build.multiply(g, build.unary('Sin', x)))),
  Div: binary(
    (build, g, _, b) => build.divide(g, b),
    (build, g, _, b, y) => build.unary('Neg', build.divide(build.multiply(g, y), b)),
  ),
  Dropout: dropout,
  Elu: exponentialUnit,
  Erf: unary((build, g, x) =>
    build.multiply(
      g,
      build.multiply(build.unary('Exp', build.unary('Neg', build.multiply(x, x))), 2 / Math.sqrt(Math.PI)),
    ),
  ),
  Exp: unary((build, g, _, y) => build.multiply(g, y)),
  Floor: none,
  Gelu: gelu,
  HardSigmoid: hardSigmoid,
  HardSwish: hardSwish,
  Identity: unary((_, g) => g),
  LeakyRelu: leakyRelu,
  Log: unary((build, g, x) => build.divide(g, x)),
  Max: extreme('GreaterOrEqual'),
  Min: extreme('LessOrEqual'),
  Mul: multiply,
  Neg: unary((build, g) => build.unary('Neg', g)),
  PRelu: parametricRelu,
  Pow: power,
  Reciprocal: unary((build, g, _, y) => build.unary('Neg', build.multiply(g, build.multiply(y, y)))),
  Relu: unary((build, g, _, y) => build.masked(build.compare('Greater', y, 0), g)),
  Round: none,
  Sigmoid: unary((build, g, _, y) => build.multiply(g, build.multiply(y, build.subtract(1, y)))),
  Sign: none,
  Sin: unary((build, g, x) => build.multiply(g, build.unary('Cos', x))),
  Softplus: unary((build, g, x) => build.multiply(g, build.unary('Sigmoid', x))),
  Sqrt: unary((build, g, _, y) => build.divide(build.multiply(g, 0.5), y)),
  Sub: binary(
    (_, g) => g,
    (build, g) => build.unary('Neg', g),
  ),
  Sum: sum,
  Tanh: unary((build, g, _, y) => build.multiply(g, build.subtract(1, build.multiply(y, y)))),
  Where: where,
  'com.microsoft:Gelu': gelu,
  'com.microsoft:QuickGelu': quickGelu,
};
