/** The invariants of a model's graph: edges agree in both directions, names resolve, order is an order of execution. */
import { HalftoneError } from '../base/errors.ts';
import { graphsOf } from './attribute.ts';
import type { Graph } from './graph.ts';
import type { Model } from './model.ts';
import type { Node } from './node.ts';
import type { Value } from './value.ts';

/**
 * Checks every graph of the model; passes and the pipeline call it after edits.
 *
 * - A name defined in a graph is defined there once, and every value that a node reads is the one its name finds: in the
 *   node's own graph first, then outwards through the graphs around it, never in a sibling or an inner graph.
 * - Inside a graph nothing is read before it is made (`sort()` first); an inner graph sees what was made before the
 *   node that holds it.
 * - `producer` and `outputs`, `users` and `inputs`, `owner` and attributes name each other.
 * - Graph outputs belong to the graph that lists them.
 *
 * @throws HalftoneError `internal`, naming the node or value at fault.
 */
export function checkModel(model: Model): void {
  const users = new Map<Value, Set<Node>>();
  const seen = new Set<Graph>();
  if (model.graph.owner) throw broken('main graph', 'no owner', model.graph.owner.label);
  checkGraph(model.graph, [], users, seen);
  for (const [value, expected] of users) {
    for (const user of value.users) {
      if (!expected.has(user)) throw broken(`value "${value.name}"`, 'only users that read it', user.label);
    }
    for (const user of expected) {
      if (!value.users.has(user)) throw broken(`value "${value.name}"`, `${user.label} among its users`, 'it missing');
    }
  }
}

type Scope = Map<string, Value>;

function broken(subject: string, expected: string, got: string): HalftoneError {
  return new HalftoneError('internal', `${subject}: expected ${expected}, got ${got}`, { fields: { subject } });
}

/** `outer` holds what is made before this graph runs; the innermost graph around it comes first. */
function checkGraph(graph: Graph, outer: readonly Scope[], users: Map<Value, Set<Node>>, seen: Set<Graph>): void {
  const subject = `graph "${graph.name}"`;
  if (seen.has(graph)) throw broken(subject, 'one place in the model', 'two');
  seen.add(graph);
  const made: Scope = new Map();
  const scopes = [made, ...outer];
  const define = (value: Value, what: string) => {
    if (value.graph !== graph) throw broken(`${what} "${value.name}"`, `a value of ${subject}`, 'one of another graph');
    if (value.name === '') throw broken(`${what} of ${subject}`, 'a name', 'none');
    const known = made.get(value.name);
    if (known && known !== value) throw broken(`${what} "${value.name}"`, `a name unique in ${subject}`, 'it twice');
    made.set(value.name, value);
    if (!users.has(value)) users.set(value, new Set());
  };
  /** Names that are defined later in this graph hide outer ones, as they do for a reader of the file. */
  const later = new Set<string>();
  for (const node of graph.nodes) for (const output of node.outputs) if (output) later.add(output.name);

  for (const value of graph.inputs) {
    if (made.has(value.name)) throw broken(`input "${value.name}"`, `a name unique in ${subject}`, 'it twice');
    define(value, 'input');
    if (value.producer) throw broken(`input "${value.name}"`, 'no producer', value.producer.label);
  }
  for (const value of graph.initializers) {
    if (!value.tensor) throw broken(`initializer "${value.name}"`, 'a tensor', 'none');
    define(value, 'initializer');
    if (value.producer) throw broken(`initializer "${value.name}"`, 'no producer', value.producer.label);
  }
  for (const value of graph.carriedValues) define(value, 'carried value');

  for (const node of graph.nodes) {
    if (node.graph !== graph) throw broken(node.label, `${subject} as its graph`, `"${node.graph.name}"`);
    node.inputs.forEach((value, index) => {
      if (!value) return;
      if (resolve(scopes, later, value.name) !== value) {
        const found = value.graph === graph ? 'one that is not made before' : 'one that its scope does not show';
        throw broken(`${node.label} input ${index}`, `a value called "${value.name}"`, found);
      }
      users.get(value)?.add(node);
    });
    for (const attribute of node.attributes.values()) {
      for (const inner of graphsOf(attribute)) {
        if (inner.owner !== node) throw broken(`graph "${inner.name}"`, `${node.label} as its owner`, 'another');
        checkGraph(inner, hideLater(scopes, later), users, seen);
      }
    }
    const listed = new Set<Value>();
    for (const value of node.outputs) {
      if (!value) continue;
      if (value.producer !== node) throw broken(`value "${value.name}"`, `${node.label} as its producer`, 'another');
      if (value.tensor || listed.has(value) || made.has(value.name)) {
        throw broken(`output "${value.name}" of ${node.label}`, `a value made once in ${subject}`, 'it again');
      }
      listed.add(value);
      define(value, 'output');
    }
  }
  for (const value of graph.outputs) {
    if (made.get(value.name) !== value) {
      throw broken(`output "${value.name}"`, `something in ${subject} to make it`, 'nothing');
    }
  }
}

function resolve(scopes: readonly Scope[], later: ReadonlySet<string>, name: string): Value | undefined {
  const own = scopes[0].get(name);
  if (own || later.has(name)) return own;
  for (const scope of scopes) {
    const value = scope.get(name);
    if (value) return value;
  }
  return undefined;
}

/** The scopes an inner graph sees: a name that this graph makes only later hides outer ones and yields nothing. */
function hideLater(scopes: readonly Scope[], later: ReadonlySet<string>): readonly Scope[] {
  const [own, ...outer] = scopes;
  const hidden = new Set([...later].filter((name) => !own.has(name) && outer.some((scope) => scope.has(name))));
  if (hidden.size === 0) return scopes;
  return [own, ...outer.map((scope) => new Map([...scope].filter(([name]) => !hidden.has(name))))];
}
