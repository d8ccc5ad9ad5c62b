/** What a rule is: how the gradient of an operator's results becomes the gradient of its inputs. */
import { HalftoneError } from '../../base/errors.ts';
import type { Node } from '../../graph/node.ts';
import type { Value } from '../../graph/value.ts';
import type { Builder } from '../builder.ts';

export interface RuleInput {
  readonly node: Node;
  /** Gradient of the loss by the first output, of its shape; where only another output has one, zeros. */
  readonly gradient: Value;
  /** By each output; undefined where it has no influence. */
  readonly gradients: readonly (Value | undefined)[];
  /** Whether the gradient of this input is asked for. */
  readonly needs: (index: number) => boolean;
  readonly build: Builder;
}

/** Gradients by inputs, each of its input's shape; undefined where there is none or none was asked for. */
export type Rule = (input: RuleInput) => readonly (Value | undefined)[];

/** Operator of the ONNX domain, or `com.microsoft:Operator` → rule. */
export type Rules = Readonly<Record<string, Rule>>;

/** A form of an operator for which no gradient is known. */
export function unsupportedForm(node: Node, expected: string, got: string): HalftoneError {
  return new HalftoneError(
    'unsupported',
    `${node.label}: expected ${expected} for a gradient, got ${got}; reconstruct a part of the model without it`,
    { fields: { node: node.name, operator: node.op } },
  );
}

/** The constant behind an input. @throws HalftoneError `unsupported` where it is computed at run time. */
export function constantInput(node: Node, index: number): number[] {
  const value = node.input(index);
  const tensor = value.tensor ?? value.producer?.tensor('value');
  if (!tensor) throw unsupportedForm(node, `input ${index} to be constant`, 'one that is computed');
  return tensor.integers();
}

/** A possibly negative axis as a number from 0 on. */
export function axisOf(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}
