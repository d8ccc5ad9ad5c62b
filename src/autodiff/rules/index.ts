/** All rules, by operator. */
import type { Node } from '../../graph/node.ts';
import { convolutionRules } from './convolution.ts';
import { elementwiseRules } from './elementwise.ts';
import { movementRules } from './movement.ts';
import { normalizationRules } from './normalization.ts';
import { poolingRules } from './pooling.ts';
import { productRules } from './product.ts';
import { quantizationRules } from './quantization.ts';
import { reductionRules } from './reduction.ts';
import { resizeRules } from './resize.ts';
import type { Rule, Rules } from './rule.ts';

const rules: Rules = {
  ...convolutionRules,
  ...elementwiseRules,
  ...movementRules,
  ...normalizationRules,
  ...poolingRules,
  ...productRules,
  ...quantizationRules,
  ...reductionRules,
  ...resizeRules,
};

/** Operators whose gradient is known; those of ONNX Runtime's domain as `com.microsoft:Operator`. */
export const differentiable: readonly string[] = Object.keys(rules).sort();

export function ruleOf(node: Node): Rule | undefined {
  const name = node.domain === '' ? node.op : `${node.domain}:${node.op}`;
  return Object.hasOwn(rules, name) ? rules[name] : undefined;
}
