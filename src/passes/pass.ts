/** What a graph pass is: a change of the graph that leaves every output what it was. Float in, float out. */
import type { Model } from '../graph/model.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** A node that a pass wanted to change and could not. The model stays right without the change. */
export interface PassSkip {
  readonly pass: string;
  readonly node: string;
  readonly reason: string;
}

/** What passes get from outside: they import no runtime and print nothing. */
export interface PassContext {
  /** Runs a model that has no inputs; returns its outputs by name. Whoever calls the passes brings a runtime. */
  readonly evaluate: (model: Model) => Promise<Readonly<Record<string, Tensor>>>;
  /** The version of the ONNX operator set that `upgrade-opset` raises the model to. Without it that pass does nothing. */
  readonly opset?: number;
  /** Hears of every change that was possible in principle and not made. */
  readonly onSkip?: (skip: PassSkip) => void;
}

export interface Pass {
  readonly id: string;
  readonly summary: string;
  /**
   * Edits the model in place. A second run right after the first changes nothing.
   * @returns whether anything changed.
   */
  run(model: Model, context: PassContext): boolean | Promise<boolean>;
}
