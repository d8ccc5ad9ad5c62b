/** Straight-through gradients of quantization: rounding counts as nothing, saturation as it is. */
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import { type DType, dtypes } from '../../tensor/dtype.ts';
import type { Shape } from '../../tensor/tensor.ts';
import type { Builder } from '../builder.ts';
import { axisOf, type Rule, type Rules, unsupportedForm } from './rule.ts';

/** Lowest and highest code of an integer type. */
function codesOf(node: Node, dtype: DType): [number, number] {
  const { bits } = dtypes[dtype];
  if (/^uint\d+$/.test(dtype)) return [0, 2 ** bits - 1];
  if (/^int\d+$/.test(dtype)) return [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
  throw unsupportedForm(node, 'integer codes', dtype);
}

/** One scale or zero point, or one for each index along the node's axis, as it broadcasts against `shape`. */
function alongAxis(node: Node, build: Builder, value: Value, shape: Shape): Value {
  if (node.int('block_size', 0) !== 0) throw unsupportedForm(node, 'no block_size', `${node.int('block_size')}`);
  if (build.shape(value).length === 0 || build.size(value) === 1) return build.reshape(value, []);
  const axis = axisOf(node.int('axis', 1), shape.length);
  return build.reshape(
    value,
    shape.slice(axis).map((size, i) => (i === 0 ? size : 1)),
  );
}

/** The zero point as floats; undefined where there is none. */
function zeroPointOf(node: Node, build: Builder, dtype: DType, shape: Shape): Value | undefined {
  const zeroPoint = node.inputs[2];
  return zeroPoint && build.cast(alongAxis(node, build, zeroPoint, shape), dtype);
}

/**
 * codes = saturate(round(x / scale) + zeroPoint), whose gradient is by codes as if they were floats: by x that divided by
 * the scale where the codes do not saturate, else zero (Bengio et al. 2013); by the scale −x / scale² there (Esser et al.
 * 2020, LSQ, equation 3, together with what DequantizeLinear adds).
 */
const quantize: Rule = ({ node, gradient, needs, build }) => {
  const [x, scale] = [node.input(0), node.input(1)];
  const shape = build.shape(x);
  const divisor = alongAxis(node, build, scale, shape);
  const zeroPoint = zeroPointOf(node, build, build.dtype(x), shape);
  const [lowest, highest] = codesOf(node, build.dtype(node.output()));
  const bound = (code: number) => build.multiply(divisor, zeroPoint ? build.subtract(code, zeroPoint) : code);
  // What rounds to the last code is inside.
  const above = build.compare('GreaterOrEqual', x, bound(lowest - 0.5));
  const below = build.compare('LessOrEqual', x, bound(highest + 0.5));
  const inside = build.node('And', [above, below], shape, {}, 'bool');
  const byX = build.where(inside, build.divide(gradient, divisor), 0);
  return [
    needs(0) ? byX : undefined,
    needs(1)
      ? scaleSum(build, build.unary('Neg', build.divide(build.multiply(byX, x), divisor)), divisor, scale)
      : undefined,
  ];
};

/** x = (codes − zeroPoint) · scale. */
const dequantize: Rule = ({ node, gradient, needs, build }) => {
  const [codes, scale] = [node.input(0), node.input(1)];
  const shape = build.shape(codes);
  const factor = alongAxis(node, build, scale, shape);
  const byScale = () => {
    const dtype = build.dtype(gradient);
    const zeroPoint = zeroPointOf(node, build, dtype, shape);
    const floats = build.cast(codes, dtype);
    return build.multiply(gradient, zeroPoint ? build.subtract(floats, zeroPoint) : floats);
  };
  return [
    needs(0) ? build.multiply(gradient, factor) : undefined,
    needs(1) ? scaleSum(build, byScale(), factor, scale) : undefined,
  ];
};

function scaleSum(build: Builder, x: Value, broadcast: Value, scale: Value): Value {
  return build.reshape(build.sumTo(x, build.shape(broadcast)), build.shape(scale));
}

export const quantizationRules: Rules = { DequantizeLinear: dequantize, QuantizeLinear: quantize };
