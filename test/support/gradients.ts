/** For tests of gradients: compares them with central differences of the forward graph, both run by ONNX Runtime. */
import { expect } from 'vitest';
import { addGradients, observeShapes } from '../../src/autodiff/index.ts';
import { createGaussian, createRandom } from '../../src/base/random.ts';
import { writeOnnx } from '../../src/files/onnx/write.ts';
import { checkModel } from '../../src/graph/check.ts';
import type { Model } from '../../src/graph/model.ts';
import type { Value } from '../../src/graph/value.ts';
import { openRuntime } from '../../src/runtime/node.ts';
import type { Feeds, Session } from '../../src/runtime/runtime.ts';
import { sizeOf, Tensor } from '../../src/tensor/tensor.ts';

export interface GradientCheck {
  /** Half the distance of the two points of a difference. Default 0.01. */
  readonly step?: number;
  /** Largest difference, relative to the largest element of the gradient. Default 0.01. */
  readonly tolerance?: number;
  /** How many elements of each input are varied by themselves. Default 24. */
  readonly elements?: number;
}

/** Seeded normal numbers. */
export function gaussian(shape: readonly number[], seed = 1, deviation = 1): Tensor {
  const next = createGaussian(createRandom(seed));
  return Tensor.float32(
    shape,
    Array.from({ length: sizeOf(shape) }, () => deviation * next()),
  );
}

/** Makes an initializer an input of the graph; returns the tensor to feed. */
export function toInput(value: Value): Tensor {
  const tensor = value.tensor!;
  value.graph.initializers.delete(value);
  value.tensor = undefined;
  value.type = { dtype: tensor.dtype, shape: tensor.shape };
  value.graph.inputs.push(value);
  return tensor;
}

/**
 * Adds gradients of the model's first output, weighted by random numbers, by `inputs` (graph inputs, float32) and compares
 * them with differences: some elements, then all at once along a random direction.
 */
export async function expectGradients(
  model: Model,
  inputs: readonly Value[],
  feeds: Feeds,
  { step = 0.01, tolerance = 0.01, elements = 24 }: GradientCheck = {},
): Promise<Feeds> {
  const runtime = await openRuntime();
  const shapes = await observeShapes(model, feeds, runtime);
  const [output] = model.graph.outputs;
  const shape = shapes.get(output.name)!;
  const weights = gaussian(shape, 99);
  const forward = await runtime.open(writeOnnx(model), { threads: 1 });
  const seed = model.graph.addValue('seed', { dtype: 'float32', shape });
  model.graph.inputs.push(seed);
  const gradients = addGradients({ model, output, seed, inputs, shapes });
  model.graph.outputs.splice(0, model.graph.outputs.length, ...new Set(gradients.values()));
  checkModel(model);
  const backward = await runtime.open(writeOnnx(model), { threads: 1 });
  try {
    const found = await backward.run({ ...feeds, [seed.name]: weights });
    const named: Record<string, Tensor> = {};
    for (const [input, gradient] of gradients) {
      named[input.name] = found[gradient.name];
      await compare(input, found[gradient.name], feeds, (changed) => lossOf(forward, output.name, weights, changed), {
        step,
        tolerance,
        elements,
      });
    }
    return named;
  } finally {
    await forward.close();
    await backward.close();
  }
}

async function lossOf(session: Session, output: string, weights: Tensor, feeds: Feeds): Promise<number> {
  const given = Object.fromEntries(session.inputs.map(({ name }) => [name, feeds[name]]));
  const results = (await session.run(given))[output].floats();
  return weights.floats().reduce((sum, weight, index) => sum + weight * results[index], 0);
}

async function compare(
  input: Value,
  gradient: Tensor,
  feeds: Feeds,
  loss: (feeds: Feeds) => Promise<number>,
  { step, tolerance, elements }: Required<GradientCheck>,
): Promise<void> {
  const at = feeds[input.name];
  expect(gradient.shape, input.name).toEqual(at.shape);
  const values = at.floats();
  const slopes = gradient.floats();
  const along = async (direction: Float32Array) => {
    const moved = (sign: number) =>
      Tensor.float32(
        at.shape,
        values.map((value, index) => value + sign * step * direction[index]),
      );
    const [up, down] = [moved(1), moved(-1)];
    const difference = (await loss({ ...feeds, [input.name]: up })) - (await loss({ ...feeds, [input.name]: down }));
    return difference / (2 * step);
  };
  const largest = slopes.reduce((most, slope) => Math.max(most, Math.abs(slope)), 1e-6);
  const random = createRandom(7);
  const chosen = Array.from({ length: Math.min(elements, values.length) }, (_, i) =>
    values.length <= elements ? i : Math.floor(random() * values.length),
  );
  for (const index of chosen) {
    const direction = new Float32Array(values.length);
    direction[index] = 1;
    const expected = await along(direction);
    expect(
      Math.abs(slopes[index] - expected) / largest,
      `${input.name}[${index}]: ${slopes[index]}, ${expected}`,
    ).toBeLessThan(tolerance);
  }
  // A direction of unit length: all elements change, each by little.
  const direction = gaussian(at.shape, 5).floats().slice();
  const length = Math.hypot(...direction);
  for (let i = 0; i < direction.length; i++) direction[i] /= length;
  const expected = await along(direction);
  const slope = slopes.reduce((sum, value, index) => sum + value * direction[index], 0);
  const scale = Math.hypot(...slopes) / Math.sqrt(slopes.length) + 1e-6;
  expect(Math.abs(slope - expected) / scale, `${input.name}: ${slope}, ${expected}`).toBeLessThan(3 * tolerance);
}
