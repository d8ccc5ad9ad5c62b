/** Gradients of operators that move elements: theirs go back to where they came from. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import { type Shape, sizeOf, Tensor } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import { axisOf, integersIn, numbersIn, type Rule, type Rules, requireOpset, unsupportedForm } from './rule.ts';

/** Whatever gives the elements another shape in the same order. */
const reshape: Rule = ({ node, gradient, build }) => [build.reshape(gradient, build.shape(node.input(0)))];

const transpose: Rule = ({ node, gradient, build }) => {
  const axes = build.shape(gradient).map((_, axis) => axis);
  const permutation = node.ints('perm') ?? [...axes].reverse();
  return [
    build.transpose(
      gradient,
      axes.map((axis) => permutation.indexOf(axis)),
    ),
  ];
};

const concat: Rule = ({ node, gradient, needs, build }) => {
  const axis = axisOf(node.int('axis', 0), build.shape(gradient).length);
  let end = 0;
  return node.inputs.map((value, index) => {
    const start = end;
    end += build.shape(value!)[axis];
    return needs(index) ? build.slice(gradient, [axis], [start], [end]) : undefined;
  });
};

const split: Rule = ({ node, gradient, gradients, build }) => {
  const axis = axisOf(node.int('axis', 0), build.shape(gradient).length);
  return [
    build.concat(
      node.outputs.map((value, index) => gradients[index] ?? build.zeros(build.shape(value!), gradient)),
      axis,
    ),
  ];
};

/** With constant bounds, which zeros fill up; places that are computed are found by slicing their numbers alike. */
const slice: Rule = ({ node, gradient, build }) => {
  const x = node.input(0);
  const shape = build.shape(x);
  if (![1, 2, 3, 4].every((index) => !node.inputs[index] || numbersIn(node.input(index)))) {
    return [scatterBack(node, gradient, build, 'none')];
  }
  const starts = integersIn(node, 1);
  const axes = (node.inputs[3] ? integersIn(node, 3) : starts.map((_, axis) => axis)).map((axis) =>
    axisOf(axis, shape.length),
  );
  const steps = node.inputs[4] ? integersIn(node, 4) : starts.map(() => 1);
  const backward = axes.filter((_, i) => steps[i] < 0);
  let result = build.flip(gradient, backward);
  const before = shape.map(() => 0);
  const after = shape.map(() => 0);
  axes.forEach((axis, i) => {
    const size = shape[axis];
    const count = build.shape(gradient)[axis];
    const step = Math.abs(steps[i]);
    // Bounds beyond the ends are moved there (onnx/docs/Operators.md, Slice); a step back begins at the last element.
    const clamped = Math.min(Math.max(axisOf(starts[i], size), 0), steps[i] < 0 ? size - 1 : size);
    const first = steps[i] < 0 ? clamped - (count - 1) * step : clamped;
    result = withGaps(build, result, axis, step);
    before[axis] = count === 0 ? 0 : first;
    after[axis] = size - before[axis] - build.shape(result)[axis];
  });
  return [build.pad(result, before, after)];
};

/** `step − 1` zeros behind each element along the axis. */
function withGaps(build: Builder, x: Value, axis: number, step: number): Value {
  const shape = build.shape(x);
  if (step === 1 || shape[axis] === 0) return x;
  const [outer, inner] = [shape.slice(0, axis + 1), shape.slice(axis + 1)];
  const single = build.reshape(x, [...outer, 1, ...inner]);
  const none = build.shape(single).map(() => 0);
  const gaps = none.map((_, position) => (position === axis + 1 ? step - 1 : 0));
  const result = build.pad(single, none, gaps);
  return build.reshape(result, [...outer.slice(0, -1), shape[axis] * step, ...inner]);
}

/** For any operator that only picks elements of its first input: the same is done to their numbers, which say where from. */
function scatterBack(node: Node, gradient: Value, build: Builder, reduction: 'none' | 'add'): Value {
  const x = node.input(0);
  const size = build.size(x);
  if (reduction === 'add') requireOpset(node, build, 16);
  const numbers = build.model.graph.addInitializer(
    'gradient/numbers',
    Tensor.int64(
      build.shape(x),
      Array.from({ length: size }, (_, i) => i),
    ),
  );
  const attributes = Object.fromEntries(node.attributes);
  const [count, inputs] = [build.size(gradient), [numbers, ...node.inputs.slice(1)]];
  const places = build.node(node.op, inputs, build.shape(gradient), attributes, 'int64');
  const data = [build.zeros([size], x), build.reshape(places, [count]), build.reshape(gradient, [count])];
  const added = build.node('ScatterElements', data, [size], { axis: 0, ...(reduction === 'add' ? { reduction } : {}) });
  return build.reshape(added, build.shape(x));
}

const picked: Rule = ({ node, gradient, build }) => [scatterBack(node, gradient, build, 'add')];

/** Rows that are read several times get the sum. */
const gather: Rule = ({ node, gradient, build }) => {
  const [x, indices] = [node.input(0), node.input(1)];
  const shape = build.shape(x);
  const axis = axisOf(node.int('axis', 0), shape.length);
  const count = sizeOf(build.shape(indices));
  const [outer, inner] = [shape.slice(0, axis), shape.slice(axis + 1)];
  const constant = numbersIn(indices);
  if (constant?.length === 1) {
    const start = axisOf(constant[0], shape[axis]);
    const place = (number: number) => shape.map((_, i) => (i === axis ? number : 0));
    return [build.pad(build.reshape(gradient, [...outer, 1, ...inner]), place(start), place(shape[axis] - start - 1))];
  }
  // [outer, count, inner] with the rows in front, as a matrix.
  const [left, right] = [sizeOf(outer), sizeOf(inner)];
  const blocks = build.reshape(gradient, [left, count, right]);
  const rows = build.reshape(build.transpose(blocks, [1, 0, 2]), [count, left * right]);
  const sums = build.transpose(
    build.reshape(addRows(build, rows, indices, shape[axis]), [shape[axis], left, right]),
    [1, 0, 2],
  );
  return [build.reshape(sums, shape)];
};

/** [size, width]: each row of `rows` [count, width] added at its index; operator sets without such an operator multiply. */
function addRows(build: Builder, rows: Value, indices: Value, size: number): Value {
  const [count, width] = build.shape(rows);
  const flat = build.reshape(indices, [count]);
  if (build.model.opset >= 16) {
    const data = [build.zeros([size, width], rows), build.reshape(flat, [count, 1]), rows];
    return build.node('ScatterND', data, [size, width], { reduction: 'add' });
  }
  const chosen = build.node(
    'OneHot',
    [flat, build.ints(size), build.constant([2], [0, 1], rows)],
    [count, size],
    {},
    build.dtype(rows),
  );
  return build.matmul(build.transposeMatrix(chosen), rows);
}

const expand: Rule = ({ node, gradient, build }) => [build.sumTo(gradient, build.shape(node.input(0)))];

const tile: Rule = ({ node, gradient, build }) => {
  const shape = build.shape(node.input(0));
  const repeats = build.shape(gradient).map((size, axis) => size / shape[axis]);
  const unfolded = build.reshape(
    gradient,
    shape.flatMap((size, axis) => [repeats[axis], size]),
  );
  return [
    build.sum(
      unfolded,
      shape.map((_, axis) => 2 * axis),
      false,
    ),
  ];
};

const pad: Rule = ({ node, gradient, needs, build }) => {
  const mode = node.string('mode', 'constant');
  if (mode !== 'constant') throw unsupportedForm(node, 'mode "constant"', `"${mode}"`);
  if (needs(2)) throw unsupportedForm(node, 'a value to pad with that is not differentiated', 'one that is');
  const shape: Shape = build.shape(node.input(0));
  const pads = integersIn(node, 1);
  const axes = node.inputs[3]
    ? integersIn(node, 3).map((axis) => axisOf(axis, shape.length))
    : shape.map((_, axis) => axis);
  const back = (offset: number) => {
    const counts = shape.map(() => 0);
    axes.forEach((axis, i) => {
      counts[axis] = 0 - pads[offset + i];
    });
    return counts;
  };
  return [build.pad(gradient, back(0), back(axes.length))];
};

export const movementRules: Rules = {
  Concat: concat,
  Expand: expand,
  Flatten: reshape,
  Gather: gather,
  GatherElements: picked,
  GatherND: picked,
  Pad: pad,
  Reshape: reshape,
  Slice: slice,
  Split: split,
  Squeeze: reshape,
  Tile: tile,
  Transpose: transpose,
  Unsqueeze: reshape,
};
