/** Gradients of operators that normalize: Softmax, and those that take out mean and deviation. */
import type { Value } from '../../graph/value.ts';
import type { Shape } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import { axisOf, type Rule, type Rules, unsupportedForm } from './rule.ts';

/** ∂L/∂x = y · (∂L/∂y − Σ ∂L/∂y · y) along the axis. */
const softmax: Rule = ({ node, gradient, build }) => {
  const y = node.output();
  const axis = axisOf(node.int('axis', -1), build.shape(y).length);
  const weighted = build.multiply(gradient, y);
  return [build.multiply(y, build.subtract(gradient, build.sum(weighted, [axis])))];
};

/** ∂L/∂x = ∂L/∂y − exp(y) · Σ ∂L/∂y along the axis. */
const logSoftmax: Rule = ({ node, gradient, build }) => {
  const y = node.output();
  const axis = axisOf(node.int('axis', -1), build.shape(y).length);
  return [build.subtract(gradient, build.multiply(build.unary('Exp', y), build.sum(gradient, [axis])))];
};

function meanOver(build: Builder, x: Value, axes: readonly number[]): Value {
  const shape = build.shape(x);
  return build.multiply(build.sum(x, axes), 1 / axes.reduce((product, axis) => product * shape[axis], 1));
}

/** The data without its mean (where it is taken out) over the axes, divided by its deviation; and 1 / deviation. */
function normalize(build: Builder, x: Value, axes: readonly number[], epsilon: number, centered: boolean) {
  const middle = centered ? build.subtract(x, meanOver(build, x, axes)) : x;
  const variance = meanOver(build, build.multiply(middle, middle), axes);
  const inverse = build.divide(1, build.unary('Sqrt', build.add(variance, epsilon)));
  return { normalized: build.multiply(middle, inverse), inverse };
}

/** ∂L/∂x of that, from the gradient of `normalized`: what changes mean and deviation is taken out (Ba et al. 2016, §3). */
function throughNormalization(
  build: Builder,
  gradient: Value,
  { normalized, inverse }: ReturnType<typeof normalize>,
  axes: readonly number[],
  centered: boolean,
): Value {
  const along = meanOver(build, build.multiply(gradient, normalized), axes);
  const rest = build.subtract(gradient, build.multiply(normalized, along));
  return build.multiply(centered ? build.subtract(rest, meanOver(build, gradient, axes)) : rest, inverse);
}

/** y = normalized · scale + bias over the axes from `axis` on. */
const layer =
  (centered: boolean): Rule =>
  ({ node, gradient, gradients, needs, build }) => {
    if (gradients.slice(1).some((value) => value)) {
      throw unsupportedForm(node, 'only its first output to be used', 'another one');
    }
    const x = node.input(0);
    const shape = build.shape(x);
    const axes = shape.map((_, axis) => axis).slice(axisOf(node.int('axis', -1), shape.length));
    const parts = normalize(build, x, axes, node.float('epsilon', Math.fround(1e-5)), centered);
    const scale = node.input(1);
    const scaled = build.multiply(gradient, scale);
    const bias = node.inputs[2];
    return [
      needs(0) ? throughNormalization(build, scaled, parts, axes, centered) : undefined,
      needs(1) ? build.sumTo(build.multiply(gradient, parts.normalized), build.shape(scale)) : undefined,
      bias && needs(2) ? build.sumTo(gradient, build.shape(bias)) : undefined,
    ];
  };

/** A number a channel, as it broadcasts against [N, C, …]. */
const perChannel = (build: Builder, value: Value, shape: Shape) =>
  build.reshape(value, [shape[1], ...shape.slice(2).map(() => 1)]);
const allButChannels = (shape: Shape) => shape.map((_, axis) => axis).filter((axis) => axis !== 1);

const instance: Rule = ({ node, gradient, needs, build }) => {
  const x = node.input(0);
  const shape = build.shape(x);
  const axes = shape.map((_, axis) => axis).slice(2);
  const parts = normalize(build, x, axes, node.float('epsilon', Math.fround(1e-5)), true);
  const scaled = build.multiply(gradient, perChannel(build, node.input(1), shape));
  return [
    needs(0) ? throughNormalization(build, scaled, parts, axes, true) : undefined,
    needs(1) ? build.sum(build.multiply(gradient, parts.normalized), allButChannels(shape), false) : undefined,
    needs(2) ? build.sum(gradient, allButChannels(shape), false) : undefined,
  ];
};

/** In inference: y = (x − mean) · scale / √(variance + epsilon) + bias, where mean and variance are given. */
const batch: Rule = ({ node, gradient, needs, build }) => {
  if (node.int('training_mode', 0) !== 0) throw unsupportedForm(node, 'inference', 'training');
  if (needs(3) || needs(4)) throw unsupportedForm(node, 'statistics that are not differentiated', 'some that are');
  const x = node.input(0);
  const shape = build.shape(x);
  const [scale, mean, variance] = [node.input(1), node.input(3), node.input(4)];
  const deviation = build.unary('Sqrt', build.add(variance, node.float('epsilon', Math.fround(1e-5))));
  const centered = () => build.subtract(x, perChannel(build, mean, shape));
  return [
    needs(0) ? build.multiply(gradient, perChannel(build, build.divide(scale, deviation), shape)) : undefined,
    needs(1)
      ? build.divide(build.sum(build.multiply(gradient, centered()), allButChannels(shape), false), deviation)
      : undefined,
    needs(2) ? build.sum(gradient, allButChannels(shape), false) : undefined,
  ];
};

export const normalizationRules: Rules = {
  BatchNormalization: batch,
  InstanceNormalization: instance,
  LayerNormalization: layer(true),
  LogSoftmax: logSoftmax,
  RMSNormalization: layer(false),
  SimplifiedLayerNormalization: layer(false),
  Softmax: softmax,
};
