/** Random sequences of edits keep the graph's invariants, with subgraphs that read values of the graph around them. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../base/errors.ts';
import { Tensor } from '../tensor/tensor.ts';
import { checkModel } from './check.ts';
import { Graph, Names } from './graph.ts';
import { Model } from './model.ts';
import type { Node } from './node.ts';
import { Value } from './value.ts';

function emptyModel(): Model {
  const graph = new Graph('main', new Names());
  for (const name of ['x', 'z']) {
    const value = graph.addValue(name, { dtype: 'float32', shape: [2] });
    graph.inputs.push(value);
  }
  const first = graph.add({ op: 'Add', name: 'first', inputs: graph.inputs, outputs: ['y', 'unused'] });
  graph.outputs.push(first.output(0), first.output(0), graph.inputs[1]);
  return new Model(graph, 10, new Map([['', 21]]));
}

/** One edit: the numbers choose among what there is. */
type Edit = readonly [kind: (typeof kinds)[number], a: number, b: number, c: number];
const kinds = [
  'add',
  'addInitializer',
  'setInput',
  'setInputs',
  'replaceWith',
  'redirectOutput',
  'remove',
  'sort',
  'addSubgraph',
  'growSubgraph',
  'moveSubgraph',
  'dropSubgraph',
  'takeOutput',
  'removeUnusedInitializers',
  'insertBefore',
] as const;

const edit: fc.Arbitrary<Edit> = fc.tuple(fc.constantFrom(...kinds), fc.nat(1000), fc.nat(1000), fc.nat(1000));

const pick = <T>(list: readonly T[], index: number): T => list[index % list.length];

/** Everything a node of `graph` may read: its own values and those of the graphs around it. */
function visible(graph: Graph): Value[] {
  const values: Value[] = [];
  for (let around: Graph | undefined = graph; around; around = around.owner?.graph) {
    values.push(...around.inputs, ...around.initializers);
    for (const node of around.nodes) for (const output of node.outputs) if (output) values.push(output);
  }
  return [...new Set(values)];
}

/** All that `value` is computed from, through subgraphs and the nodes that hold them. */
function dependsOn(value: Value, node: Node): boolean {
  const seen = new Set<Node>();
  const visit = (reader: Node): boolean => {
    if (reader === node) return true;
    if (seen.has(reader)) return false;
    seen.add(reader);
    const needs = [...reader.inputs].flatMap((input) => (input?.producer ? [input.producer] : []));
    for (const graph of reader.subgraphs) needs.push(...graph.nodes);
    return needs.some(visit);
  };
  return value.producer !== undefined && visit(value.producer);
}

/** The nodes that hold `graph`, itself excluded: reading their outputs inside it would be a cycle. */
function holders(graph: Graph): Node[] {
  const nodes: Node[] = [];
  for (let owner = graph.owner; owner; owner = owner.graph.owner) nodes.push(owner);
  return nodes;
}

function readable(node: Node, values: readonly Value[]): Value[] {
  return values.filter((value) => [node, ...holders(node.graph)].every((reader) => !dependsOn(value, reader)));
}

const scalar = Tensor.float32([1], [0.5]);

function apply(model: Model, [kind, a, b, c]: Edit): void {
  const graph = pick([...model.graphs()], a);
  const nodes = graph.nodes;
  const values = visible(graph).filter((value) => holders(graph).every((holder) => !dependsOn(value, holder)));
  const anywhere = [...model.nodes()];
  const withSubgraph = anywhere.filter((node) => node.subgraphs.length > 0);
  switch (kind) {
    case 'add':
      graph.add({ op: 'Mul', inputs: [pick(values, b), undefined, pick(values, c)], outputs: ['v', undefined, 'v'] });
      return;
    case 'insertBefore': {
      if (nodes.length === 0) return;
      const node = pick(nodes, b);
      graph.add({ op: 'Abs', inputs: [pick(readable(node, values), c)], outputs: ['before'] }, node);
      return;
    }
    case 'addInitializer':
      graph.addInitializer('weight', scalar);
      return;
    case 'setInput': {
      if (nodes.length === 0) return;
      const node = pick(nodes, b);
      node.setInput(c % 4, c % 3 === 0 ? undefined : pick(readable(node, values), c));
      return;
    }
    case 'setInputs': {
      if (nodes.length === 0) return;
      const node = pick(nodes, b);
      node.setInputs(c % 2 === 0 ? node.inputs : [pick(readable(node, values), c), pick(readable(node, values), b)]);
      return;
    }
    case 'replaceWith': {
      const from = pick(values, b);
      const candidates = visible(from.graph).filter((to) =>
        [...from.users, ...[from.graph, ...[...from.users].map((user) => user.graph)].flatMap(holders)].every(
          (user) => !dependsOn(to, user),
        ),
      );
      if (candidates.length > 0) from.replaceWith(pick(candidates, c));
      return;
    }
    case 'redirectOutput': {
      if (graph.outputs.length === 0) return;
      const index = b % graph.outputs.length;
      if (!graph.outputs[index].isGraphInput) graph.redirectOutput(index, pick(values, c));
      return;
    }
    case 'remove': {
      if (nodes.length === 0) return;
      const node = pick(nodes, b);
      const needed = node.outputs.some((output) => output && (output.users.size > 0 || output.isGraphOutput));
      if (needed) expect(() => graph.remove(node)).toThrow('expected no users');
      else graph.remove(node);
      return;
    }
    case 'sort':
      graph.sort();
      return;
    case 'addSubgraph': {
      if ([...model.graphs()].length > 6) return;
      const inner = new Graph(`inner${b}`, graph.names);
      const node = graph.add({
        op: 'If',
        inputs: [pick(values, b)],
        outputs: ['branched'],
        attributes: { then_branch: { type: 'graph', value: inner } },
      });
      const made = inner.add({
        op: 'Add',
        inputs: [pick(values, c), inner.addInitializer('w', scalar)],
        outputs: ['i'],
      });
      inner.outputs.push(made.output());
      expect(inner.owner).toBe(node);
      return;
    }
    case 'growSubgraph': {
      if (withSubgraph.length === 0) return;
      const inner = pick(withSubgraph, b).subgraphs[0];
      const choices = visible(inner).filter((value) => holders(inner).every((holder) => !dependsOn(value, holder)));
      inner.add({ op: 'Neg', inputs: [pick(choices, c)], outputs: ['grown'] });
      return;
    }
    case 'moveSubgraph': {
      // a new node takes over the subgraph and the outputs; the old one goes
      if (withSubgraph.length === 0) return;
      const old = pick(withSubgraph, b);
      const copy = old.graph.add({
        op: 'If',
        inputs: old.inputs,
        outputs: old.outputs,
        attributes: Object.fromEntries(old.attributes),
      });
      old.graph.remove(old);
      expect(copy.subgraphs.every((inner) => inner.owner === copy)).toBe(true);
      return;
    }
    case 'dropSubgraph':
      if (withSubgraph.length > 0) pick(withSubgraph, b).set('then_branch', undefined);
      return;
    case 'takeOutput': {
      // a new node makes a value that another made until now
      if (nodes.length === 0) return;
      const taken = pick(nodes, b).outputs.find((output) => output);
      if (!taken) return;
      const safe = graph.inputs.length > 0 ? graph.inputs : model.graph.inputs;
      graph.add({ op: 'Relu', inputs: [safe[0]], outputs: [taken] });
      return;
    }
    case 'removeUnusedInitializers':
      graph.removeUnusedInitializers();
      return;
  }
}

/** Orders every graph, as passes do before they hand the model on. */
function sortAll(model: Model): void {
  for (const graph of model.graphs()) graph.sort();
}

describe('random edits', () => {
  it('keep users, producers, names and scopes right', () => {
    const counts = new Map<string, number>();
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 40 }), (edits) => {
        const model = emptyModel();
        const inputNames = model.graph.inputs.map((value) => value.name);
        const outputNames = model.graph.outputs.map((value) => value.name);
        for (const step of edits) {
          apply(model, step);
          counts.set(step[0], (counts.get(step[0]) ?? 0) + 1);
          sortAll(model);
          checkModel(model);
        }
        expect(model.graph.inputs.map((value) => value.name)).toEqual(inputNames);
        expect(model.graph.outputs.map((value) => value.name)).toEqual(outputNames);
      }),
      { seed: 3, numRuns: 500 },
    );
    expect([...counts.keys()].sort()).toEqual([...kinds].sort());
  });

  it('sort keeps an order that is right already', () => {
    fc.assert(
      fc.property(fc.array(edit, { maxLength: 30 }), (edits) => {
        const model = emptyModel();
        for (const step of edits) apply(model, step);
        sortAll(model);
        const order = [...model.graph.nodes];
        model.graph.sort();
        expect(model.graph.nodes).toEqual(order);
      }),
      { seed: 4, numRuns: 100 },
    );
  });
});

describe('single edits', () => {
  it('an output listed twice moves as one', () => {
    const { graph } = emptyModel();
    const relu = graph.add({ op: 'Relu', inputs: [graph.inputs[0]], outputs: ['r'] });
    graph.redirectOutput(0, relu.output());
    expect(graph.outputs.map((value) => [value.name, value.producer?.op])).toEqual([
      ['y', 'Relu'],
      ['y', 'Relu'],
      ['z', undefined],
    ]);
  });

  it('an output that is an initializer or input gets an Identity', () => {
    const model = emptyModel();
    const { graph } = model;
    graph.redirectOutput(0, graph.addInitializer('c', scalar));
    expect(graph.outputs[0].producer?.op).toBe('Identity');
    expect(graph.outputs[0].name).toBe('y');
    checkModel(model);
  });

  it('an output that is an input cannot be redirected, and stays when its readers move', () => {
    const model = emptyModel();
    const { graph } = model;
    const z = graph.inputs[1];
    expect(() => graph.redirectOutput(2, graph.inputs[0])).toThrow(HalftoneError);
    z.replaceWith(graph.inputs[0]);
    expect([graph.outputs[2], z.users.size]).toEqual([z, 0]);
    checkModel(model);
  });

  it('a node of another graph is not removed', () => {
    const [one, other] = [emptyModel(), emptyModel()];
    expect(() => one.graph.remove(other.graph.nodes[0])).toThrow('expected a node of graph "main"');
  });

  it('outputs in use are not cut off', () => {
    const { graph } = emptyModel();
    const [node] = graph.nodes;
    node.truncateOutputs(1);
    expect(node.outputs).toHaveLength(1);
    expect(() => node.truncateOutputs(0)).toThrow('expected no users of output "y"');
  });

  it('names are unique however often a hint is used', () => {
    const names = new Names();
    names.take('a_1');
    expect([names.fresh('a'), names.fresh('a'), names.fresh('a'), names.fresh('a_1')]).toEqual([
      'a',
      'a_2',
      'a_3',
      'a_1_1',
    ]);
  });
});

describe('checkModel finds', () => {
  const broken: [string, (model: Model) => void, string][] = [
    [
      'a user that does not read',
      ({ graph }) => graph.inputs[0].users.add(graph.add({ op: 'A', inputs: [], outputs: ['a'] })),
      'only users that read it',
    ],
    ['a reader that is no user', ({ graph }) => graph.inputs[0].users.clear(), 'among its users'],
    [
      'a wrong producer',
      ({ graph }) => {
        graph.nodes[0].output().producer = undefined;
      },
      'as its producer',
    ],
    [
      'one name twice',
      ({ graph }) => {
        graph.nodes[0].output(1).name = 'x';
      },
      'a value made once',
    ],
    [
      'an initializer called like an input',
      ({ graph }) => {
        graph.addInitializer('w', scalar).name = 'x';
      },
      'unique',
    ],
    [
      'a nameless value',
      ({ graph }) => {
        graph.nodes[0].output(1).name = '';
      },
      'a name, got none',
    ],
    [
      'an initializer without data',
      ({ graph }) => {
        graph.addInitializer('w', scalar).tensor = undefined;
      },
      'a tensor, got none',
    ],
    [
      'reading before making',
      ({ graph }) => {
        graph.add({ op: 'Late', inputs: [], outputs: ['late'] });
        graph.nodes[0].setInput(0, graph.nodes[1].output());
      },
      'not made before',
    ],
    [
      'a value of no graph',
      ({ graph }) => graph.nodes[0].setInput(0, new Value(graph, 'stray')),
      'Add "first" input 0',
    ],
    ['an output that nothing makes', ({ graph }) => graph.outputs.push(graph.addValue('o')), 'to make it'],
    [
      'a reader of a removed node',
      ({ graph }) => {
        const relu = graph.add({ op: 'Relu', inputs: [graph.inputs[0]], outputs: ['r'] });
        graph.nodes[0].setInput(0, relu.output());
        graph.nodes.splice(graph.nodes.indexOf(relu), 1);
      },
      'not made before',
    ],
    [
      'a subgraph in two places',
      (model) => {
        const node = withSubgraph(model);
        node.attributes.set('else_branch', { type: 'graph', value: node.subgraphs[0] });
      },
      'one place',
    ],
    [
      'a subgraph that does not know its node',
      (model) => {
        withSubgraph(model).subgraphs[0].owner = undefined;
      },
      'as its owner',
    ],
    [
      'an inner value read outside',
      (model) => {
        const node = withSubgraph(model);
        model.graph.add({ op: 'Out', inputs: [node.subgraphs[0].nodes[0].output()], outputs: ['o'] });
      },
      'its scope does not show',
    ],
    [
      'an outer value that an inner name hides',
      (model) => {
        const [inner] = withSubgraph(model).subgraphs;
        inner.addInitializer('w', scalar).name = 'x';
      },
      'its scope does not show',
    ],
    [
      'an outer value that an inner name hides later on',
      (model) => {
        const [inner] = withSubgraph(model).subgraphs;
        inner.add({ op: 'Hide', inputs: [], outputs: ['h'] }).output().name = 'x';
      },
      'its scope does not show',
    ],
    [
      'a subgraph that returns an outer value',
      (model) => {
        withSubgraph(model).subgraphs[0].outputs.push(model.graph.inputs[0]);
      },
      'to make it',
    ],
  ];

  function withSubgraph(model: Model): Node {
    const inner = new Graph('inner', model.graph.names);
    inner.outputs.push(inner.add({ op: 'Neg', inputs: [model.graph.inputs[0]], outputs: ['n'] }).output());
    return model.graph.add({
      op: 'If',
      inputs: [],
      outputs: ['i'],
      attributes: { then_branch: { type: 'graph', value: inner } },
    });
  }

  it.each(broken)('%s', (_, damage, message) => {
    const model = emptyModel();
    checkModel(model);
    damage(model);
    let thrown: unknown;
    try {
      checkModel(model);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ name: 'HalftoneError', code: 'internal' });
    expect((thrown as Error).message).toContain(message);
  });

  it('nothing wrong with a name that hides an outer one nobody reads there', () => {
    const model = emptyModel();
    const [inner] = withSubgraph(model).subgraphs;
    inner.addInitializer('w', scalar).name = 'z';
    checkModel(model);
  });
});
