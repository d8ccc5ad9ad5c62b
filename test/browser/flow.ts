/** What the browser test does on both sides: in Node, and bundled into a page's worker. */
import type * as library from '../../src/index.ts';

/** The part of the library that every environment has; handed in, because the page takes it from the built package. */
export type Library = Pick<typeof library, 'quantizeModel' | 'readOnnx' | 'writeOnnx' | 'Tensor' | 'inputsOf'>;

/** One model to quantize, and how. All of it can be sent to a page and on to its worker. */
export interface Task {
  readonly model: Uint8Array;
  readonly options: Omit<library.RecipeInput, 'rules'>;
  /** Values of the one input, a sample each. */
  readonly calibration?: readonly Float32Array[];
  /** Samples to run the quantized model on. */
  readonly evaluation?: readonly Float32Array[];
  /** Shape of one sample. */
  readonly shape?: readonly number[];
}

export interface Outcome {
  readonly bytes: Uint8Array;
  /** The first output of the quantized model for each sample of `evaluation`. */
  readonly outputs: readonly Float32Array[];
  /** SQNR of the outputs on held-out samples, where samples were given. */
  readonly sqnr: number | undefined;
  readonly collapsed: string | undefined;
  /** The runtime that calibrated. */
  readonly runtime: string;
}

/** Reads, quantizes, writes and runs. */
export async function carryOut(halftone: Library, runtime: library.Runtime, task: Task): Promise<Outcome> {
  const { calibration, evaluation = [], shape = [], options } = task;
  const model = halftone.readOnnx(task.model);
  const [input] = halftone.inputsOf(model);
  const feeds = (values: Float32Array) => ({ [input.name]: halftone.Tensor.float32(shape, values) });
  const samples = calibration && {
    description: 'samples of the test',
    count: calibration.length,
    async *[Symbol.asyncIterator]() {
      for (const values of calibration) yield feeds(values);
    },
  };
  const quantized = await halftone.quantizeModel(
    model,
    { ...options, ...(samples ? { calibration: samples } : {}) },
    runtime,
  );
  const bytes = halftone.writeOnnx(quantized.model);
  const { comparison } = quantized.report;
  return {
    bytes,
    outputs: await run(runtime, bytes, evaluation.map(feeds)),
    sqnr: comparison?.outputs[0]?.sqnr,
    collapsed: comparison?.collapsed?.message,
    runtime: `${runtime.id} ${runtime.version}`,
  };
}

/** The first output of a model for each of the feeds. */
async function run(
  runtime: library.Runtime,
  bytes: Uint8Array,
  list: readonly library.Feeds[],
): Promise<Float32Array[]> {
  const session = await runtime.open(bytes);
  try {
    const outputs: Float32Array[] = [];
    for (const feeds of list) outputs.push((await session.run(feeds))[session.outputs[0].name].floats());
    return outputs;
  } finally {
    await session.close();
  }
}
