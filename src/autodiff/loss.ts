/** Losses to differentiate. */
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { sizeOf } from '../tensor/tensor.ts';
import { Builder, type Shapes } from './builder.ts';

/**
 * Appends loss = mean over all elements of (value − target)², a scalar, where `target` is a new graph input of the value's
 * shape. Nothing is added to the graph's outputs.
 * @param targetName the wanted name of the input, made unique
 */
export function addMeanSquaredError(
  model: Model,
  value: Value,
  targetName: string,
  shapes: Shapes,
): { loss: Value; target: Value } {
  const build = new Builder(model, shapes);
  const shape = build.shape(value);
  const target = model.graph.addValue(targetName, { dtype: build.dtype(value), shape });
  model.graph.inputs.push(target);
  const difference = build.subtract(value, target);
  const squares = build.multiply(difference, difference);
  const sum = build.sum(
    squares,
    shape.map((_, axis) => axis),
    false,
  );
  return { loss: build.multiply(sum, 1 / sizeOf(shape)), target };
}
