/** What eliminate-identities removes, what it must leave, and that the graph computes the same bits. */
import { describe, expect, test } from 'vitest';
import {
  addIf,
  addInput,
  addNode,
  chooseNo,
  chooseYes,
  copyOf,
  emptyModel,
  expectSame,
  ints,
  modelOf,
  noise,
  operators,
} from '../../test/support/before-after.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import { eliminateIdentities } from './eliminate-identities.ts';

type Attributes = Parameters<typeof addNode>[3];

describe('eliminate-identities', () => {
  const constant = (model: Model, tensor: Tensor) => model.graph.addInitializer('k', tensor);
  type Row = readonly [
    name: string,
    op: string,
    inputs: (m: Model, x: Value) => (Value | undefined)[],
    Attributes?,
    number?,
  ];
  const only = (_: Model, x: Value) => [x];
  const removed: Row[] = [
    ['Identity', 'Identity', only],
    ['Dropout with a ratio', 'Dropout', only, { ratio: { type: 'float', value: 0.5 } }, 10],
    [
      'Dropout, training false',
      'Dropout',
      (m, x) => [x, undefined, constant(m, new Tensor('bool', [], Uint8Array.of(0)))],
    ],
    ['Cast to the same type', 'Cast', only, { to: 1 }],
    ['Transpose to the same order', 'Transpose', only, { perm: [0, 1, 2] }],
    ['Reshape to zeros', 'Reshape', (m, x) => [x, constant(m, ints(0, 0, 0))]],
    ['Reshape to the same sizes', 'Reshape', (m, x) => [x, constant(m, ints(2, 3, 4))]],
    ['Reshape with one free size', 'Reshape', (m, x) => [x, constant(m, ints(-1, 3, 0))]],
    ['Pad of nothing', 'Pad', (m, x) => [x, constant(m, ints(0, 0, 0, 0, 0, 0))]],
    ['Pad of nothing, attribute', 'Pad', only, { pads: [0, 0, 0, 0, 0, 0] }, 9],
    [
      'Slice to the end',
      'Slice',
      (m, x) => [x, constant(m, ints(0)), constant(m, ints(2147483647)), constant(m, ints(-1))],
    ],
    [
      'Slice of everything',
      'Slice',
      (m, x) => [x, constant(m, ints(0, 0)), constant(m, ints(3, 4)), constant(m, ints(1, 2))],
    ],
    ['Slice, attributes', 'Slice', only, { starts: [0, 0], ends: [2, 9] }, 9],
    ['Concat of one', 'Concat', only, { axis: 1 }],
    ['Sum of one', 'Sum', only],
    ['Expand by ones', 'Expand', (m, x) => [x, constant(m, ints(1, 1))]],
  ];
  const kept: Row[] = [
    ['Dropout in training', 'Dropout', (m, x) => [x, undefined, constant(m, new Tensor('bool', [], Uint8Array.of(1)))]],
    ['Cast to another type', 'Cast', only, { to: 11 }],
    ['Transpose without perm', 'Transpose', only],
    ['Transpose to another order', 'Transpose', only, { perm: [0, 2, 1] }],
    ['Reshape to other sizes', 'Reshape', (m, x) => [x, constant(m, ints(2, 4, 3))]],
    ['Reshape to another rank', 'Reshape', (m, x) => [x, constant(m, ints(0, -1))]],
    ['Pad', 'Pad', (m, x) => [x, constant(m, ints(0, 0, 0, 0, 0, 1))]],
    ['Slice from 1', 'Slice', (m, x) => [x, constant(m, ints(1)), constant(m, ints(9)), constant(m, ints(1))]],
    [
      'Slice to before the end',
      'Slice',
      (m, x) => [x, constant(m, ints(0)), constant(m, ints(3)), constant(m, ints(2))],
    ],
    [
      'Slice with a step',
      'Slice',
      (m, x) => [x, constant(m, ints(0)), constant(m, ints(9)), constant(m, ints(2)), constant(m, ints(2))],
    ],
    ['Concat of two', 'Concat', (_, x) => [x, x], { axis: 1 }],
    ['Expand to more', 'Expand', (m, x) => [x, constant(m, ints(2, 1, 1, 1))]],
    ['Flatten of rank 3', 'Flatten', only],
  ];
  const build = ([, op, inputs, attributes, opset]: Row) =>
    modelOf(
      [2, 3, 4],
      (m, x) =>
        addNode(
          m,
          'Exp',
          [addNode(m, op, inputs(m, addNode(m, 'Cast', [x], { to: 1 }, 'pre')), attributes, 'mid')],
          {},
          'out',
        ),
      opset,
    );

  for (const row of removed) {
    test(`removes ${row[0]}`, async () => {
      const [model, original] = [build(row), build(row)];
      // Only the input is declared; what stands before the operator must be known as well.
      for (const one of [model, original]) one.graph.nodes[0].output().type = { dtype: 'float32', shape: [2, 3, 4] };
      expect(eliminateIdentities.run(model)).toBe(true);
      expect(operators(model)).toEqual(['Exp']);
      expect(model.graph.initializers.size).toBe(0);
      await expectSame(original, model);
      expect(eliminateIdentities.run(model)).toBe(false);
    });
  }
  for (const row of kept) {
    test(`keeps ${row[0]}`, () => {
      const model = build(row);
      model.graph.nodes[0].output().type = { dtype: 'float32', shape: [2, 3, 4] };
      eliminateIdentities.run(model);
      expect(operators(model)).toEqual([row[1], 'Exp']);
    });
  }

  test('keeps what needs a shape or type that nobody declares', () => {
    const target = (m: Model) => [m.graph.addInitializer('k', ints(0, 0, 0))];
    for (const [op, attributes, more] of [
      ['Reshape', {}, target],
      ['Flatten', {}, () => []],
      ['Cast', { to: 1 }, () => []],
    ] as const) {
      const model = modelOf(undefined, (m, x) =>
        addNode(m, op, [addNode(m, 'Exp', [x], {}, 'e'), ...more(m)], attributes, 'mid'),
      );
      expect(eliminateIdentities.run(model), op).toBe(false);
    }
  });

  test('a Dropout whose mask is read stays', () => {
    const model = modelOf([4], (m, x) => {
      const node = m.graph.add({ op: 'Dropout', inputs: [x], outputs: ['d', 'mask'] });
      m.graph.outputs.push(node.output(1));
      return addNode(m, 'Exp', [node.output()]);
    });
    expect(eliminateIdentities.run(model)).toBe(false);
  });

  test('the name of a graph output moves to what made the value', async () => {
    const build = () =>
      modelOf([2, 3, 4], (m, x) => addNode(m, 'Identity', [addNode(m, 'Exp', [x], {}, 'inner')], {}, 'out'));
    const model = build();
    expect(eliminateIdentities.run(model)).toBe(true);
    expect(model.graph.outputs.map((value) => value.name)).toEqual(['out']);
    expect(operators(model)).toEqual(['Exp']);
    await expectSame(build(), model);
  });

  test('an Identity that gives an input, a constant or another output its second name stays', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [2, 3, 4]);
    const e = addNode(model, 'Exp', [x], {}, 'e');
    model.graph.outputs.push(e);
    for (const [index, value] of [x, model.graph.addInitializer('k', noise([2])), e].entries()) {
      model.graph.outputs.push(addNode(model, 'Identity', [value], {}, `copy${index}`));
    }
    const edited = copyOf(model);
    expect(eliminateIdentities.run(edited)).toBe(false);
    await expectSame(model, edited);
  });

  test('an Identity that hands an outer value out of a branch stays; others in the branch go', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [2, 3, 4]);
    const e = addNode(model, 'Exp', [x], {}, 'e');
    model.graph.outputs.push(
      addIf(model, (graph, name) => {
        if (name === 'yes') return graph.add({ op: 'Identity', inputs: [e], outputs: ['yes_y'] }).output();
        const copy = graph.add({ op: 'Identity', inputs: [e], outputs: ['no_copy'] }).output();
        return graph.add({ op: 'Neg', inputs: [copy], outputs: ['no_y'] }).output();
      }),
    );
    const edited = copyOf(model);
    expect(eliminateIdentities.run(edited)).toBe(true);
    expect([...edited.nodes()].map((node) => node.op)).toEqual(['Exp', 'If', 'Identity', 'Neg']);
    await expectSame(model, edited, { x: noise([2, 3, 4]), ...chooseYes });
    await expectSame(model, edited, { x: noise([2, 3, 4]), ...chooseNo });
  });

  test('Transposes in a row become one, or none', async () => {
    for (const [perms, left] of [
      [
        [
          [0, 2, 1],
          [0, 2, 1],
        ],
        0,
      ],
      [
        [
          [1, 2, 0],
          [1, 2, 0],
        ],
        1,
      ],
      [
        [
          [1, 2, 0],
          [1, 2, 0],
          [1, 2, 0],
        ],
        0,
      ],
      [
        [
          [2, 0, 1],
          [0, 2, 1],
          [1, 0, 2],
        ],
        1,
      ],
    ] as const) {
      const build = () =>
        modelOf([2, 3, 4], (m, x) => {
          let value = addNode(m, 'Exp', [x], {}, 'e');
          for (const perm of perms) value = addNode(m, 'Transpose', [value], { perm: [...perm] }, 't');
          return addNode(m, 'Neg', [value], {}, 'out');
        });
      const model = build();
      expect(eliminateIdentities.run(model)).toBe(true);
      expect(operators(model).filter((op) => op === 'Transpose').length).toBe(left);
      await expectSame(build(), model);
      expect(eliminateIdentities.run(model)).toBe(false);
    }
  });

  test('a Transpose that somebody else reads stays for them', async () => {
    const build = () =>
      modelOf([2, 3, 4], (m, x) => {
        const once = addNode(m, 'Transpose', [x], { perm: [0, 2, 1] }, 'once');
        m.graph.outputs.push(addNode(m, 'Exp', [once], {}, 'other'));
        return addNode(m, 'Neg', [addNode(m, 'Transpose', [once], { perm: [0, 2, 1] }, 'twice')], {}, 'out');
      });
    const model = build();
    expect(eliminateIdentities.run(model)).toBe(true);
    expect(operators(model).sort()).toEqual(['Exp', 'Neg', 'Transpose']);
    await expectSame(build(), model);
  });
});
