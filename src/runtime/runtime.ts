/** The small interface behind which ONNX Runtime runs models. Only this folder imports onnxruntime. */
import type { DType } from '../tensor/dtype.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Model input or output name → tensor. For inputs the leading axis is the batch. */
export type Feeds = Readonly<Record<string, Tensor>>;

/** One input or output of a loaded model. Symbolic dimensions are names, or -1 where they have none. */
export interface ValueInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly (number | string)[];
}

export interface SessionOptions {
  /** How far ONNX Runtime may rewrite the graph. Default `all`, as a user's session would. */
  readonly optimization?: 'disabled' | 'basic' | 'extended' | 'all';
  /** Threads inside one operator. Default: the runtime's own choice. */
  readonly threads?: number;
  /** Session configuration entries, for example `session.disable_quant_qdq`. */
  readonly config?: Readonly<Record<string, string>>;
  /** Where to write the graph that the runtime really executes (Node only). */
  readonly optimizedModelPath?: string;
}

export interface Session {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  /** @throws HalftoneError `runtime` when the feeds do not fit or an operator fails. */
  run(feeds: Feeds): Promise<Feeds>;
  close(): Promise<void>;
}

export interface Runtime {
  /** `onnxruntime-node` or `onnxruntime-web`. */
  readonly id: string;
  readonly version: string;
  /**
   * Loads a serialized model.
   * @throws HalftoneError `runtime` with the runtime's own message as cause.
   */
  open(model: Uint8Array, options?: SessionOptions): Promise<Session>;
}
