/** Appends nodes to a graph, keeping the concrete shape and element type of all that it makes. */
import { HalftoneError } from '../base/errors.ts';
import type { AttributeInput } from '../graph/attribute.ts';
import { type ElementTypes, inferDtypes } from '../graph/dtypes.ts';
import type { Model } from '../graph/model.ts';
import type { Value } from '../graph/value.ts';
import { type DType, dtypes } from '../tensor/dtype.ts';
import { bytesOf, type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';

/** Value name → concrete shape. */
export type Shapes = ReadonlyMap<string, Shape>;

/** The first operator set whose forms are written: ReduceSum and Split with their axes and sizes as inputs. */
const lowestOpset = 13;

/** What is broadcast: the shape of an elementwise operator's result. */
export function broadcastShape(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) => {
    const [m, n] = [a[axis - rank + a.length] ?? 1, b[axis - rank + b.length] ?? 1];
    return m === 1 ? n : m;
  });
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}

export class Builder {
  readonly model: Model;
  readonly #shapes: Shapes;
  readonly #types: ElementTypes;
  readonly #constants = new Map<string, Value>();

  /** @throws HalftoneError `unsupported` for a model older than operator set 13. */
  constructor(model: Model, shapes: Shapes) {
    if (model.opset < lowestOpset) {
      throw new HalftoneError(
        'unsupported',
        `model: expected operator set ${lowestOpset} or later for gradients, got ${model.opset}; prepare it with a later one`,
      );
    }
    this.model = model;
    this.#shapes = shapes;
    this.#types = inferDtypes(model);
  }

  /** The concrete shape. @throws HalftoneError `missing-data` for a value that was not observed. */
  shape(value: Value): Shape {
    const known = value.tensor?.shape ?? this.#shapes.get(value.name) ?? value.type?.shape;
    if (known?.every((size) => typeof size === 'number')) return known;
    throw new HalftoneError(
      'missing-data',
      `value "${value.name}": expected a concrete shape, got none; observe the shapes of this model first`,
      { fields: { value: value.name } },
    );
  }

  size(value: Value): number {
    return sizeOf(this.shape(value));
  }

  /** The element type. @throws HalftoneError `unsupported` where it is unknown. */
  dtype(value: Value): DType {
    const dtype = this.knownDtype(value);
    if (dtype) return dtype;
    throw new HalftoneError('unsupported', `value "${value.name}": expected a known element type, got none`, {
      fields: { value: value.name },
    });
  }

  knownDtype(value: Value): DType | undefined {
    return this.#types.get(value)?.dtype ?? value.tensor?.dtype ?? value.type?.dtype;
  }

  /** A node with several results, of the given shapes; an undefined one is left out. */
  nodes(
    op: string,
    inputs: readonly (Value | undefined)[],
    shapes: readonly (Shape | undefined)[],
    attributes: Readonly<Record<string, AttributeInput>> = {},
    dtype: DType = this.dtype(inputs[0]!),
  ): Value[] {
    const { graph } = this.model;
    const outputs = shapes.map((shape) => shape && graph.addValue(`gradient/${op}`, { dtype, shape }));
    return graph.add({ op, inputs, outputs, attributes }).outputs.filter((value) => value !== undefined);
  }

  /** A node with one result, of the element type of its first input unless one is given. */
  node(
    op: string,
    inputs: readonly (Value | undefined)[],
    shape: Shape,
    attributes: Readonly<Record<string, AttributeInput>> = {},
    dtype?: DType,
  ): Value {
    return this.nodes(op, inputs, [shape], attributes, dtype)[0];
  }

  /** A vector of int64: a shape, axes, bounds. Equal ones are one initializer. */
  ints(...values: readonly number[]): Value {
    return this.#shared(`int64/${values.join()}`, () => Tensor.int64([values.length], values));
  }

  /** A scalar of the element type of `like`. Equal ones are one initializer. */
  scalar(number: number, like: Value): Value {
    const dtype = this.dtype(like);
    return this.#shared(`${dtype}/${number}`, () => numbersOf(dtype, [], [number]));
  }

  /** A constant of the element type of `like`. */
  constant(shape: Shape, numbers: readonly number[], like: Value): Value {
    return this.model.graph.addInitializer('gradient/constant', numbersOf(this.dtype(like), shape, numbers));
  }

  zeros(shape: Shape, like: Value): Value {
    return this.expand(this.scalar(0, like), shape);
  }

  #shared(key: string, make: () => Tensor): Value {
    const known = this.#constants.get(key);
    if (known) return known;
    const value = this.model.graph.addInitializer('gradient/constant', make());
    this.#constants.set(key, value);
    return value;
  }

  /** An elementwise operator of one input. */
  unary(op: string, x: Value, attributes: Readonly<Record<string, AttributeInput>> = {}): Value {
    return this.node(op, [x], this.shape(x), attributes);
  }

  /** An elementwise operator of two inputs; a number becomes a scalar. One of them must be a value. */
  binary(op: string, a: Value | number, b: Value | number): Value {
    const [left, right] = this.#pair(a, b);
    return this.node(op, [left, right], broadcastShape(this.shape(left), this.shape(right)));
  }

  /** A comparison: the result is boolean. */
  compare(op: string, a: Value | number, b: Value | number): Value {
    const [left, right] = this.#pair(a, b);
    return this.node(op, [left, right], broadcastShape(this.shape(left), this.shape(right)), {}, 'bool');
  }

  #pair(a: Value | number, b: Value | number): [Value, Value] {
    const like = typeof a === 'number' ? (b as Value) : a;
    const value = (x: Value | number) => (typeof x === 'number' ? this.scalar(x, like) : x);
    return [value(a), value(b)];
  }

  add(a: Value | number, b: Value | number): Value {
    return this.binary('Add', a, b);
  }

  subtract(a: Value | number, b: Value | number): Value {
    return this.binary('Sub', a, b);
  }

  multiply(a: Value | number, b: Value | number): Value {
    return this.binary('Mul', a, b);
  }

  divide(a: Value | number, b: Value | number): Value {
    return this.binary('Div', a, b);
  }

  /** `a` where `condition` holds, `b` elsewhere. */
  where(condition: Value, a: Value | number, b: Value | number): Value {
    const [left, right] = this.#pair(a, b);
    const shape = broadcastShape(this.shape(condition), broadcastShape(this.shape(left), this.shape(right)));
    return this.node('Where', [condition, left, right], shape, {}, this.dtype(left));
  }

  /** Finite `x` where `condition`, of its shape, holds, 0 elsewhere: ONNX Runtime is quicker with a product than with Where. */
  masked(condition: Value, x: Value): Value {
    return this.multiply(x, this.cast(condition, this.dtype(x)));
  }

  /** `x` itself where it has the shape already. */
  reshape(x: Value, shape: Shape): Value {
    return sameShape(this.shape(x), shape) ? x : this.node('Reshape', [x, this.ints(...shape)], shape);
  }

  /** `x` itself where it has the shape already. */
  expand(x: Value, shape: Shape): Value {
    return sameShape(this.shape(x), shape) ? x : this.node('Expand', [x, this.ints(...shape)], shape);
  }

  transpose(x: Value, permutation: readonly number[]): Value {
    const shape = this.shape(x);
    if (permutation.every((from, to) => from === to)) return x;
    return this.node(
      'Transpose',
      [x],
      permutation.map((axis) => shape[axis]),
      { perm: permutation },
    );
  }

  /** Exchanges the last two axes. */
  transposeMatrix(x: Value): Value {
    const rank = this.shape(x).length;
    const axes = Array.from({ length: rank }, (_, axis) => axis);
    return this.transpose(x, [...axes.slice(0, -2), rank - 1, rank - 2]);
  }

  /** The sum over `axes`, which stay as axes of size 1 unless `keep` is false. `x` itself where there are none. */
  sum(x: Value, axes: readonly number[], keep = true): Value {
    if (axes.length === 0) return x;
    const shape = this.shape(x);
    const left = keep
      ? shape.map((size, axis) => (axes.includes(axis) ? 1 : size))
      : shape.filter((_, axis) => !axes.includes(axis));
    // Nothing to add up: a view is cheaper.
    if (axes.every((axis) => shape[axis] === 1)) return this.reshape(x, left);
    return this.node('ReduceSum', [x, this.ints(...axes)], left, { keepdims: keep ? 1 : 0 });
  }

  /** The gradient of an input that was broadcast: the sum over the axes along which it was repeated. */
  sumTo(x: Value, shape: Shape): Value {
    const given = this.shape(x);
    const offset = given.length - shape.length;
    const axes = given.flatMap((size, axis) =>
      axis < offset || (shape[axis - offset] === 1 && size !== 1) ? [axis] : [],
    );
    return this.reshape(this.sum(x, axes), shape);
  }

  /** The product of two (batches of) matrices of at least two axes. */
  matmul(a: Value, b: Value): Value {
    const [left, right] = [this.shape(a), this.shape(b)];
    const batch = broadcastShape(left.slice(0, -2), right.slice(0, -2));
    return this.node('MatMul', [a, b], [...batch, left[left.length - 2], right[right.length - 1]]);
  }

  /** The part of `x` from `starts` to before `ends` in steps along `axes`, which must lie within it; steps are positive. */
  slice(
    x: Value,
    axes: readonly number[],
    starts: readonly number[],
    ends: readonly number[],
    steps: readonly number[] = axes.map(() => 1),
  ): Value {
    const shape = [...this.shape(x)];
    axes.forEach((axis, i) => {
      shape[axis] = Math.ceil((ends[i] - starts[i]) / steps[i]);
    });
    if (sameShape(shape, this.shape(x))) return x;
    return this.node(
      'Slice',
      [x, this.ints(...starts), this.ints(...ends), this.ints(...axes), this.ints(...steps)],
      shape,
    );
  }

  /** `x` with the order along `axes` reversed. */
  flip(x: Value, axes: readonly number[]): Value {
    const reversed = axes.filter((axis) => this.shape(x)[axis] > 1);
    if (reversed.length === 0) return x;
    const all = (value: number) => this.ints(...reversed.map(() => value));
    return this.node(
      'Slice',
      [x, all(-1), all(Number.MIN_SAFE_INTEGER), this.ints(...reversed), all(-1)],
      this.shape(x),
    );
  }

  concat(parts: readonly Value[], axis: number): Value {
    if (parts.length === 1) return parts[0];
    const shape = [...this.shape(parts[0])];
    shape[axis] = parts.reduce((size, part) => size + this.shape(part)[axis], 0);
    return this.node('Concat', parts, shape, { axis });
  }

  /** `x` between zeros: `before` and `after` count them along each axis; negative ones cut off. `x` itself for no zeros. */
  pad(x: Value, before: readonly number[], after: readonly number[]): Value {
    if ([...before, ...after].every((count) => count === 0)) return x;
    const shape = this.shape(x).map((size, axis) => size + before[axis] + after[axis]);
    return this.node('Pad', [x, this.ints(...before, ...after), this.scalar(0, x)], shape);
  }

  /** `x` as another element type. */
  cast(x: Value, dtype: DType): Value {
    return this.dtype(x) === dtype ? x : this.node('Cast', [x], this.shape(x), { to: dtypes[dtype].onnx }, dtype);
  }
}

/** A tensor of one of the types in which gradients are computed. */
function numbersOf(dtype: DType, shape: Shape, numbers: readonly number[]): Tensor {
  const filled = numbers.length === sizeOf(shape) ? numbers : new Array<number>(sizeOf(shape)).fill(numbers[0]);
  if (dtype === 'float64') return new Tensor(dtype, shape, bytesOf(Float64Array.from(filled)));
  const tensor = Tensor.float32(shape, filled);
  return dtype === 'float16' || dtype === 'bfloat16' ? tensor.converted(dtype) : tensor;
}
