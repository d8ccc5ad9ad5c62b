/** Blocks: where they are cut in the shapes that networks have, and that together they are the whole. */
import { describe, expect, it } from 'vitest';
import { addInput, addOutput, emptyModel, noiseTensor } from '../../test/support/lowered.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { cutBlocks } from './blocks.ts';

function builder(model: Model) {
  const { graph } = model;
  const node = (op: string, name: string, ...inputs: Value[]) => graph.add({ op, inputs, outputs: [name] }).output();
  return {
    node,
    layer: (name: string, input: Value, channels = 4) => {
      const weight = graph.addInitializer(`w_${name}`, noiseTensor([channels, 4, 1, 1]));
      return node('Conv', name, input, weight);
    },
  };
}

/** Three residual blocks behind a first layer. */
function residual(): Model {
  const model = emptyModel();
  const { node, layer } = builder(model);
  let value = node('Relu', 'first', layer('conv', addInput(model.graph, 'x', [1, 4, 6, 6])));
  for (const name of ['a', 'b', 'c']) {
    const branch = layer(`${name}2`, node('Relu', `${name}_relu`, layer(`${name}1`, value)));
    value = node('Relu', `${name}_out`, node('Add', `${name}_sum`, branch, value));
  }
  addOutput(model.graph, value);
  return model;
}

const ends = (model: Model, options = {}) =>
  cutBlocks(model, options).map(({ inputs, outputs }) => `${inputs.join()}>${outputs.join()}`);

describe('cutBlocks', () => {
  it('keeps residual blocks whole, with the activation behind them', () => {
    expect(ends(residual(), { layers: 1 })).toEqual(['>first', 'first>a_out', 'a_out>b_out', 'b_out>c_out']);
  });

  it('joins neighbours until there are layers enough, and not beyond the budget of weights', () => {
    expect(ends(residual())).toEqual(['>a_out', 'a_out>c_out']);
    expect(ends(residual(), { maxWeights: 32 })).toEqual(['>first', 'first>a_out', 'a_out>b_out', 'b_out>c_out']);
    expect(cutBlocks(residual())[0].weights).toEqual(['w_conv', 'w_a1', 'w_a2']);
  });

  it('cuts chains into layers with their activations', () => {
    const model = emptyModel();
    const { node, layer } = builder(model);
    let value = addInput(model.graph, 'x', [1, 4, 6, 6]);
    for (const name of ['a', 'b', 'c']) value = node('Relu', `${name}_relu`, layer(name, value));
    addOutput(model.graph, value);
    expect(ends(model, { layers: 1 })).toEqual(['>a_relu', 'a_relu>b_relu', 'b_relu>c_relu']);
  });

  it('does not count what is computed from the inputs alone as crossing', () => {
    const model = emptyModel();
    const { node, layer } = builder(model);
    const input = addInput(model.graph, 'x', [1, 4, 6, 6]);
    const mask = node('Sigmoid', 'mask', input);
    const a = node('Mul', 'a_masked', layer('a', input), mask);
    addOutput(model.graph, node('Mul', 'b_masked', layer('b', a), mask));
    expect(ends(model, { layers: 1 })).toEqual(['>a_masked', 'a_masked>b_masked']);
  });

  it('cuts where the fewest values cross when a part without single values is too large', () => {
    const model = emptyModel();
    const { node, layer } = builder(model);
    const first = layer('first', addInput(model.graph, 'x', [1, 4, 6, 6]));
    let value = first;
    for (let index = 0; index < 14; index++) value = node('Relu', `r${index}`, layer(`l${index}`, value));
    addOutput(model.graph, node('Add', 'sum', value, first));
    const blocks = cutBlocks(model);
    expect(blocks).toHaveLength(2);
    expect(blocks.flatMap(({ weights }) => weights)).toHaveLength(15);
    expect(blocks.at(-1)?.inputs).toContain('first');
    expect(blocks.at(-1)?.outputs).toEqual(['sum']);
  });

  it('gives outputs of the model that lie in the middle', () => {
    const model = residual();
    const middle = model.graph.nodes.flatMap((node) => node.outputs).find((value) => value?.name === 'b_relu');
    addOutput(model.graph, middle as Value);
    expect(cutBlocks(model, { layers: 1 })[2].outputs).toEqual(['b_relu', 'b_out']);
  });

  it('finds none in a model without weights', () => {
    const model = emptyModel();
    const constant = model.graph.addInitializer('one', Tensor.float32([], [1]));
    addOutput(model.graph, builder(model).node('Add', 'y', addInput(model.graph, 'x', [2]), constant));
    expect(cutBlocks(model)).toEqual([]);
  });
});
