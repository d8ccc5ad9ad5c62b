/** The part of a model that a block is, as two models to run: one that gives its error, one that gives gradients as well. */
import { addGradients, addMeanSquaredError, observeShapes } from '../autodiff/index.ts';
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { upgradeOpset } from '../passes/index.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { Block } from './blocks.ts';
import { valuesByName } from './calibrate.ts';
import { cloneModel } from './prepare.ts';
import { runnableBytes } from './runnable.ts';
import { subModel } from './sub-model.ts';

/** A block on its own. What comes from before it, and what is learned, are inputs of its graph. */
export interface BlockModel {
  readonly model: Model;
  /** Name in the whole model → name of the graph's input. */
  readonly inputs: ReadonlyMap<string, string>;
  /** Names of the outputs, and those under which their targets are fed. */
  readonly outputs: readonly { readonly name: string; readonly target: string }[];
  /** Constant of the whole model that is learned → name of the graph's input. */
  readonly learned: ReadonlyMap<string, string>;
}

/**
 * Takes a block out of a model, which stays as it is.
 * @param learned names of values that nodes of the block read: constants, or what is dequantized from them
 */
export function extractBlock(model: Model, block: Block, learned: readonly string[]): BlockModel {
  const copy = cloneModel(model);
  const { graph } = copy;
  const values = valuesByName(graph);
  for (const constant of graph.initializers) values.set(constant.name, constant);
  const given = new Map<string, Value>();
  for (const name of [...block.inputs, ...learned]) {
    const value = values.get(name);
    if (!value) continue;
    const shape = value.tensor?.shape;
    const input = graph.addValue(`${name}/given`, { dtype: 'float32', shape });
    for (const node of [...value.users]) {
      node.inputs.forEach((other, index) => {
        if (other === value) node.setInput(index, input);
      });
    }
    graph.inputs.push(input);
    given.set(name, input);
  }
  const outputs = block.outputs.map((name) => values.get(name)).filter((value) => value !== undefined);
  const part = subModel(copy, outputs);
  const read = new Set(part.graph.nodes.flatMap((node) => node.inputs));
  const inputs = part.graph.inputs.filter((input) => read.has(input));
  part.graph.inputs.splice(0, part.graph.inputs.length, ...inputs);
  const known = new Map([...given].map(([name, value]) => [value, name]));
  const names = inputs.map((input) => [known.get(input) ?? input.name, input.name] as const);
  const isLearned = new Set(learned);
  return {
    model: cloneModel(part),
    outputs: block.outputs.map((name) => ({ name, target: `${name}/target` })),
    inputs: new Map(names.filter(([name]) => !isLearned.has(name))),
    learned: new Map(names.filter(([name]) => isLearned.has(name))),
  };
}

export interface Gradients {
  /** Mean squared error of the block's outputs; of several, the sum, each relative to its target's power. */
  readonly loss: number;
  /** By name in the whole model. */
  readonly gradients: ReadonlyMap<string, Tensor>;
}

/** From this operator set on, every operator that `autodiff` knows has its gradient. */
export const gradientOpset = 16;

/** Runs a block for one size of batch. */
export interface Trainer {
  /** @param feeds by name in the whole model: inputs, what is learned, and targets */
  loss(feeds: Feeds): Promise<number>;
  gradients(feeds: Feeds): Promise<Gradients>;
  close(): Promise<void>;
}

/**
 * @param shares what the error of each output is multiplied with
 * @param feeds of the batch size that all later ones have, as `Trainer.loss` takes them
 * @throws HalftoneError `unsupported` where an operator's gradient is not known
 */
export async function openTrainer(
  { model: extracted, inputs, outputs, learned }: BlockModel,
  shares: readonly number[],
  feeds: Feeds,
  runtime: Runtime,
  threads: number | undefined,
): Promise<Trainer> {
  const model = cloneModel(extracted);
  if (model.opset < gradientOpset) upgradeOpset(model, gradientOpset);
  const { graph } = model;
  const own = new Map([...inputs, ...learned]);
  const renamed = (given: Feeds, names: ReadonlyMap<string, string>) =>
    Object.fromEntries([...names].map(([name, input]) => [input, given[name]]));
  const shapes = await observeShapes(model, renamed(feeds, own), runtime);
  const values = valuesByName(graph);
  const valueNamed = (name: string): Value => {
    const value = values.get(name);
    if (value) return value;
    throw new HalftoneError('internal', `block: expected a value "${name}", got none of this name`);
  };
  let total: Value | undefined;
  for (const [index, { name, target: given }] of outputs.entries()) {
    const { loss, target } = addMeanSquaredError(model, valueNamed(name), given, shapes);
    own.set(given, target.name);
    const factor = graph.addInitializer('share', Tensor.float32([], [shares[index]]));
    shapes.set(factor.name, []);
    const scaled = graph.add({ op: 'Mul', inputs: [loss, factor], outputs: ['share_of_loss'] }).output();
    shapes.set(scaled.name, []);
    total = total ? graph.add({ op: 'Add', inputs: [total, scaled], outputs: ['loss'] }).output() : scaled;
    shapes.set(total.name, []);
  }
  if (!total) throw new HalftoneError('internal', 'block: expected outputs, got none');
  const loss = total;
  const lossBytes = runnableBytes(readingOnly(subModel(model, [loss])));
  const places = [...learned].map(([name, input]) => [name, valueNamed(input)] as const);
  const found = addGradients({ model, output: loss, inputs: places.map(([, value]) => value), shapes });
  const results = places.map(([name, value]) => [name, found.get(value) ?? value] as const);
  const gradientBytes = runnableBytes(
    readingOnly(subModel(model, [loss, ...new Set(results.map(([, value]) => value))])),
  );
  const options = threads ? { threads } : {};
  const both = await runtime.open(gradientBytes, options);
  const lossOf = (given: Feeds) => given[loss.name].floats()[0];
  const namesOf = (session: typeof both) => {
    const declared = new Set(session.inputs.map(({ name }) => name));
    return new Map([...own].filter(([, input]) => declared.has(input)));
  };
  const bothNames = namesOf(both);
  // Who asks for gradients alone needs no second session.
  let forward: { readonly session: typeof both; readonly names: ReadonlyMap<string, string> } | undefined;
  return {
    async loss(given) {
      if (!forward) {
        const session = await runtime.open(lossBytes, options);
        forward = { session, names: namesOf(session) };
      }
      return lossOf(await forward.session.run(renamed(given, forward.names)));
    },
    async gradients(given) {
      const made = await both.run(renamed(given, bothNames));
      return { loss: lossOf(made), gradients: new Map(results.map(([name, value]) => [name, made[value.name]])) };
    },
    async close() {
      await forward?.session.close();
      await both.close();
    },
  };
}

/** Mean square of all numbers; 1 where they are zero. */
export function powerOf(tensors: readonly Tensor[]): number {
  let sum = 0;
  let count = 0;
  for (const tensor of tensors) {
    for (const number of tensor.floats()) sum += number * number;
    count += tensor.size;
  }
  return sum > 0 ? sum / count : 1;
}

/** The part without inputs that nothing reads. */
function readingOnly(part: Model): Model {
  const read = new Set(part.graph.nodes.flatMap((node) => node.inputs));
  const inputs = part.graph.inputs.filter((input) => read.has(input));
  part.graph.inputs.splice(0, part.graph.inputs.length, ...inputs);
  return part;
}
