/** The runtime interface over any build of ONNX Runtime's JavaScript API: -node and -web share it. */
import type * as ort from 'onnxruntime-common';
import { HalftoneError, messageOf } from '../base/errors.ts';
import type { DType } from '../tensor/dtype.ts';
import { bytesOf, Tensor } from '../tensor/tensor.ts';
import type { Feeds, Runtime, Session, SessionOptions, ValueInfo } from './runtime.ts';

type Module = typeof ort;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Wraps a loaded onnxruntime module. `id` names the build in reports. */
export function createRuntime(module: Module, id: string, version: string): Runtime {
  return {
    id,
    version,
    async open(model, options = {}) {
      try {
        const session = await module.InferenceSession.create(model, sessionOptions(options));
        return wrap(module, session);
      } catch (error) {
        throw new HalftoneError('runtime', `${id}: expected to load the model, got: ${oneLine(messageOf(error))}`, {
          cause: error,
        });
      }
    },
  };
}

function sessionOptions(options: SessionOptions): ort.InferenceSession.SessionOptions {
  const session = options.config ? configTree(options.config) : {};
  return {
    graphOptimizationLevel: options.optimization ?? 'all',
    logSeverityLevel: 4,
    ...(options.threads ? { intraOpNumThreads: options.threads, interOpNumThreads: 1 } : {}),
    ...(options.optimizedModelPath ? { optimizedModelFilePath: options.optimizedModelPath } : {}),
    ...(options.config ? { extra: session } : {}),
  };
}

/** `{'session.disable_quant_qdq': '1'}` as the nested object that the JavaScript API flattens again. */
function configTree(config: Readonly<Record<string, string>>): Record<string, unknown> {
  const tree: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(config)) {
    const parts = key.split('.');
    let branch = tree;
    for (const part of parts.slice(0, -1)) {
      branch[part] ??= {};
      branch = branch[part] as Record<string, unknown>;
    }
    branch[parts[parts.length - 1]] = value;
  }
  return tree;
}

function wrap(module: Module, session: ort.InferenceSession): Session {
  const inputs = session.inputMetadata.map(valueInfo);
  const outputs = session.outputMetadata.map(valueInfo);
  return {
    inputs,
    outputs,
    async run(feeds) {
      const given: Record<string, ort.Tensor> = {};
      for (const input of inputs) {
        const tensor = feeds[input.name];
        if (!tensor) {
          throw new HalftoneError(
            'missing-data',
            `input "${input.name}": expected ${input.dtype}[${input.shape.join(',')}], got nothing`,
            {
              fields: { input: input.name },
            },
          );
        }
        given[input.name] = toRuntime(module, tensor);
      }
      try {
        const results = await session.run(given);
        const converted: Record<string, Tensor> = {};
        for (const name of session.outputNames) converted[name] = fromRuntime(results[name]);
        return converted as Feeds;
      } catch (error) {
        throw new HalftoneError('runtime', `model: expected to run, got: ${oneLine(messageOf(error))}`, {
          cause: error,
        });
      }
    },
    close: () => session.release(),
  };
}

function valueInfo(meta: ort.InferenceSession.ValueMetadata): ValueInfo {
  if (!meta.isTensor) return { name: meta.name, dtype: 'float32', shape: [] };
  return {
    name: meta.name,
    dtype: meta.type as DType,
    shape: meta.shape.map((dimension) => (dimension === undefined ? -1 : dimension)),
  };
}

function toRuntime(module: Module, tensor: Tensor): ort.Tensor {
  const { dtype, bytes, shape } = tensor;
  if (tensor.strings)
    return new module.Tensor(
      'string',
      tensor.strings.map((text) => decoder.decode(text)),
      shape,
    );
  const View = views[dtype as keyof typeof views];
  if (!View)
    throw new HalftoneError('unsupported', `tensor: expected a type that the runtime takes as input, got ${dtype}`);
  const copy = bytes.byteOffset % View.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  const data = new View(copy.buffer as ArrayBuffer, copy.byteOffset, copy.byteLength / View.BYTES_PER_ELEMENT);
  return new module.Tensor(dtype as 'float32', data as Float32Array, shape);
}

function fromRuntime(tensor: ort.Tensor): Tensor {
  const data = tensor.data;
  if (Array.isArray(data)) {
    return new Tensor(
      'string',
      tensor.dims,
      new Uint8Array(0),
      data.map((text) => encoder.encode(text)),
    );
  }
  return new Tensor(tensor.type as DType, tensor.dims, bytesOf(data as Uint8Array));
}

/** The array types of the JavaScript API (onnxruntime-common, lib/tensor.ts). */
const views = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  uint4: Uint8Array,
  int4: Int8Array,
} as const;

function oneLine(text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim().slice(0, 600);
}
