/** Reverse-mode differentiation: walks a graph from an output back and appends the nodes that compute gradients. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { isFloat } from '../tensor/dtype.ts';
import { Builder, type Shapes, sameShape } from './builder.ts';
import { differentiable, ruleOf } from './rules/index.ts';

export interface GradientRequest {
  /** Gradient nodes are added to its main graph; operator set 13 or later. */
  readonly model: Model;
  /** The float value to differentiate. */
  readonly output: Value;
  /** Gradient of the loss by `output`, of its shape. Default: `output` has one element, and this is 1. */
  readonly seed?: Value;
  /** Graph inputs, initializers or intermediate values, of a float type. */
  readonly inputs: readonly Value[];
  /** Concrete shapes as `observeShapes` gives them. The gradients hold for these shapes alone. */
  readonly shapes: Shapes;
}

/**
 * Appends nodes that compute the gradient of `output` by each of `inputs`. The graph stays in an order of execution.
 * Nothing is added to the graph's outputs.
 * @returns input → its gradient, of its shape and type; zeros for an input without influence
 * @throws HalftoneError `unsupported` naming the operator and node for which no gradient is known; `usage` for a seed that
 *   does not fit; `missing-data` where a shape is unknown.
 */
export function addGradients(request: GradientRequest): Map<Value, Value> {
  const { model, output, inputs, shapes } = request;
  const build = new Builder(model, shapes);
  const nodes = model.graph.sorted();
  const influenced = influencedBy(inputs, nodes, build);
  const gradients = new Map<Value, Value>();
  gradients.set(output, seedOf(request, build));

  for (const node of influencing(output, nodes).reverse()) {
    const own = node.outputs.map((value) => value && gradients.get(value));
    const needs = (index: number) => {
      const value = node.inputs[index];
      return value !== undefined && influenced.has(value);
    };
    if (!own.some((value) => value) || !node.inputs.some((_, index) => needs(index))) continue;
    const rule = ruleOf(node);
    if (!rule || node.subgraphs.length > 0) throw noRule(node);
    const gradient = own[0] ?? build.zeros(build.shape(node.output()), own.find((value) => value)!);
    const results = rule({ node, gradient, gradients: own, needs, build });
    node.inputs.forEach((value, index) => {
      const result = results[index];
      if (!value || !result || !needs(index)) return;
      if (!sameShape(build.shape(result), build.shape(value))) {
        throw new HalftoneError(
          'internal',
          `${node.label}: expected a gradient [${build.shape(value).join(',')}], got [${build.shape(result).join(',')}]`,
        );
      }
      const known = gradients.get(value);
      gradients.set(value, known ? build.add(known, result) : result);
    });
  }
  return new Map(inputs.map((value) => [value, gradients.get(value) ?? build.zeros(build.shape(value), value)]));
}

function seedOf({ output, seed }: GradientRequest, build: Builder): Value {
  const shape = build.shape(output);
  if (seed) {
    if (sameShape(build.shape(seed), shape)) return seed;
    throw new HalftoneError(
      'usage',
      `seed "${seed.name}": expected the shape [${shape.join(',')}] of "${output.name}", got [${build.shape(seed).join(',')}]`,
    );
  }
  if (shape.every((size) => size === 1)) return build.expand(build.scalar(1, output), shape);
  throw new HalftoneError(
    'usage',
    `value "${output.name}": expected a single number to differentiate, got [${shape.join(',')}]; give a seed`,
  );
}

/** Values that depend on `inputs` along paths that carry gradients: floats, and codes of a QuantizeLinear. */
function influencedBy(inputs: readonly Value[], nodes: readonly Node[], build: Builder): Set<Value> {
  const influenced = new Set(inputs);
  for (const node of nodes) {
    if (![...node.reads].some((value) => influenced.has(value))) continue;
    for (const value of node.outputs) {
      if (!value) continue;
      const dtype = build.knownDtype(value);
      if (dtype === undefined || isFloat(dtype) || node.op === 'QuantizeLinear') influenced.add(value);
    }
  }
  return influenced;
}

/** The nodes on which `output` depends, in order. */
function influencing(output: Value, nodes: readonly Node[]): Node[] {
  const needed = new Set<Value>([output]);
  const found: Node[] = [];
  for (const node of [...nodes].reverse()) {
    if (!node.outputs.some((value) => value && needed.has(value))) continue;
    for (const value of node.inputs) if (value) needed.add(value);
    found.push(node);
  }
  return found.reverse();
}

function noRule(node: Node): HalftoneError {
  const name = node.domain === '' ? node.op : `${node.domain}:${node.op}`;
  return new HalftoneError(
    'unsupported',
    `${node.label}: expected an operator with a known gradient, got ${name}; known are ${differentiable.join(', ')}`,
    { fields: { node: node.name, operator: name } },
  );
}
