/** Node only: the threads, the memory and the disk that one quantization uses. */
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { HalftoneError } from '../base/errors.ts';
import { tensorBytes } from '../files/onnx/write.ts';
import { type WrittenFiles, writeModel } from '../files/onnx/write-files.ts';
import type { Model } from '../graph/model.ts';
import type { Executor } from '../pipeline/executor.ts';
import { type FileStore, openFileStore } from '../pipeline/file-store.ts';
import type { Plan } from '../pipeline/plan.ts';
import { defaultPartBytes } from '../pipeline/solve.ts';
import { memoryStore, type Store } from '../pipeline/store.ts';
import { defaultWorkers, openExecutor } from './node.ts';

export interface ResourceOptions {
  /** Threads that quantize weights. Default: one a core, at most 8; fewer where `maxMemory` asks for it. */
  readonly workers?: number;
  /** Bytes of resident memory not to exceed. Default: no bound but that of the working window, about 400 MiB. */
  readonly maxMemory?: number;
  /** Go on where an interrupted run that writes the same output ended. Default false. */
  readonly resume?: boolean;
}

export interface Resources {
  readonly executor: Executor;
  readonly openStore: (plan: Plan) => Store;
  readonly memory: { readonly partBytes: number; readonly wholeBytes?: number; readonly loweredBytes?: number };
  /**
   * Writes the result. Finished weights of large models are on the disk already, and become its external data: always with
   * `external`, and where the model has external data, too, or a GiB of tensors.
   * @throws HalftoneError as `writeModel`.
   */
  write(model: Model, output: string, options?: { readonly external?: boolean }): WrittenFiles;
  /** What an interrupted run had left, in a sentence; undefined where there was none. */
  readonly leftover: string | undefined;
  /** Ends workers; `keep` leaves finished weights for a run that resumes this one. */
  close(options?: { keep?: boolean }): Promise<void>;
}

const mebibyte = 2 ** 20;
/** Node with halftone loaded, and its reading and writing. */
const baseBytes = 116 * mebibyte;
/** A thread with its kernels' memory. */
const workerBytes = 42 * mebibyte;
/** A job holds its weights as read and as rows, their codes unpacked and packed; the results of some others wait. */
const copiesInJob = 4;
const smallestPart = mebibyte;
/** A weight that is worked on as a whole is there as read, as rows and as codes. */
const copiesOfWhole = 3;
/** Codes of a byte as they are stored, as they are numbered, in the tensor's order, and as they are written. */
const copiesOfLowered = 0.8;

/** Models with fewer bytes of weights are done before a second run could take anything over. */
const storedFrom = 2 ** 26;

/** From here on results are not copied into one file. */
const besideFrom = 2 ** 30;

/**
 * Opens what a quantization of `model` needs; `output` is the file that it goes to.
 * @throws HalftoneError `usage` when `maxMemory` is too little for it, or `workers` no number of workers.
 */
export function openResources(
  model: Model,
  output: string | undefined,
  options: ResourceOptions & {
    /** Whether the model is run on samples. */
    readonly calibrates: boolean;
    /** Whether its tensors lie beside the file it was read from. */
    readonly hasExternalData: boolean;
  },
): Resources {
  const bytes = tensorBytes(model);
  const { maxMemory, workers: wanted = defaultWorkers() } = options;
  if (!Number.isInteger(wanted) || wanted < 1) {
    throw new HalftoneError('usage', `workers: expected a whole number from 1 on, got ${wanted}`);
  }
  if (options.calibrates && maxMemory !== undefined) refuseToRun(bytes, maxMemory);
  const { workers, partBytes } = sharesOf(wanted, maxMemory);
  const executor = openExecutor(workers, bytes);
  let store: FileStore | undefined;
  // Who ends the process at once, as on ctrl-C, leaves nothing behind either.
  const clean = () => store?.close({ keep: options.resume === true });
  process.once('exit', clean);
  return {
    executor,
    memory: {
      partBytes,
      ...(maxMemory === undefined
        ? {}
        : {
            wholeBytes: Math.floor((maxMemory - baseBytes - workers * workerBytes) / (copiesOfWhole * workers)),
            loweredBytes: Math.floor((maxMemory - baseBytes) / copiesOfLowered),
          }),
    },
    openStore(plan) {
      if (output === undefined || bytes < storedFrom) return memoryStore();
      store = openFileStore(output, {
        identity: { version, plan, tensors: identityOf(model) },
        resume: options.resume === true,
      });
      return store;
    },
    write(result, path, { external = false } = {}) {
      const beside = external || options.hasExternalData || bytes >= besideFrom;
      return writeModel(result, path, {
        external: external || (store !== undefined && beside),
        ...(store && beside ? { data: store } : {}),
      });
    },
    get leftover() {
      const weights = (count: number) => `${count} ${count === 1 ? 'weight' : 'weights'}`;
      if (store?.resumed) return `Taken over from an interrupted run: ${weights(store.resumed)}.`;
      if (store?.givenUp) {
        return `An interrupted run had finished ${weights(store.givenUp)}; --resume would have taken over as much.`;
      }
      return options.resume && store ? 'There was no interrupted run to resume.' : undefined;
    },
    async close({ keep = false } = {}) {
      process.off('exit', clean);
      store?.close({ keep });
      await executor.close();
    },
  };
}

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

/** What tells one model's tensors from another's: files and places in them, or a digest of what is in memory. */
function identityOf(model: Model): unknown[] {
  const identity: unknown[] = [];
  for (const graph of model.graphs()) {
    for (const { name, tensor } of graph.initializers) {
      const range = tensor?.source?.range;
      const digest = tensor && !range && createHash('sha256').update(tensor.bytes).digest('hex');
      identity.push([name, range ?? digest]);
    }
    for (const node of graph.nodes) {
      for (const attribute of node.attributes.values()) {
        if (attribute.type === 'tensor')
          identity.push(createHash('sha256').update(attribute.value.bytes).digest('hex'));
      }
    }
  }
  return identity;
}

/** As many workers, up to those asked for, as leave each a part of useful size. */
function sharesOf(workers: number, maxMemory: number | undefined): { workers: number; partBytes: number } {
  if (maxMemory === undefined) return { workers, partBytes: defaultPartBytes };
  for (let count = workers; count >= 1; count--) {
    const left = maxMemory - baseBytes - count * workerBytes;
    const partBytes = Math.floor(left / (count * copiesInJob));
    if (partBytes >= smallestPart) return { workers: count, partBytes: Math.min(partBytes, defaultPartBytes) };
  }
  const least = Math.ceil((baseBytes + workerBytes + copiesInJob * smallestPart) / mebibyte);
  throw new HalftoneError(
    'usage',
    `memory: expected at least ${least} MiB to work with, got ${Math.floor(maxMemory / mebibyte)} MiB`,
  );
}

/** ONNX Runtime holds a model as it reads it, as it prepares it, and as it runs it. */
const copiesInRuntime = 3;

function refuseToRun(bytes: number, maxMemory: number): void {
  const least = baseBytes + copiesInRuntime * bytes;
  if (maxMemory >= least) return;
  throw new HalftoneError(
    'usage',
    `memory: expected at least ${Math.ceil(least / mebibyte)} MiB to run a model with ${Math.ceil(bytes / mebibyte)} MiB of ` +
      `tensors on samples, got ${Math.floor(maxMemory / mebibyte)} MiB; allow more, or quantize its weights without samples`,
  );
}
