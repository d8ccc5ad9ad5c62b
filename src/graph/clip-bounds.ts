/** The bounds of a Clip, which attributes hold up to opset 10, inputs from opset 11 on. */
import type { Node } from './node.ts';

/** Infinite where there is none; undefined where a bound is not constant. */
export function clipBounds(node: Node): { readonly min: number; readonly max: number } | undefined {
  const bound = (index: number, attribute: string, fallback: number): number | undefined => {
    const value = node.inputs[index];
    if (!value) return node.float(attribute, fallback);
    return value.isConstant && value.tensor?.size === 1 ? value.tensor.floats()[0] : undefined;
  };
  const min = bound(1, 'min', Number.NEGATIVE_INFINITY);
  const max = bound(2, 'max', Number.POSITIVE_INFINITY);
  return min === undefined || max === undefined ? undefined : { min, max };
}
