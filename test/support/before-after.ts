/** For tests of graph passes: single-operator graphs, inputs for real models, and the difference between two runs. */

import { expect } from 'vitest';
import { createRandom } from '../../src/base/random.ts';
import { readOnnx } from '../../src/files/onnx/read.ts';
import { writeOnnx } from '../../src/files/onnx/write.ts';
import type { AttributeInput } from '../../src/graph/attribute.ts';
import { checkModel } from '../../src/graph/check.ts';
import { Graph, Names } from '../../src/graph/graph.ts';
import { Model } from '../../src/graph/model.ts';
import type { Value } from '../../src/graph/value.ts';
import type { PassContext } from '../../src/passes/index.ts';
import { openRuntime } from '../../src/runtime/node.ts';
import type { Feeds, SessionOptions } from '../../src/runtime/runtime.ts';
import type { DType } from '../../src/tensor/dtype.ts';
import { type Shape, sizeOf, Tensor } from '../../src/tensor/tensor.ts';

/** Loads and runs a model once; node by node as written with `optimization: 'disabled'`. */
export async function run(model: Model, feeds: Feeds = {}, options: SessionOptions = {}): Promise<Feeds> {
  const session = await (await openRuntime()).open(writeOnnx(model), options);
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

export const context: PassContext = { evaluate: (model) => run(model, {}, { optimization: 'disabled' }) };

/** An independent copy, by writing and reading. */
export function copyOf(model: Model): Model {
  return readOnnx(writeOnnx(model));
}

/** A float tensor of seeded numbers between −1 and 1. */
export function noise(shape: Shape, seed = 1): Tensor {
  const random = createRandom(seed);
  return Tensor.float32(
    shape,
    Array.from({ length: sizeOf(shape) }, () => random() * 2 - 1),
  );
}

export function emptyModel(opset: number, irVersion = 8): Model {
  return new Model(new Graph('test', new Names()), irVersion, new Map([['', opset]]));
}

/** A graph input; without a shape its rank is unknown. */
export function addInput(model: Model, name: string, shape?: Shape, dtype: DType = 'float32'): Value {
  const value = model.graph.addValue(name, { dtype, shape });
  model.graph.inputs.push(value);
  return value;
}

/** Adds an operator with one output to the main graph. */
export function addNode(
  model: Model,
  op: string,
  inputs: readonly (Value | undefined)[],
  attributes: Readonly<Record<string, AttributeInput>> = {},
  output = 'y',
): Value {
  return model.graph.add({ op, inputs, outputs: [output], attributes }).output();
}

/** The operators of the main graph, in order. */
export function operators(model: Model): string[] {
  return model.graph.nodes.map((node) => node.op);
}

/** What a model is fed: sizes of symbolic axes, values that mean something to it, seeded noise for the rest. */
export interface FeedOptions {
  readonly sizes?: Readonly<Record<string, number>>;
  readonly feeds?: Feeds;
  /** Integer inputs stay below this. */
  readonly vocabulary?: number;
}

export function feedsFor(model: Model, { sizes = {}, feeds = {}, vocabulary = 10 }: FeedOptions): Feeds {
  const random = createRandom(1);
  const made: Record<string, Tensor> = {};
  for (const { name, type, tensor } of model.graph.inputs) {
    if (tensor) continue;
    const shape = (type?.shape ?? []).map((size) => (typeof size === 'number' ? size : (sizes[size ?? ''] ?? 2)));
    const integers = () => Array.from({ length: sizeOf(shape) }, () => Math.floor(random() * vocabulary));
    if (type?.dtype === 'int64') made[name] = Tensor.int64(shape, integers());
    else if (type?.dtype === 'int32') made[name] = Tensor.int32(shape, integers());
    else if (type?.dtype === 'uint8') made[name] = Tensor.uint8(shape, integers());
    else made[name] = noise(shape, Object.keys(made).length + 1);
  }
  return { ...made, ...feeds };
}

/**
 * The largest difference in any output, relative to the largest magnitude in that output; infinite where names, types,
 * shapes, NaN or infinities differ.
 */
export function difference(before: Feeds, after: Feeds): number {
  const names = Object.keys(before);
  if (Object.keys(after).join() !== names.join()) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (const name of names) {
    const [expected, got] = [before[name], after[name]];
    if (expected.dtype !== got.dtype || expected.shape.join() !== got.shape.join()) return Number.POSITIVE_INFINITY;
    if (expected.equals(got)) continue;
    const [a, b] = [expected.floats(), got.floats()];
    let gap = 0;
    let scale = 0;
    for (let i = 0; i < a.length; i++) {
      if (Object.is(a[i], b[i])) continue;
      if (!Number.isFinite(a[i]) || !Number.isFinite(b[i])) return Number.POSITIVE_INFINITY;
      gap = Math.max(gap, Math.abs(a[i] - b[i]));
    }
    for (const value of a) if (Number.isFinite(value)) scale = Math.max(scale, Math.abs(value));
    worst = Math.max(worst, gap / Math.max(scale, 1e-30));
  }
  return worst;
}

/** A model with one float input `x`, and what `body` makes of it as output. */
export function modelOf(
  shape: readonly number[] | undefined,
  body: (model: Model, x: Value) => Value,
  opset = 13,
): Model {
  const model = emptyModel(opset);
  model.graph.outputs.push(body(model, addInput(model, 'x', shape)));
  return model;
}

/** An If on the input `c`, whose branches `yes` and `no` are what `build` makes; the value it returns is the output. */
export function addIf(model: Model, build: (graph: Graph, name: string) => Value): Value {
  const condition = addInput(model, 'c', [], 'bool');
  const branch = (name: string) => {
    const graph = new Graph(name, model.graph.names);
    graph.outputs.push(build(graph, name));
    return { type: 'graph', value: graph } as const;
  };
  return addNode(model, 'If', [condition], { then_branch: branch('yes'), else_branch: branch('no') });
}

export const chooseYes: Feeds = { c: new Tensor('bool', [], Uint8Array.of(1)) };
export const chooseNo: Feeds = { c: new Tensor('bool', [], Uint8Array.of(0)) };

/** A constant vector of integers: a shape, axes, bounds. */
export const ints = (...values: number[]) => Tensor.int64([values.length], values);

/** The edited graph is sound, and both models compute the same bits. */
export async function expectSame(model: Model, edited: Model, feeds: Feeds = { x: noise([2, 3, 4]) }): Promise<void> {
  checkModel(edited);
  expect(difference(await run(model, feeds), await run(edited, feeds))).toBe(0);
}
