/**
 * Dense matrix products on ONNX Runtime: with all cores and the widest vectors of the machine, about ten times faster than
 * WebAssembly can be on one core.
 */
import { writeOnnx } from '../files/onnx/write.ts';
import { Graph, Names } from '../graph/graph.ts';
import { Model } from '../graph/model.ts';
import type { ValueType } from '../graph/value.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { Runtime, Session, SessionOptions } from './runtime.ts';

export interface Products {
  /** A·B of a row-major [rows, inner] by a [inner, columns] matrix, in float32. */
  multiply(a: Float32Array, b: Float32Array, rows: number, inner: number, columns: number): Promise<Float32Array>;
  /** XᵀX of a row-major [rows, columns] matrix, in float32: its second moment but for the factor 1 / rows. */
  secondMoment(values: Float32Array, rows: number, columns: number): Promise<Float32Array>;
  close(): Promise<void>;
}

/** Threads that wait for the next product would take the time of what is computed between. */
const quiet = { 'session.intra_op.allow_spinning': '0' };

/** Loads a model of one operator for each kind of product, when it is first asked for. */
export function openProducts(runtime: Runtime, options: SessionOptions = {}): Products {
  const sessions = new Map<string, Promise<Session>>();
  const session = (name: string, make: () => Model) => {
    const known = sessions.get(name);
    if (known) return known;
    const opened = runtime.open(writeOnnx(make()), { ...options, config: { ...quiet, ...options.config } });
    sessions.set(name, opened);
    // What failed is tried again by the next product.
    opened.catch(() => sessions.get(name) === opened && sessions.delete(name));
    return opened;
  };
  return {
    async multiply(a, b, rows, inner, columns) {
      const product = await session('multiply', () => productModel(['a', 'b'], {}));
      const { y } = await product.run({
        a: Tensor.float32([rows, inner], a),
        b: Tensor.float32([inner, columns], b),
      });
      return y.floats();
    },
    async secondMoment(values, rows, columns) {
      const product = await session('second-moment', () => productModel(['a', 'a'], { transA: 1 }));
      const { y } = await product.run({ a: Tensor.float32([rows, columns], values) });
      return y.floats();
    },
    async close() {
      const all = [...sessions.values()];
      sessions.clear();
      for (const opened of all) await (await opened.catch(() => undefined))?.close();
    },
  };
}

/** Of any size: dimensions without names are all different. */
const matrix: ValueType = { dtype: 'float32', shape: [undefined, undefined] };

/** y = Gemm of two matrices of any size, which may be one. */
function productModel(names: readonly string[], attributes: { transA?: number }): Model {
  const graph = new Graph('product', new Names());
  const inputs = new Map([...new Set(names)].map((name) => [name, graph.addValue(name, matrix)]));
  graph.inputs.push(...inputs.values());
  const output = graph.addValue('y', matrix);
  graph.add({ op: 'Gemm', inputs: names.map((name) => inputs.get(name)), outputs: [output], attributes });
  graph.outputs.push(output);
  return new Model(graph, 8, new Map([['', 13]]));
}
