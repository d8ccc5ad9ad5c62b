/** What a block is reconstructed from: its inputs in the quantized model, and what the float model makes of its own. */
import type { Model } from '../graph/model.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';
import { concatenated } from '../samples/arrays.ts';
import type { Samples } from '../samples/sample.ts';
import { Tensor } from '../tensor/tensor.ts';
import { batchOf } from './batching.ts';
import { valuesByName } from './calibrate.ts';
import { openValues } from './runnable.ts';

/** One sample. */
export interface Row {
  /** The block's inputs, in the order of the names asked for. */
  readonly inputs: readonly Tensor[];
  readonly targets: readonly Tensor[];
}

export interface Rows {
  /** All of one shape. */
  readonly rows: readonly Row[];
  /** Whether several of them may run together: they came so. */
  readonly isBatched: boolean;
}

export interface RecordOptions {
  /** Values of the quantized model, or inputs of both. */
  readonly inputs: readonly string[];
  /** Values of the float model. */
  readonly targets: readonly string[];
  /** Rows are thinned out evenly to stay within so many bytes. */
  readonly maxBytes: number;
  /** Only rows of its shapes are taken. Default: of the shapes of the first row. */
  readonly like?: Row;
  readonly runtime: Runtime;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** Runs both models on the samples, which may be batches. */
export async function recordRows(
  float: Model,
  quantized: Model,
  samples: Samples,
  { inputs, targets, maxBytes, like, runtime, threads, signal }: RecordOptions,
): Promise<Rows> {
  const open = (model: Model, names: readonly string[]) => {
    const values = valuesByName(model.graph);
    return openValues(
      model,
      names.map((name) => values.get(name)),
      runtime,
      threads,
    );
  };
  const left = await open(float, targets);
  const right = await open(quantized, inputs);
  let rows: Row[] = [];
  let isBatched = false;
  let stride = 1;
  let index = 0;
  try {
    for await (const feeds of samples) {
      signal?.throwIfAborted();
      const count = batchOf(feeds);
      isBatched ||= count > 1;
      const [wanted, given] = [await left.run(feeds), await right.run(feeds)];
      const made = (results: Feeds, names: readonly string[]) =>
        names.map((name) => splitRows(results[name] ?? feeds[name], count));
      const [x, y] = [made(given, inputs), made(wanted, targets)];
      if ([...x, ...y].some((values) => !values)) continue;
      for (let place = 0; place < count; place++, index++) {
        if (index % stride !== 0) continue;
        const at = (values: readonly (Tensor[] | undefined)[]) => values.flatMap((value) => value?.[place] ?? []);
        const row: Row = { inputs: at(x), targets: at(y) };
        const model = like ?? rows[0];
        if (model && shapesOf(row) !== shapesOf(model)) continue;
        rows.push(row);
        if (rows.length > 1 && rows.length * bytesOfRow(row) > maxBytes) {
          rows = rows.filter((_, kept) => kept % 2 === 0);
          stride *= 2;
        }
      }
    }
  } finally {
    await left.close();
    await right.close();
  }
  return { rows, isBatched };
}

/** Rows as one batch: tensors by the names that inputs and targets have. */
export function joinedRows(rows: readonly Row[], inputs: readonly string[], targets: readonly string[]): Feeds {
  const join = (names: readonly string[], pick: (row: Row) => readonly Tensor[]) =>
    names.map((name, index) => {
      const tensors = rows.map((row) => pick(row)[index]);
      return [name, concatenated(tensors)] as const;
    });
  return Object.fromEntries([...join(inputs, (row) => row.inputs), ...join(targets, (row) => row.targets)]);
}

export function bytesOfRow({ inputs, targets }: Row): number {
  return [...inputs, ...targets].reduce((sum, tensor) => sum + tensor.byteLength, 0);
}

/** The tensor cut along its leading axis into `count` parts, or undefined where that axis cannot be so many samples. */
function splitRows(tensor: Tensor | undefined, count: number): Tensor[] | undefined {
  if (!tensor) return undefined;
  if (count === 1) return [tensor];
  const [leading, ...rest] = tensor.shape;
  if (!(leading >= count) || leading % count !== 0) return undefined;
  const { bytes } = tensor;
  const size = bytes.length / count;
  return Array.from({ length: count }, (_, row) => {
    const shape = [leading / count, ...rest];
    return new Tensor(tensor.dtype, shape, bytes.subarray(row * size, (row + 1) * size));
  });
}

function shapesOf({ inputs, targets }: Row): string {
  return [...inputs, ...targets].map(({ shape }) => shape.join()).join(';');
}
