/** Elements that lie apart in memory, brought into row-major order. */
import { type Shape, sizeOf } from './tensor.ts';

/**
 * The elements of a tensor of `shape`, `width` bytes each, in row-major order. Strides and offset count elements; the
 * caller makes sure that they stay within `bytes`.
 */
export function gatherStrided(
  bytes: Uint8Array,
  shape: Shape,
  strides: readonly number[],
  offset: number,
  width: number,
): Uint8Array {
  const size = sizeOf(shape);
  const result = new Uint8Array(size * width);
  const index = new Array<number>(shape.length).fill(0);
  let source = offset;
  for (let target = 0; target < size; target++) {
    for (let i = 0; i < width; i++) result[target * width + i] = bytes[source * width + i];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      source += strides[axis];
      index[axis] += 1;
      if (index[axis] < shape[axis]) break;
      source -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return result;
}
