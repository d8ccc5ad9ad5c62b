/** For tests of static quantization: small graphs taken through the pipeline, and what ONNX Runtime makes of them. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readOnnx } from '../../src/files/onnx/read.ts';
import { writeOnnx } from '../../src/files/onnx/write.ts';
import type { AttributeInput } from '../../src/graph/attribute.ts';
import { checkModel } from '../../src/graph/check.ts';
import { Graph, Names } from '../../src/graph/graph.ts';
import { Model } from '../../src/graph/model.ts';
import type { Value } from '../../src/graph/value.ts';
import { type QuantizeOptions, quantizeModel } from '../../src/pipeline/quantize.ts';
import type { Report } from '../../src/pipeline/report.ts';
import { openRuntime } from '../../src/runtime/node.ts';
import type { Feeds, SessionOptions } from '../../src/runtime/runtime.ts';
import type { Samples } from '../../src/samples/sample.ts';
import type { DType } from '../../src/tensor/dtype.ts';
import { type Shape, sizeOf, Tensor } from '../../src/tensor/tensor.ts';
import { noise } from './lowered.ts';

/** Builds graphs in few words: constants are noise, and every node has one output unless said otherwise. */
export class Builder {
  readonly model: Model;
  readonly graph: Graph;
  #seed = 100;

  constructor(opset = 17) {
    this.graph = new Graph('test', new Names());
    this.model = new Model(this.graph, 8, new Map([['', opset]]));
  }

  input(name: string, shape: Shape, dtype: DType = 'float32'): Value {
    const value = this.graph.addValue(name, { dtype, shape });
    this.graph.inputs.push(value);
    return value;
  }

  output(...values: readonly Value[]): this {
    for (const value of values) {
      value.type = { dtype: 'float32', shape: undefined };
      this.graph.outputs.push(value);
    }
    return this;
  }

  /** Noise between −size and size. */
  weight(shape: Shape, size = 1): Value {
    const values = noise(sizeOf(shape), this.#seed++).map((x) => x * size);
    return this.graph.addInitializer('w', Tensor.float32(shape, values));
  }

  floats(shape: Shape, values: readonly number[]): Value {
    return this.graph.addInitializer('c', Tensor.float32(shape, values));
  }

  ints(...values: readonly number[]): Value {
    return this.graph.addInitializer('i', Tensor.int64([values.length], values));
  }

  add(op: string, inputs: readonly (Value | undefined)[], attributes: Record<string, AttributeInput> = {}): Value {
    return this.many(op, inputs, 1, attributes)[0];
  }

  many(
    op: string,
    inputs: readonly (Value | undefined)[],
    count: number,
    attributes: Record<string, AttributeInput> = {},
  ): Value[] {
    const outputs = Array.from({ length: count }, (_, index) => `${op.toLowerCase()}${count > 1 ? index : ''}`);
    const node = this.graph.add({ op, inputs, outputs, attributes });
    node.name = `${node.output().name}_node`;
    return outputs.map((_, index) => node.output(index));
  }

  /** A convolution with bias that keeps the spatial size: 3 wide, or 1. */
  conv(x: Value, from: number, to: number, kernel: readonly number[] = [3, 3], group = 1): Value {
    const pads = [...kernel, ...kernel].map((size) => (size - 1) / 2);
    const weight = this.weight([to, from / group, ...kernel]);
    return this.add('Conv', [x, weight, this.weight([to])], { kernel_shape: kernel, pads, group });
  }
}

/** The inputs of a model filled with noise of size 2, several times. */
export function noiseSamples(model: Model, count = 6): Feeds[] {
  return Array.from({ length: count }, (_, sample) =>
    Object.fromEntries(
      model.graph.inputs.map(({ name, type }, index) => {
        const shape = (type?.shape ?? []).map((size) => (typeof size === 'number' ? size : 1));
        const values = noise(sizeOf(shape), 1000 * sample + index + 1).map((x) => 2 * x);
        return [name, Tensor.float32(shape, values)];
      }),
    ),
  );
}

export function samplesOf(list: readonly Feeds[], synthetic = false): Samples {
  return {
    description: 'test',
    count: list.length,
    ...(synthetic ? { synthetic } : {}),
    async *[Symbol.asyncIterator]() {
      yield* list;
    },
  };
}

export interface StaticResult {
  readonly model: Model;
  readonly report: Report;
  readonly feeds: readonly Feeds[];
}

/** Takes a model through the pipeline, without corrections and comparison unless asked for. */
export async function quantizeStatic(
  model: Model,
  options: Omit<QuantizeOptions, 'calibration'> = {},
  feeds: readonly Feeds[] = noiseSamples(model),
): Promise<StaticResult> {
  const runtime = await openRuntime('onnxruntime-node');
  const result = await quantizeModel(
    model,
    { activations: 'uint8', corrections: [], compare: false, ...options, calibration: samplesOf(feeds) },
    runtime,
  );
  checkModel(result.model);
  return { ...result, feeds };
}

/** The graph that ONNX Runtime executes, as a model. */
export async function executed(model: Model, options: SessionOptions = {}): Promise<Model> {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-'));
  try {
    const optimizedModelPath = join(folder, 'optimized.onnx');
    const runtime = await openRuntime('onnxruntime-node');
    const session = await runtime.open(writeOnnx(model), { ...options, optimizedModelPath });
    await session.close();
    return readOnnx(readFileSync(optimizedModelPath));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Its operators, sorted, without those that only change the layout of memory. */
export async function executedOps(model: Model, options: SessionOptions = {}): Promise<string[]> {
  const ran = await executed(model, options);
  return [...ran.nodes()].map((node) => node.op).sort();
}

/** How many steps of the output's quantization lie between the integer and the simulated result, over all samples. */
export async function stepsApart(a: Model, b: Model, feeds: readonly Feeds[], step: number): Promise<number> {
  const runtime = await openRuntime('onnxruntime-node');
  const integer = await runtime.open(writeOnnx(a));
  // Without the fusion of pairs everything between Dequantize and Quantize is float arithmetic.
  const simulated = await runtime.open(writeOnnx(b), { optimization: 'disabled' });
  try {
    let worst = 0;
    for (const feed of feeds) {
      const x = await integer.run(feed);
      const y = await simulated.run(feed);
      for (const name of Object.keys(y)) {
        const [p, q] = [x[name].floats(), y[name].floats()];
        if (p.length !== q.length) return Number.POSITIVE_INFINITY;
        p.forEach((value, index) => {
          const steps = Math.abs(value - q[index]) / step;
          worst = Number.isNaN(steps) ? Number.POSITIVE_INFINITY : Math.max(worst, steps);
        });
      }
    }
    return worst;
  } finally {
    await integer.close();
    await simulated.close();
  }
}
