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
    `${node.label}: expected ${expected} for a gradient, got ${got}; differentiate a part of the model without it`,
    { fields: { node: node.name, operator: node.op } },
  );
}

/** @throws HalftoneError `unsupported` for a model of an earlier operator set. */
export function requireOpset(node: Node, build: Builder, opset: number): void {
  if (build.model.opset >= opset) return;
  throw new HalftoneError(
    'unsupported',
    `${node.label}: expected operator set ${opset} or later for a gradient, got ${build.model.opset}; prepare the model with it`,
    { fields: { node: node.name, operator: node.op } },
  );
}

/** The numbers of a constant; undefined for what is computed at run time. */
export function numbersIn(value: Value): readonly number[] | undefined {
  const tensor = value.isConstant ? value.tensor : value.producer?.is('Constant') && value.producer.tensor('value');
  return tensor ? tensor.integers() : undefined;
}

/** The numbers of an input. @throws HalftoneError `unsupported` where they are computed at run time. */
export function integersIn(node: Node, index: number): readonly number[] {
  const numbers = numbersIn(node.input(index));
  if (numbers) return numbers;
  throw unsupportedForm(node, `input ${index} to be constant`, 'one that is computed');
}

/** A possibly negative axis as a number from 0 on. */
export function axisOf(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}
