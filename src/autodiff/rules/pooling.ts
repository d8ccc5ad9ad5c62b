/** Gradients of pooling over windows. */
import type { Shape } from '../../tensor/tensor.ts';
import { type Rule, type Rules, requireOpset, unsupportedForm } from './rule.ts';
import { spread, type Window, windowOf } from './window.ts';

/** How many elements each place of the output is the mean of, along one axis. */
function counted(window: Window, axis: number, input: number, output: number, includePadding: boolean): number[] {
  const { kernel, strides, dilations, before, after } = window;
  return Array.from({ length: output }, (_, place) => {
    let count = 0;
    for (let i = 0; i < kernel[axis]; i++) {
      const position = place * strides[axis] + i * dilations[axis] - before[axis];
      if (includePadding ? position < input + after[axis] : position >= 0 && position < input) count++;
    }
    return count;
  });
}

/** 1 / number of elements, for each place of the output. */
function shares(window: Window, input: Shape, output: Shape, includePadding: boolean): number[] {
  let all = [1];
  window.kernel.forEach((_, axis) => {
    const counts = counted(window, axis, input[axis + 2], output[axis + 2], includePadding);
    all = all.flatMap((share) => counts.map((count) => share / count));
  });
  return all;
}

/** Each element gets its share of the means it is in: a transposed convolution with ones, channel by channel. */
const average: Rule = ({ node, gradient, build }) => {
  const input = build.shape(node.input(0));
  const output = build.shape(gradient);
  const window = windowOf(node, input, output, node.ints('kernel_shape') ?? []);
  const [batch, channels, ...places] = output;
  const share = shares(window, input, output, node.int('count_include_pad', 0) === 1);
  const even = share.every((value) => value === share[0]);
  const shared = build.multiply(gradient, even ? share[0] : build.constant([1, 1, ...places], share, gradient));
  const planes = build.reshape(shared, [batch * channels, 1, ...places]);
  const ones = build.constant([1, 1, ...window.kernel], [1], gradient);
  const result = spread(build, planes, ones, [batch * channels, 1, ...input.slice(2)], window, 1);
  return [build.reshape(result, input)];
};

/** Each maximum's gradient goes to the place that the operator's second output names. */
const maximum: Rule = ({ node, gradient, build }) => {
  if (node.int('storage_order', 0) !== 0) throw unsupportedForm(node, 'places in row-major order', 'column-major');
  requireOpset(node, build, 16);
  const x = node.input(0);
  const indices =
    node.outputs[1] ??
    build.model.graph.addValue(`${node.output().name}/places`, {
      dtype: 'int64',
      shape: build.shape(gradient),
    });
  if (!node.outputs[1]) node.setOutput(1, indices);
  const zeros = build.zeros([build.size(x)], x);
  const flat = [zeros, build.reshape(indices, [build.size(gradient)]), build.reshape(gradient, [build.size(gradient)])];
  const sums = build.node('ScatterElements', flat, [build.size(x)], { axis: 0, reduction: 'add' });
  return [build.reshape(sums, build.shape(x))];
};

export const poolingRules: Rules = { AveragePool: average, MaxPool: maximum };
