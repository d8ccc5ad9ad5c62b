/** The gradient of Resize: a product with a constant matrix of weights along each axis that changes. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import { sizeOf } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import { axisOf, numbersIn, type Rule, type Rules, unsupportedForm } from './rule.ts';

/** Where the element `place` of `output` elements lies among `input` ones (onnx/docs/Operators.md, Resize). */
function positionOf(node: Node, place: number, scale: number, input: number, output: number): number {
  const mode = node.string('coordinate_transformation_mode', 'half_pixel');
  switch (mode) {
    case 'half_pixel':
      return (place + 0.5) / scale - 0.5;
    case 'pytorch_half_pixel':
      return output > 1 ? (place + 0.5) / scale - 0.5 : 0;
    case 'asymmetric':
      return place / scale;
    case 'align_corners':
      return output > 1 ? (place * (input - 1)) / (output - 1) : 0;
    default:
      throw unsupportedForm(node, 'half_pixel, pytorch_half_pixel, asymmetric or align_corners', mode);
  }
}

function nearest(node: Node, position: number): number {
  const mode = node.string('nearest_mode', 'round_prefer_floor');
  switch (mode) {
    case 'round_prefer_floor':
      return Math.ceil(position - 0.5);
    case 'round_prefer_ceil':
      return Math.floor(position + 0.5);
    case 'floor':
      return Math.floor(position);
    case 'ceil':
      return Math.ceil(position);
    default:
      throw unsupportedForm(node, 'a known nearest_mode', mode);
  }
}

/** [output, input] row-major: how much of each element of the input is in each of the output. */
function weightsOf(node: Node, scale: number, input: number, output: number): number[] {
  const weights = new Array<number>(output * input).fill(0);
  const mode = node.string('mode', 'nearest');
  if (mode !== 'nearest' && mode !== 'linear') throw unsupportedForm(node, 'mode nearest or linear', mode);
  const last = input - 1;
  for (let place = 0; place < output; place++) {
    const position = positionOf(node, place, scale, input, output);
    if (mode === 'nearest') {
      weights[place * input + Math.min(Math.max(nearest(node, position), 0), last)] = 1;
      continue;
    }
    const clamped = Math.min(Math.max(position, 0), last);
    const first = Math.floor(clamped);
    weights[place * input + first] += 1 - (clamped - first);
    weights[place * input + Math.min(first + 1, last)] += clamped - first;
  }
  return weights;
}

/** ∂L/∂x along an axis of the gradient: [outer, output, inner] → [outer, input, inner]. */
function alongAxis(build: Builder, x: Value, axis: number, weights: readonly number[], input: number): Value {
  const shape = build.shape(x);
  const [outer, inner] = [shape.slice(0, axis), shape.slice(axis + 1)];
  const matrix = build.constant([shape[axis], input], weights, x);
  const result = [...outer, input, ...inner];
  if (sizeOf(inner) === 1) {
    return build.reshape(build.matmul(build.reshape(x, [sizeOf(outer), shape[axis]]), matrix), result);
  }
  const blocks = build.reshape(x, [sizeOf(outer), shape[axis], sizeOf(inner)]);
  return build.reshape(build.matmul(build.transposeMatrix(matrix), blocks), result);
}

const resize: Rule = ({ node, gradient, build }) => {
  if (node.int('antialias', 0) !== 0) throw unsupportedForm(node, 'no antialias', 'it');
  const [input, output] = [build.shape(node.input(0)), build.shape(gradient)];
  const given = node.inputs[2] && build.size(node.input(2)) > 0 ? numbersIn(node.input(2)) : [];
  if (!given) throw unsupportedForm(node, 'constant scales', 'some that are computed');
  const axes = node.ints('axes')?.map((axis) => axisOf(axis, input.length)) ?? input.map((_, axis) => axis);
  let result = gradient;
  input.forEach((size, axis) => {
    if (output[axis] === size) return;
    const scale = given[axes.indexOf(axis)] ?? output[axis] / size;
    result = alongAxis(build, result, axis, weightsOf(node, scale, size, output[axis]), size);
  });
  return [result];
};

export const resizeRules: Rules = { Resize: resize };
