/**
 * Decides which nodes of a graph run in integer arithmetic, and which activations must be quantized for that. The rules
 * are those of ONNX Runtime's QDQ fusion on CPUs (RUNTIMES-AND-ECOSYSTEM.md §2.4): a fused node reads dequantized
 * values and writes a value that is quantized at once.
 */
import { clipBounds } from '../graph/clip-bounds.ts';
import type { Graph } from '../graph/graph.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';

/** One node that runs in integers, with the Relu or Clip that its quantized output makes redundant. */
export interface IntegerUnit {
  readonly node: Node;
  readonly absorbed: Node | undefined;
  /** Inputs that carry activations; the others are weights, biases, shapes. */
  readonly activations: readonly number[];
}

export interface IntegerNodes {
  /** In graph order, by their node. */
  readonly units: ReadonlyMap<Node, IntegerUnit>;
  /** Activations to quantize, in graph order, each with the name of the group that shares its parameters. */
  readonly activations: ReadonlyMap<Value, string>;
}

/** Layers with weights, or products of two activations: the reason to quantize at all. */
const anchors = ['Conv', 'Gemm', 'MatMul'];

/** Operators that ONNX Runtime has integer kernels for; worth quantizing between layers. */
const arithmetic = ['Add', 'Mul', 'AveragePool', 'GlobalAveragePool', 'LeakyRelu', 'Sigmoid', 'Softmax'];

/** Operators that only move or pick numbers: input and output share parameters, and the codes pass through. */
export const movers: readonly string[] = [
  'MaxPool',
  'Reshape',
  'Transpose',
  'Flatten',
  'Squeeze',
  'Unsqueeze',
  'Slice',
  'Gather',
  'Expand',
  'Tile',
  'Resize',
  'Split',
  'Concat',
  'Pad',
];

/** Operators after which a Relu or Clip may be absorbed into the quantization of the result. */
const absorbing = ['Conv', 'Gemm', 'MatMul', 'Add', 'Mul', 'AveragePool', 'GlobalAveragePool'];

/** The operators that static quantization can run in integers. */
export const integerOperators: readonly string[] = [...anchors, ...arithmetic, ...movers];

/**
 * Chooses the nodes of one graph. `allows(node)` is the caller's say: exclusions, and whether a layer's weight is to be
 * quantized in a way that integer arithmetic can use.
 */
export function chooseIntegerNodes(graph: Graph, allows: (node: Node) => boolean): IntegerNodes {
  const units = new Map<Node, IntegerUnit>();
  for (const node of graph.nodes) {
    const activations = activationInputs(node);
    if (!activations || !node.outputs[0] || !allows(node)) continue;
    units.set(node, { node, activations, absorbed: absorbable(node) });
  }
  const made = new Map<Value, IntegerUnit>();
  for (const unit of units.values()) for (const output of resultsOf(unit)) made.set(output, unit);

  const isAvailable = (value: Value) => made.has(value) || (value.isGraphInput && value.type?.dtype === 'float32');
  /** An input of the model, perhaps moved about. */
  const isRaw = (value: Value): boolean => {
    const unit = made.get(value);
    if (!unit) return value.isGraphInput;
    return movers.includes(unit.node.op) && unit.activations.every((index) => isRaw(unit.node.input(index)));
  };
  // Scaling and shifting the model's inputs is no work, and rounding before it would lose what it is for.
  const scalesInput = ({ node, activations }: IntegerUnit) =>
    node.is('Add', 'Mul') && activations.length === 1 && isRaw(node.input(activations[0]));
  const isWanted = (value: Value): boolean =>
    [...value.users].some((user) => {
      const unit = units.get(user);
      return unit?.activations.some((index) => user.inputs[index] === value) ?? false;
    });
  for (let changed = true; changed; ) {
    changed = false;
    for (const unit of units.values()) {
      if (anchors.includes(unit.node.op)) continue;
      const keep =
        unit.activations.every((index) => isAvailable(unit.node.input(index))) &&
        resultsOf(unit).some(isWanted) &&
        !scalesInput(unit);
      if (keep) continue;
      units.delete(unit.node);
      for (const output of resultsOf(unit)) made.delete(output);
      changed = true;
    }
  }

  const clipOf = createClips(made);
  const groups = new Groups();
  const chosen = new Set<Value>();
  for (const unit of units.values()) {
    const inputs = unit.activations.map((index) => unit.node.input(index));
    for (const value of inputs) chosen.add(value);
    const results = resultsOf(unit);
    // A product may keep its float result; a convolution is fused only when its result is quantized.
    const floatResult = ['Gemm', 'MatMul'].includes(unit.node.op) && !results.some(isWanted);
    if (!floatResult) for (const value of results) chosen.add(value);
    const alike = inputs.every((value) => clipOf(value) === clipOf(inputs[0]));
    // Values cut off by different Relus or Clips cannot share parameters: saturation would no longer do the cutting.
    if (movers.includes(unit.node.op) && alike)
      for (const value of [...inputs, ...results]) groups.join(inputs[0], value);
  }
  const order = [...graph.inputs, ...graph.nodes.flatMap((node) => node.outputs)];
  const activations = new Map<Value, string>();
  for (const value of order) if (value && chosen.has(value)) activations.set(value, groups.of(value).name);
  // A Relu is absorbed only where its result is quantized.
  for (const [node, unit] of units) {
    if (unit.absorbed && !activations.has(unit.absorbed.output())) units.set(node, { ...unit, absorbed: undefined });
  }
  return { units, activations };
}

/** The values that a unit hands on: those of the absorbed node where there is one. */
export function resultsOf(unit: IntegerUnit): readonly Value[] {
  const outputs = (unit.absorbed ?? unit.node).outputs;
  return outputs.filter((output): output is Value => output !== undefined);
}

/**
 * Tells where a value was last cut off, as text; '' for a value that no absorbed Relu or Clip bounds, or that a mover put
 * together from values with different bounds.
 */
function createClips(made: ReadonlyMap<Value, IntegerUnit>): (value: Value) => string {
  const known = new Map<Value, string>();
  const clipOf = (value: Value): string => {
    const unit = made.get(value);
    if (!unit) return '';
    const found = known.get(value);
    if (found !== undefined) return found;
    let clip = '';
    if (unit.absorbed) {
      const bounds =
        unit.absorbed.op === 'Relu' ? { min: 0, max: Number.POSITIVE_INFINITY } : clipBounds(unit.absorbed);
      clip = `${bounds?.min} ${bounds?.max}`;
    } else if (movers.includes(unit.node.op)) {
      const clips = new Set(unit.activations.map((index) => clipOf(unit.node.input(index))));
      if (clips.size === 1) clip = [...clips][0];
    }
    known.set(value, clip);
    return clip;
  };
  return clipOf;
}

/** The inputs that carry activations when `node` runs in integers, or undefined when it cannot. */
function activationInputs(node: Node): readonly number[] | undefined {
  if (node.domain !== '') return undefined;
  const isActivation = (index: number) => node.inputs[index] !== undefined && !node.input(index).tensor;
  switch (node.op) {
    case 'Conv':
      return isActivation(0) && isWeight(node, 1) && (!node.inputs[2] || isWeight(node, 2)) ? [0] : undefined;
    case 'Gemm': {
      const plain = node.float('alpha', 1) === 1 && node.float('beta', 1) === 1 && node.int('transA', 0) === 0;
      const bias = node.inputs[2];
      const units = node.inputs[1]?.tensor?.shape[node.int('transB', 0) ? 0 : 1];
      const fits = !bias || (isWeight(node, 2) && bias.tensor?.size === units);
      return plain && isActivation(0) && isWeight(node, 1) && fits ? [0] : undefined;
    }
    case 'MatMul':
      if (!isActivation(0)) return undefined;
      if (isActivation(1)) return [0, 1].every((index) => isFloat32(node.input(index))) ? [0, 1] : undefined;
      return isWeight(node, 1) && node.input(1).tensor?.shape.length === 2 ? [0] : undefined;
    case 'Add':
    case 'Mul': {
      const carried = [0, 1].filter(isActivation);
      const others = [0, 1].filter((index) => !isActivation(index));
      return carried.length > 0 && others.every((index) => isWeight(node, index)) ? carried : undefined;
    }
    case 'Concat': {
      const all = node.inputs.map((_, index) => index);
      return all.every(isActivation) ? all : undefined;
    }
    case 'Pad': {
      // Codes are padded with the zero point, which stands for 0 and nothing else.
      const filler = node.inputs[2];
      const zero = !filler || (filler.isConstant && filler.tensor?.size === 1 && filler.tensor.floats()[0] === 0);
      return zero && isActivation(0) && node.inputs[1] ? [0] : undefined;
    }
    case 'Resize': {
      // Cubic curves overshoot their neighbours, and what lies outside a crop is no code.
      const plain =
        node.string('mode', 'nearest') !== 'cubic' &&
        node.string('coordinate_transformation_mode', '') !== 'tf_crop_and_resize';
      return plain && isActivation(0) ? [0] : undefined;
    }
    case 'AveragePool':
      // QLinearAveragePool has no dilations.
      return isActivation(0) && (node.ints('dilations') ?? []).every((dilation) => dilation === 1) ? [0] : undefined;
    case 'MaxPool':
      return node.outputs.length === 1 && isActivation(0) ? [0] : undefined;
    default:
      return (arithmetic.includes(node.op) || movers.includes(node.op)) && isActivation(0) ? [0] : undefined;
  }
}

function isWeight(node: Node, index: number): boolean {
  const tensor = node.inputs[index]?.tensor;
  return tensor?.dtype === 'float32' && node.input(index).isConstant;
}

/** True unless something says that a value has another type: its declaration, or where it comes from. */
function isFloat32(start: Value): boolean {
  for (let value: Value | undefined = start; value; ) {
    if (value.type?.dtype) return value.type.dtype === 'float32';
    const node: Node | undefined = value.producer;
    if (node?.is('Cast')) return node.int('to', 1) === 1;
    const constant = node?.inputs.find((input) => input?.tensor?.isFloat);
    if (constant) return constant.tensor?.dtype === 'float32';
    value = node?.inputs[0];
  }
  return true;
}

/** The Relu or Clip behind `node` that saturation can do instead, if nothing else reads what lies between. */
function absorbable(node: Node): Node | undefined {
  if (!absorbing.includes(node.op)) return undefined;
  const user = node.output().soleUser;
  if (!user || user.graph !== node.graph) return undefined;
  if (user.is('Relu')) return user;
  if (!user.is('Clip') || user.inputs[0] !== node.output()) return undefined;
  const bounds = clipBounds(user);
  return bounds && bounds.min <= 0 && bounds.max >= 0 ? user : undefined;
}

/** Disjoint sets of values that must share scale and zero point. */
class Groups {
  readonly #parent = new Map<Value, Value>();

  of(value: Value): Value {
    let root = value;
    for (let next = this.#parent.get(root); next; next = this.#parent.get(root)) root = next;
    return root;
  }

  join(a: Value, b: Value): void {
    const [first, second] = [this.of(a), this.of(b)];
    if (first !== second) this.#parent.set(second, first);
  }
}
