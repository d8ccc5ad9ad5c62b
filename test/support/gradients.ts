/** For tests of gradients: compares them with central differences of the forward graph, both run by ONNX Runtime. */
import { expect } from 'vitest';
import { addGradients, observeShapes } from '../../src/autodiff/index.ts';
import { createGaussian, createRandom } from '../../src/base/random.ts';
import { writeOnnx } from '../../src/files/onnx/write.ts';
import type { AttributeInput } from '../../src/graph/attribute.ts';
import { checkModel } from '../../src/graph/check.ts';
import { Graph, Names } from '../../src/graph/graph.ts';
import { Model } from '../../src/graph/model.ts';
import type { Value } from '../../src/graph/value.ts';
import { openRuntime, type RuntimeId } from '../../src/runtime/node.ts';
import type { Feeds, Session } from '../../src/runtime/runtime.ts';
import { sizeOf, Tensor } from '../../src/tensor/tensor.ts';

export interface GradientCheck {
  /** Half the distance of the two points of a difference. Default 0.01. */
  readonly step?: number;
  /** Others to try where all elements move and kinks lie close together: the nearest difference counts. Default `[step]`. */
  readonly steps?: readonly number[];
  /** Largest difference, relative to the largest element of the gradient. Default 0.01. */
  readonly tolerance?: number;
  /** Which build of ONNX Runtime. Default the first that loads. */
  readonly runtimeId?: RuntimeId;
  /** How many elements of each input are varied by themselves. Default 24. */
  readonly elements?: number;
}

/** An input of an operator: a shape or a tensor to differentiate by, a constant, or none. */
export type OperatorInput = readonly number[] | Tensor | { readonly constant: Tensor } | undefined;

export interface OperatorCheck extends GradientCheck {
  /** Default 18. */
  readonly opset?: number;
  readonly domain?: string;
  /** Which output to differentiate, of how many. Default the only one. */
  readonly output?: readonly [index: number, count: number];
}

/** Compares the gradients of one operator by all inputs that are no constants with differences. */
export async function checkOperator(
  op: string,
  inputs: readonly OperatorInput[],
  attributes: Readonly<Record<string, AttributeInput>> = {},
  { opset = 18, domain = '', output: [wanted, count] = [0, 1], ...check }: OperatorCheck = {},
): Promise<Feeds> {
  const model = new Model(new Graph('test', new Names()), 8, new Map([['', opset]]));
  if (domain) model.useDomain(domain);
  const feeds: Record<string, Tensor> = {};
  const variables: Value[] = [];
  const values = inputs.map((input, index) => {
    if (!input) return undefined;
    if ('constant' in input) return model.graph.addInitializer(`c${index}`, input.constant);
    const tensor = input instanceof Tensor ? input : gaussian(input, index + 1);
    const value = model.graph.addValue(`x${index}`, { dtype: 'float32', shape: tensor.shape });
    model.graph.inputs.push(value);
    variables.push(value);
    feeds[value.name] = tensor;
    return value;
  });
  const outputs = Array.from({ length: count }, (_, index) => `y${index}`);
  const node = model.graph.add({ op, domain, inputs: values, outputs, attributes });
  model.graph.outputs.push(node.output(wanted));
  return expectGradients(model, variables, feeds, check);
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
  { step = 0.01, steps = [step], tolerance = 0.01, elements = 24, runtimeId }: GradientCheck = {},
): Promise<Feeds> {
  const runtime = await openRuntime(runtimeId);
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
        steps,
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
  { step, steps, tolerance, elements }: Required<Omit<GradientCheck, 'runtimeId'>>,
): Promise<void> {
  const at = feeds[input.name];
  expect(gradient.shape, input.name).toEqual(at.shape);
  const values = at.floats();
  const slopes = gradient.floats();
  const along = async (direction: Float32Array, distance = step) => {
    const moved = (sign: number) =>
      Tensor.float32(
        at.shape,
        values.map((value, index) => value + sign * distance * direction[index]),
      );
    const [up, down] = [moved(1), moved(-1)];
    const difference = (await loss({ ...feeds, [input.name]: up })) - (await loss({ ...feeds, [input.name]: down }));
    return difference / (2 * distance);
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
  // A direction of unit length between the gradient's own and a random one: all elements change, each by little.
  const length = norm(slopes) + 1e-12;
  const noise = gaussian(at.shape, 5).floats();
  const size = norm(noise);
  const mixed = slopes.map((slope, index) => slope / length + noise[index] / size);
  const unit = norm(mixed);
  const direction = mixed.map((value) => value / unit);
  const slope = slopes.reduce((sum, value, index) => sum + value * direction[index], 0);
  const found: number[] = [];
  for (const distance of steps) found.push(await along(direction, distance));
  const error = Math.min(...found.map((expected) => Math.abs(slope - expected))) / length;
  expect(error, `${input.name}: ${slope}, ${found.join(', ')}`).toBeLessThan(tolerance);
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}
