/** Gradients of matrix products. */
import type { Value } from '../../graph/value.ts';
import type { Builder } from '../builder.ts';
import type { Rule, Rules } from './rule.ts';

/** ∂L/∂a = ∂L/∂y · bᵀ and ∂L/∂b = aᵀ · ∂L/∂y, summed where matrices were broadcast. */
const matmul: Rule = ({ node, gradient, needs, build }) => {
  const [a, b] = [node.input(0), node.input(1)];
  const [left, right] = [build.shape(a), build.shape(b)];
  // Vectors are matrices of one row (a) or one column (b).
  const rows = left.length === 1 ? build.reshape(a, [1, left[0]]) : a;
  const columns = right.length === 1 ? build.reshape(b, [right[0], 1]) : b;
  const shape = [...build.shape(gradient)];
  if (right.length === 1) shape.push(1);
  if (left.length === 1) shape.splice(shape.length - 1, 0, 1);
  const inner = build.reshape(gradient, shape);
  return [
    needs(0)
      ? build.reshape(build.sumTo(build.matmul(inner, build.transposeMatrix(columns)), build.shape(rows)), left)
      : undefined,
    needs(1) ? build.reshape(rightGradient(build, rows, columns, inner), right) : undefined,
  ];
};

/** A weight that all matrices of a batch share has one product over all their rows rather than a sum of products. */
function rightGradient(build: Builder, a: Value, b: Value, gradient: Value): Value {
  const [left, right, given] = [build.shape(a), build.shape(b), build.shape(gradient)];
  const shared = right.length === 2 && left.length > 2;
  const flat = (x: Value, columns: number) => (shared ? build.reshape(x, [build.size(x) / columns, columns]) : x);
  const rows = flat(a, left[left.length - 1]);
  const inner = flat(gradient, given[given.length - 1]);
  return build.sumTo(build.matmul(build.transposeMatrix(rows), inner), right);
}

/** y = alpha · A' · B' + beta · C (onnx/docs/Operators.md, Gemm). */
const gemm: Rule = ({ node, gradient, needs, build }) => {
  const [a, b] = [node.input(0), node.input(1)];
  const [turnA, turnB] = [node.int('transA', 0) !== 0, node.int('transB', 0) !== 0];
  const product = (x: Value, turnX: boolean, y: Value, turnY: boolean) => {
    const [m, n] = [build.shape(x)[turnX ? 1 : 0], build.shape(y)[turnY ? 0 : 1]];
    return build.node('Gemm', [x, y], [m, n], {
      transA: turnX ? 1 : 0,
      transB: turnY ? 1 : 0,
      alpha: { type: 'float', value: node.float('alpha', 1) },
    });
  };
  const c = node.inputs[2];
  const beta = node.float('beta', 1);
  const summed = c && needs(2) ? build.sumTo(gradient, build.shape(c)) : undefined;
  return [
    needs(0) ? (turnA ? product(b, turnB, gradient, true) : product(gradient, false, b, !turnB)) : undefined,
    needs(1) ? (turnB ? product(gradient, true, a, turnA) : product(a, !turnA, gradient, false)) : undefined,
    summed && beta !== 1 ? build.multiply(summed, beta) : summed,
  ];
};

export const productRules: Rules = { MatMul: matmul, Gemm: gemm };
