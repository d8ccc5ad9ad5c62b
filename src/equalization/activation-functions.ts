/**
 * Functions that follow a layer and bend its result: behind them a mean is another than before. Noise that a layer's result
 * carries comes out of a Relu as a shift, so that means that agree before it do not behind it.
 */
import { clipBounds } from '../graph/clip-bounds.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';

export interface ActivationFunction {
  /** Name of what it makes. */
  readonly tensor: string;
  of(x: number): number;
  slope(x: number): number;
}

/** The function that alone reads `result`, where it is one of those known here. */
export function functionBehind(result: Value): ActivationFunction | undefined {
  const node = result.soleUser;
  const curve = node?.domain === '' && node.input(0) === result ? curveOf(node) : undefined;
  return node && curve && { tensor: node.output().name, ...curve };
}

function curveOf(node: Node): Omit<ActivationFunction, 'tensor'> | undefined {
  switch (node.op) {
    case 'Relu':
      return { of: (x) => Math.max(x, 0), slope: (x) => (x > 0 ? 1 : 0) };
    case 'LeakyRelu': {
      const alpha = node.float('alpha', 0.01);
      return { of: (x) => (x > 0 ? x : alpha * x), slope: (x) => (x > 0 ? 1 : alpha) };
    }
    case 'Clip': {
      const bounds = clipBounds(node);
      if (!bounds) return undefined;
      const { min, max } = bounds;
      return { of: (x) => Math.min(Math.max(x, min), max), slope: (x) => (x > min && x < max ? 1 : 0) };
    }
    case 'HardSwish':
      return {
        of: (x) => (x < -3 ? 0 : x > 3 ? x : (x * (x + 3)) / 6),
        slope: (x) => (x < -3 ? 0 : x > 3 ? 1 : (2 * x + 3) / 6),
      };
    case 'Sigmoid':
      return { of: sigmoid, slope: (x) => sigmoid(x) * (1 - sigmoid(x)) };
    case 'Tanh':
      return { of: Math.tanh, slope: (x) => 1 - Math.tanh(x) ** 2 };
    default:
      return undefined;
  }
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}
