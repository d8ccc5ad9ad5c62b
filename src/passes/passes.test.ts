/** The passes that move, compute and remove: what they change, what they must leave, and that the graph stays sound. */
import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  addIf,
  addInput,
  addNode,
  chooseYes,
  context,
  copyOf,
  difference,
  emptyModel,
  expectSame,
  ints,
  modelOf,
  noise,
  operators,
  run,
} from '../../test/support/before-after.ts';
import { checkModel } from '../graph/check.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { sizeOf, Tensor } from '../tensor/tensor.ts';
import { constantsToInitializers } from './constants-to-initializers.ts';
import { eliminateDead } from './eliminate-dead.ts';
import { foldConstants } from './fold-constants.ts';
import { type PassSkip, passes, runPasses } from './index.ts';
import { liftInitializers } from './lift-initializers.ts';
import { shareInitializers } from './share-initializers.ts';

type Attributes = Parameters<typeof addNode>[3];
const text = (value: string) => new TextEncoder().encode(value);

describe('lift-initializers', () => {
  test('an initializer that is an input too becomes a constant', async () => {
    const model = modelOf([2, 3, 4], (m, x) => {
      const weight = m.graph.addInitializer('w', noise([4]));
      weight.type = { dtype: 'float32', shape: [4] };
      m.graph.inputs.push(weight);
      return addNode(m, 'Add', [x, weight]);
    });
    model.irVersion = 3;
    const lifted = copyOf(model);
    expect(liftInitializers.run(lifted)).toBe(true);
    expect(lifted.graph.inputs.map((value) => value.name)).toEqual(['x']);
    expect(lifted.irVersion).toBe(4);
    expect([...lifted.graph.initializers][0].isConstant).toBe(true);
    const feeds = { x: noise([2, 3, 4]), w: noise([4]) };
    expect(difference(await run(model, feeds), await run(lifted, feeds))).toBe(0);
    expect(liftInitializers.run(lifted)).toBe(false);
  });
});

describe('constants-to-initializers', () => {
  test('every kind of value', async () => {
    const kinds: [Attributes, Tensor][] = [
      [{ value: noise([2, 2]) }, noise([2, 2])],
      [{ value_float: { type: 'float', value: 0.5 } }, Tensor.float32([], [0.5])],
      [{ value_floats: { type: 'floats', value: [1, 2] } }, Tensor.float32([2], [1, 2])],
      [{ value_int: 7 }, Tensor.int64([], [7])],
      [{ value_ints: [7, -1] }, ints(7, -1)],
      [{ value_string: 'a' }, new Tensor('string', [], new Uint8Array(0), [text('a')])],
      [{ value_strings: ['a', 'b'] }, new Tensor('string', [2], new Uint8Array(0), [text('a'), text('b')])],
    ];
    for (const [attributes, expected] of kinds) {
      const model = emptyModel(13, 3);
      const value = addNode(model, 'Constant', [], attributes, 'k');
      model.graph.outputs.push(addNode(model, 'Identity', [value]));
      const before = await run(model);
      expect(constantsToInitializers.run(model)).toBe(true);
      checkModel(model);
      expect(operators(model)).toEqual(['Identity']);
      expect(value.name).toBe('k');
      expect(value.tensor?.equals(expected)).toBe(true);
      expect(model.irVersion).toBe(4);
      expect(difference(before, await run(model))).toBe(0);
      expect(constantsToInitializers.run(model)).toBe(false);
    }
  });

  test('inside branches; a constant that is itself an output stays a node', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [2, 3, 4]);
    const output = addIf(model, (graph, name) => {
      const value = graph.add({
        op: 'Constant',
        inputs: [],
        outputs: [`${name}_k`],
        attributes: { value: noise([4]) },
      });
      return graph.add({ op: 'Add', inputs: [x, value.output()], outputs: [`${name}_y`] }).output();
    });
    model.graph.outputs.push(output, addNode(model, 'Constant', [], { value_int: 3 }, 'three'));
    const edited = copyOf(model);
    expect(constantsToInitializers.run(edited)).toBe(true);
    expect(operators(edited)).toEqual(['If', 'Constant']);
    for (const graph of edited.graph.nodes[0].subgraphs) expect(graph.nodes.map((node) => node.op)).toEqual(['Add']);
    await expectSame(model, edited, { x: noise([2, 3, 4]), ...chooseYes });
  });
});

describe('fold-constants', () => {
  test('a chain becomes one constant, in one evaluation a step', async () => {
    const build = () =>
      modelOf([2, 3, 4], (m, x) => {
        const table = m.graph.addInitializer('table', noise([5, 3, 4]));
        const size = addNode(m, 'Gather', [
          addNode(m, 'Shape', [table], {}, 'shape'),
          m.graph.addInitializer('i', ints(1, 2)),
        ]);
        const target = addNode(m, 'Concat', [m.graph.addInitializer('n', ints(-1)), size], { axis: 0 }, 'target');
        return addNode(m, 'Reshape', [addNode(m, 'Exp', [x], {}, 'e'), target], {}, 'out');
      });
    const model = build();
    let calls = 0;
    const counting = {
      evaluate: (part: Model) => {
        calls++;
        return context.evaluate(part);
      },
    };
    expect(await foldConstants.run(model, counting)).toBe(true);
    expect(calls).toBe(3);
    expect(operators(model)).toEqual(['Exp', 'Reshape']);
    expect([...model.graph.initializers].map((value) => value.name)).toEqual(['target']);
    expect(model.graph.nodes[1].input(1).tensor?.integers()).toEqual([-1, 3, 4]);
    await expectSame(build(), model);
    expect(await foldConstants.run(model, context)).toBe(false);
  });

  test('inside a branch, from constants around it', async () => {
    const build = () => {
      const model = emptyModel(13);
      const x = addInput(model, 'x', [2, 3, 4]);
      const weight = model.graph.addInitializer('w', noise([4, 3]));
      model.graph.outputs.push(
        addIf(model, (graph, name) => {
          const turned = graph.add({ op: 'Transpose', inputs: [weight], outputs: [`${name}_t`] }).output();
          return graph.add({ op: 'Add', inputs: [x, turned], outputs: [`${name}_y`] }).output();
        }),
      );
      return model;
    };
    const model = build();
    expect(await foldConstants.run(model, context)).toBe(true);
    for (const graph of model.graph.nodes[0].subgraphs) {
      expect(graph.nodes.map((node) => node.op)).toEqual(['Add']);
      expect([...graph.initializers].map((value) => value.tensor?.shape)).toEqual([[3, 4]]);
    }
    expect(model.graph.initializers.size).toBe(0);
    await expectSame(build(), model, { x: noise([2, 3, 4]), ...chooseYes });
  });

  test('results much larger than their inputs stay computed', async () => {
    const side = 600;
    const large: [string, (m: Model) => (Value | undefined)[], Attributes?][] = [
      ['ConstantOfShape', (m) => [m.graph.addInitializer('s', ints(side, side))]],
      ['Expand', (m) => [m.graph.addInitializer('v', noise([side])), m.graph.addInitializer('s', ints(side, side))]],
      ['Tile', (m) => [m.graph.addInitializer('v', noise([1, side])), m.graph.addInitializer('s', ints(side, 1))]],
      ['Pad', (m) => [m.graph.addInitializer('v', noise([1, side])), m.graph.addInitializer('s', ints(0, 0, side, 0))]],
      ['Mul', (m) => [m.graph.addInitializer('v', noise([side, 1])), m.graph.addInitializer('s', noise([1, side]))]],
      // Its size is only known afterwards.
      ['MatMul', (m) => [m.graph.addInitializer('v', noise([side, 1])), m.graph.addInitializer('s', noise([1, side]))]],
    ];
    for (const [op, inputs, attributes] of large) {
      const model = emptyModel(13);
      model.graph.outputs.push(addNode(model, 'Neg', [addNode(model, op, inputs(model), attributes, 'large')]));
      expect(await foldConstants.run(model, context), op).toBe(false);
      expect(operators(model)).toEqual([op, 'Neg']);
    }
    const small = emptyModel(13);
    const ones = addNode(small, 'ConstantOfShape', [small.graph.addInitializer('s', ints(20, 20))], {}, 'zeros');
    small.graph.outputs.push(addNode(small, 'Neg', [ones]));
    expect(await foldConstants.run(small, context)).toBe(true);
    expect(ones.tensor?.size).toBe(400);
  });

  test('randomness, quantized forms, graph outputs and overridable values stay', async () => {
    const model = emptyModel(13);
    const weight = model.graph.addInitializer('w', noise([4]));
    const codes = model.graph.addInitializer('q', Tensor.uint8([4], [1, 2, 3, 4]));
    const scale = model.graph.addInitializer('s', Tensor.float32([], [0.5]));
    const open = model.graph.addInitializer('open', noise([4]));
    open.type = { dtype: 'float32', shape: [4] };
    model.graph.inputs.push(open);
    const parts = [
      addNode(model, 'RandomNormalLike', [weight], {}, 'random'),
      addNode(model, 'DequantizeLinear', [codes, scale], {}, 'real'),
      addNode(model, 'Neg', [open], {}, 'negated'),
    ];
    for (const part of parts) model.graph.outputs.push(addNode(model, 'Abs', [part]));
    const direct = addNode(model, 'Exp', [weight], {}, 'direct');
    const x = addInput(model, 'x', [4]);
    model.graph.outputs.push(direct, addNode(model, 'Add', [direct, x], {}, 'sum'));
    expect(await foldConstants.run(model, context)).toBe(false);
  });

  test('packed types stay packed', async () => {
    const model = emptyModel(21, 10);
    const codes = model.graph.addInitializer('q', new Tensor('int4', [4], Uint8Array.of(0x21, 0x43)));
    model.graph.outputs.push(addNode(model, 'Abs', [addNode(model, 'Cast', [codes], { to: 1 }, 'cast')]));
    expect(await foldConstants.run(model, context)).toBe(false);
    expect(Object.values(await run(model))[0].floats()).toEqual(Float32Array.of(1, 2, 3, 4));
  });

  test('what the runtime refuses is skipped and reported; the rest is folded', async () => {
    const model = emptyModel(13);
    const weight = model.graph.addInitializer('w', noise([4]));
    const bad = model.graph.add({
      op: 'Reshape',
      name: 'bad',
      inputs: [weight, model.graph.addInitializer('s', ints(3))],
      outputs: ['bad'],
    });
    const good = ['Abs', 'Exp', 'Neg'].map((op) => addNode(model, op, [weight], {}, op));
    for (const value of [bad.output(), ...good]) model.graph.outputs.push(addNode(model, 'Sqrt', [value]));
    const skips: PassSkip[] = [];
    expect(await foldConstants.run(model, { ...context, onSkip: (skip) => skips.push(skip) })).toBe(true);
    expect(operators(model)).toEqual(['Reshape', 'Sqrt', 'Sqrt', 'Sqrt', 'Sqrt']);
    expect(skips.map(({ pass, node }) => [pass, node])).toEqual([['fold-constants', 'Reshape "bad"']]);
    expect(skips[0].reason).toMatch(/reshape/i);
  });
});

describe('eliminate-dead', () => {
  test('nodes and initializers that no output depends on go, in every graph', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [2, 3, 4]);
    const onlyInside = model.graph.addInitializer('inside', noise([4]));
    const deadWeight = model.graph.addInitializer('dead', noise([4]));
    addNode(model, 'Exp', [addNode(model, 'Add', [x, deadWeight], {}, 'd1')], {}, 'd2');
    model.graph.outputs.push(
      addIf(model, (graph, name) => {
        graph.add({ op: 'Add', inputs: [x, graph.addInitializer(`${name}_dead`, noise([4]))], outputs: [`${name}_d`] });
        return graph.add({ op: 'Add', inputs: [x, onlyInside], outputs: [`${name}_y`] }).output();
      }),
    );
    const edited = copyOf(model);
    expect(eliminateDead.run(edited)).toBe(true);
    expect([...edited.nodes()].map((node) => node.op)).toEqual(['If', 'Add', 'Add']);
    expect([...edited.graphs()].flatMap((graph) => [...graph.initializers].map((value) => value.name))).toEqual([
      'inside',
    ]);
    await expectSame(model, edited, { x: noise([2, 3, 4]), ...chooseYes });
    expect(eliminateDead.run(edited)).toBe(false);
  });

  test('a dead If takes its branches along and lets go of what they read', () => {
    const model = modelOf([4], (m, x) => addNode(m, 'Exp', [x]));
    const weight = model.graph.addInitializer('w', noise([4]));
    addIf(model, (graph, name) => graph.add({ op: 'Neg', inputs: [weight], outputs: [`${name}_y`] }).output());
    expect(eliminateDead.run(model)).toBe(true);
    checkModel(model);
    expect(operators(model)).toEqual(['Exp']);
    expect(weight.users.size).toBe(0);
    expect(model.graph.initializers.size).toBe(0);
  });
});

describe('share-initializers', () => {
  test('equal ones become one; type, shape and every byte count', async () => {
    const sizes = [3, 4] as const;
    const long = noise([20_000]);
    const changed = Tensor.float32(
      [20_000],
      long.floats().map((value, index) => (index === 10_000 ? 9 : value)),
    );
    const tensors: Tensor[] = [
      noise(sizes),
      noise(sizes),
      noise(sizes).reshaped([1, 3, 4]),
      noise(sizes, 2),
      Tensor.int32(sizes, new Int32Array(sizeOf(sizes))),
      Tensor.float32(sizes, new Float32Array(sizeOf(sizes))),
      long,
      changed,
      new Tensor('string', [1], new Uint8Array(0), [text('a')]),
      new Tensor('string', [1], new Uint8Array(0), [text('a')]),
      new Tensor('string', [1], new Uint8Array(0), [text('b')]),
    ];
    const model = emptyModel(13);
    tensors.forEach((tensor, index) => {
      const value = model.graph.addInitializer(`w${index}`, tensor);
      model.graph.outputs.push(addNode(model, 'Identity', [value], {}, `y${index}`));
    });
    const edited = copyOf(model);
    expect(shareInitializers.run(edited)).toBe(true);
    const left = [...edited.graph.initializers].map((value) => value.name);
    expect(left).toEqual(['w0', 'w2', 'w3', 'w4', 'w5', 'w6', 'w7', 'w8', 'w10']);
    checkModel(edited);
    const [before, after] = [await run(model), await run(edited)];
    for (const [name, tensor] of Object.entries(before)) expect(after[name].equals(tensor)).toBe(true);
    expect(shareInitializers.run(edited)).toBe(false);
  });

  test('branches read the equal one around them; what two branches hold moves to the main graph', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [2, 3, 4]);
    const outer = model.graph.addInitializer('outer', noise([4]));
    const sum = addNode(model, 'Add', [x, outer], {}, 'sum');
    model.graph.outputs.push(
      addIf(model, (graph, name) => {
        const tied = graph.addInitializer(`${name}_tied`, noise([4]));
        const own = graph.addInitializer(`${name}_own`, noise([4], 5));
        const first = graph.add({ op: 'Mul', inputs: [sum, tied], outputs: [`${name}_m`] }).output();
        return graph.add({ op: 'Add', inputs: [first, own], outputs: [`${name}_y`] }).output();
      }),
    );
    const edited = copyOf(model);
    expect(shareInitializers.run(edited)).toBe(true);
    const names = [...edited.graphs()].map((graph) => [...graph.initializers].map((value) => value.name));
    expect(names).toEqual([['outer', 'yes_own_1'], [], []]);
    checkModel(edited);
    expect(shareInitializers.run(edited)).toBe(false);
    await expectSame(model, edited, { x: noise([2, 3, 4]), ...chooseYes });
  });

  test('an outer one that an inner name hides is not read under that name', async () => {
    const model = emptyModel(13);
    const x = addInput(model, 'x', [2, 3, 4]);
    const outer = model.graph.addInitializer('k', noise([4]));
    model.graph.outputs.push(addNode(model, 'Add', [x, outer], {}, 'sum'));
    model.graph.outputs.push(
      addIf(model, (graph, name) => {
        const tied = graph.addInitializer(`${name}_tied`, noise([4]));
        const hiding = graph.addInitializer('hiding', noise([4], 6));
        hiding.name = 'k';
        const first = graph.add({ op: 'Mul', inputs: [x, tied], outputs: [`${name}_m`] }).output();
        return graph.add({ op: 'Add', inputs: [first, hiding], outputs: [`${name}_y`] }).output();
      }),
    );
    const edited = copyOf(model);
    expect(shareInitializers.run(edited)).toBe(true);
    checkModel(edited);
    const values = [...edited.graphs()].map((graph) =>
      [...graph.initializers].map((value) => value.tensor?.floats()[0]),
    );
    expect(values).toEqual([[noise([4]).floats()[0], noise([4], 6).floats()[0]], [], []]);
    expect(shareInitializers.run(edited)).toBe(false);
    await expectSame(model, edited, { x: noise([2, 3, 4]), ...chooseYes });
  });

  test('graph outputs and overridable values stay apart', () => {
    const model = emptyModel(13);
    const values = ['a', 'b', 'c'].map((name) => model.graph.addInitializer(name, noise([4])));
    model.graph.outputs.push(values[0], addNode(model, 'Add', [values[1], values[2]]));
    model.graph.inputs.push(values[2]);
    expect(shareInitializers.run(model)).toBe(false);
  });
});

describe('the family', () => {
  test('ids are unique and are the names of the files', () => {
    expect(passes.map((pass) => pass.id)).toEqual([
      'lift-initializers',
      'constants-to-initializers',
      'fold-constants',
      'eliminate-identities',
      'eliminate-dead',
      'upgrade-opset',
      'fold-batch-norm',
      'share-initializers',
    ]);
    const files = readdirSync(new URL('.', import.meta.url));
    for (const pass of passes) expect(files).toContain(`${pass.id}.ts`);
    for (const pass of passes) expect(pass.summary).toMatch(/^[a-z].*[^.]$/);
  });

  test('runs those named, in the order of the list, and says what changed', async () => {
    const build = () =>
      modelOf([2, 3, 4], (m, x) => {
        const one = addNode(m, 'Constant', [], { value: noise([4]) }, 'one');
        const two = addNode(m, 'Constant', [], { value: noise([4]) }, 'two');
        return addNode(
          m,
          'Identity',
          [addNode(m, 'Add', [addNode(m, 'Add', [x, one], {}, 'p'), two], {}, 'q')],
          {},
          'out',
        );
      });
    const named = build();
    expect(await runPasses(named, ['share-initializers', 'constants-to-initializers'], context)).toEqual([
      'constants-to-initializers',
      'share-initializers',
    ]);
    expect(operators(named)).toEqual(['Add', 'Add', 'Identity']);
    const all = build();
    expect(await runPasses(all, undefined, { ...context, opset: 21 })).toEqual([
      'constants-to-initializers',
      'eliminate-identities',
      'upgrade-opset',
      'share-initializers',
    ]);
    expect([all.opset, all.irVersion]).toEqual([21, 10]);
    await expectSame(build(), all);
    expect(await runPasses(all, undefined, { ...context, opset: 21 })).toEqual([]);
    expect(await runPasses(build(), [], context)).toEqual([]);
  });

  test('an unknown id is refused before anything runs', async () => {
    const model = modelOf([4], (m, x) => addNode(m, 'Identity', [x]));
    await expect(runPasses(model, ['eliminate-dead', 'fold-batchnorm'], context)).rejects.toThrow(
      /pass "fold-batchnorm": expected one of lift-initializers, .*share-initializers/,
    );
  });
});
