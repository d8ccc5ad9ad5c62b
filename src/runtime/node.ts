/** Node only: finds ONNX Runtime. The native build is preferred; the WebAssembly build runs everywhere, slower. */
import type * as ort from 'onnxruntime-common';
import { HalftoneError, messageOf } from '../base/errors.ts';
import { createRuntime } from './onnxruntime.ts';
import type { Runtime } from './runtime.ts';

/** Tried in this order. */
export const runtimeIds = ['onnxruntime-node', 'onnxruntime-web'] as const;
export type RuntimeId = (typeof runtimeIds)[number];

const opened = new Map<RuntimeId, Promise<Runtime>>();

/**
 * Loads ONNX Runtime: the build named, or the native one and, where its binary is missing, the WebAssembly one.
 * @throws HalftoneError `runtime` when none can be loaded.
 */
export async function openRuntime(id?: RuntimeId): Promise<Runtime> {
  const failures: string[] = [];
  for (const candidate of id ? [id] : runtimeIds) {
    try {
      let runtime = opened.get(candidate);
      if (!runtime) {
        runtime = load(candidate);
        opened.set(candidate, runtime);
      }
      return await runtime;
    } catch (error) {
      opened.delete(candidate);
      failures.push(`${candidate}: ${messageOf(error)}`);
    }
  }
  throw new HalftoneError(
    'runtime',
    `runtime: expected ONNX Runtime, got none; npm install onnxruntime-node --ignore-scripts (${failures.join('; ')})`,
  );
}

/**
 * A runtime that is loaded when the first model is opened: much work on a model needs none.
 * @param onLoad is told which one it became
 */
export function lazyRuntime(id?: RuntimeId, onLoad?: (runtime: Runtime) => void): Runtime {
  let loaded: Runtime | undefined;
  return {
    get id() {
      return loaded?.id ?? id ?? runtimeIds[0];
    },
    get version() {
      return loaded?.version ?? '';
    },
    async open(model, options) {
      if (!loaded) {
        loaded = await openRuntime(id);
        onLoad?.(loaded);
      }
      return loaded.open(model, options);
    },
  };
}

async function load(id: RuntimeId): Promise<Runtime> {
  const loaded = (await import(id)) as typeof ort & { default?: typeof ort };
  const module = loaded.default ?? loaded;
  const { node, web, common } = module.env.versions;
  return createRuntime(module, id, (id === 'onnxruntime-node' ? node : web) ?? common);
}
