/** What the browser test does on both sides: in Node, and bundled into a page's worker. */
import type * as library from '../../src/index.ts';

/** What is used of the library; handed in, because the page takes it from the built package. */
export interface Library extends Pick<typeof library, 'Tensor' | 'inputsOf'> {
  quantize(model: library.Model, options: library.QuantizeOptions): Promise<library.Quantized>;
  write(model: library.Model): Blob;
}

/** How to quantize a model, and samples for it. All of it can be sent to a page and on to its worker. */
export interface Task {
  readonly options: Omit<library.RecipeInput, 'rules'>;
  /** Values of the one input, a sample each. */
  readonly calibration?: readonly Float32Array[];
  /** Samples to run the quantized model on. */
  readonly evaluation?: readonly Float32Array[];
  /** Shape of one sample. */
  readonly shape?: readonly number[];
  /** In a page: how many workers of which script quantize weights. Default: none, the page's own worker does. */
  readonly workers?: { readonly count: number; readonly script: string };
}

export interface Outcome {
  /** A digest of the whole written file. */
  readonly digest: string;
  readonly byteLength: number;
  /** The first output of the quantized model for each sample of `evaluation`. */
  readonly outputs: readonly Float32Array[];
  /** SQNR of the outputs on held-out samples, where samples were given. */
  readonly sqnr: number | undefined;
  readonly collapsed: string | undefined;
  /** The runtime that calibrated. */
  readonly runtime: string;
}

/** Quantizes, writes and runs a model. */
export async function carryOut(
  halftone: Library,
  runtime: library.Runtime,
  model: library.Model,
  task: Task,
): Promise<Outcome> {
  const { calibration, evaluation = [], shape = [], options } = task;
  const [input] = halftone.inputsOf(model);
  const feeds = (values: Float32Array) => ({ [input.name]: halftone.Tensor.float32(shape, values) });
  const samples = calibration && {
    description: 'samples of the test',
    count: calibration.length,
    async *[Symbol.asyncIterator]() {
      for (const values of calibration) yield feeds(values);
    },
  };
  const quantized = await halftone.quantize(model, { ...options, ...(samples ? { calibration: samples } : {}) });
  const file = halftone.write(quantized.model);
  const { comparison } = quantized.report;
  return {
    digest: await digestOf(file),
    byteLength: file.size,
    outputs: evaluation.length === 0 ? [] : await run(runtime, file, evaluation.map(feeds)),
    sqnr: comparison?.outputs[0]?.sqnr,
    collapsed: comparison?.collapsed?.message,
    runtime: `${runtime.id} ${runtime.version}`,
  };
}

const chunkBytes = 2 ** 23;

/** SHA-256 over the SHA-256 of every 8 MiB, so that the file need not be in memory at once. */
async function digestOf(file: Blob): Promise<string> {
  const digests: ArrayBuffer[] = [];
  for (let start = 0; start < file.size; start += chunkBytes) {
    digests.push(await crypto.subtle.digest('SHA-256', await file.slice(start, start + chunkBytes).arrayBuffer()));
  }
  const digest = await crypto.subtle.digest('SHA-256', await new Blob(digests).arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The first output of a model for each of the feeds. */
async function run(runtime: library.Runtime, file: Blob, list: readonly library.Feeds[]): Promise<Float32Array[]> {
  const session = await runtime.open(new Uint8Array(await file.arrayBuffer()));
  try {
    const outputs: Float32Array[] = [];
    for (const feeds of list) outputs.push((await session.run(feeds))[session.outputs[0].name].floats());
    return outputs;
  } finally {
    await session.close();
  }
}
