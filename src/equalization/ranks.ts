/** Ranks of values and the known parts of computed shapes: as much as finding channels needs, without running anything. */
import type { Graph } from '../graph/graph.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';

export interface Ranks {
  /** The rank of a value, where the operators before it decide it or the file declares it. */
  rankOf(value: Value | undefined): number | undefined;
  /** The entries of a vector of integers, last ones first known; `undefined` where only the run can say. */
  entriesOf(value: Value | undefined): Entries | undefined;
}

export interface Entries {
  /** The last entries, in their order; undefined ones depend on the run. */
  readonly tail: readonly (number | undefined)[];
  /** False where more entries, of a number that is not known, lie before them. */
  readonly isWhole: boolean;
}

/** Operators whose result has the rank of their first input. */
const sameRank = [
  ...['Relu', 'LeakyRelu', 'PRelu', 'Clip', 'Sigmoid', 'Tanh', 'Erf', 'Softmax', 'Identity', 'Dropout', 'Neg', 'Abs'],
  ...['LayerNormalization', 'RMSNormalization', 'SimplifiedLayerNormalization', 'BatchNormalization', 'Elu', 'Gelu'],
  ...['InstanceNormalization', 'MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool', 'Slice', 'Split'],
  ...['Concat', 'Pad', 'Resize', 'Upsample', 'HardSwish', 'HardSigmoid', 'Sqrt', 'Exp', 'Log', 'Reciprocal', 'Cast'],
];
const broadcasting = ['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Min', 'Max', 'Where'];

/** Looks at the nodes of `graph` in their order. */
export function findRanks(graph: Graph): Ranks {
  const known = new Map<Value, number>();
  const rankOf = (value: Value | undefined): number | undefined =>
    value && (value.tensor?.shape.length ?? known.get(value) ?? value.type?.shape?.length);

  const entriesOf = (value: Value | undefined): Entries | undefined => {
    if (!value) return undefined;
    const { tensor, producer } = value;
    if (tensor) return tensor.shape.length === 1 ? { tail: tensor.integers(), isWhole: true } : undefined;
    if (producer?.domain !== '') return undefined;
    switch (producer.op) {
      case 'Concat': {
        const tail: (number | undefined)[] = [];
        for (const part of [...producer.inputs].reverse()) {
          const entries = entriesOf(part);
          if (!entries) return { tail, isWhole: false };
          tail.unshift(...entries.tail);
          if (!entries.isWhole) return { tail, isWhole: false };
        }
        return { tail, isWhole: true };
      }
      case 'Identity':
      case 'Cast':
        return entriesOf(producer.inputs[0]);
      case 'Unsqueeze':
        return rankOf(producer.inputs[0]) === 0 ? { tail: [undefined], isWhole: true } : undefined;
      case 'Gather': {
        const indices = producer.inputs[1]?.tensor;
        return indices?.shape.length === 1 ? unknown(indices.size) : undefined;
      }
      case 'Shape':
        return unknown(rankOf(producer.inputs[0]));
      default:
        return undefined;
    }
  };

  const infer = (node: Node): number | undefined => {
    const first = rankOf(node.inputs[0]);
    if (node.is(...sameRank)) return first;
    if (node.is(...broadcasting)) return largest(node.inputs.map(rankOf));
    switch (node.op) {
      case 'Conv':
      case 'ConvTranspose':
        return rankOf(node.inputs[1]);
      case 'Gemm':
      case 'Flatten':
        return 2;
      case 'MatMul': {
        const second = rankOf(node.inputs[1]);
        return first !== undefined && second !== undefined && Math.min(first, second) >= 2
          ? Math.max(first, second)
          : undefined;
      }
      case 'Shape':
        return 1;
      case 'Gather': {
        const indices = rankOf(node.inputs[1]);
        return first === undefined || indices === undefined ? undefined : first - 1 + indices;
      }
      case 'Reshape': {
        const entries = entriesOf(node.inputs[1]);
        return entries?.isWhole ? entries.tail.length : undefined;
      }
      case 'Transpose':
        return node.ints('perm')?.length ?? first;
      case 'Expand': {
        const entries = entriesOf(node.inputs[1]);
        return entries?.isWhole ? largest([first, entries.tail.length]) : undefined;
      }
      case 'Unsqueeze':
      case 'Squeeze': {
        const axes = axesOf(node);
        if (first === undefined || !axes) return undefined;
        return node.op === 'Squeeze' ? first - axes.length : first + axes.length;
      }
      default:
        if (!node.op.startsWith('Reduce')) return undefined;
        if (node.int('keepdims', 1) !== 0) return first;
        return first !== undefined && axesOf(node) ? first - axesOf(node)!.length : undefined;
    }
  };

  for (const node of graph.nodes) {
    const rank = node.domain === '' || node.op.endsWith('LayerNormalization') ? infer(node) : undefined;
    if (rank === undefined) continue;
    for (const output of node.outputs) if (output) known.set(output, rank);
  }
  return { rankOf, entriesOf };
}

function unknown(count: number | undefined): Entries | undefined {
  return count === undefined ? undefined : { tail: new Array<undefined>(count).fill(undefined), isWhole: true };
}

function largest(ranks: readonly (number | undefined)[]): number | undefined {
  return ranks.every((rank) => rank !== undefined) ? Math.max(...(ranks as number[])) : undefined;
}

/** The axes of Squeeze, Unsqueeze and Reduce…: an attribute, or from opset 13 or 18 on a constant input. */
export function axesOf(node: Node): number[] | undefined {
  return node.ints('axes') ?? (node.inputs[1]?.isConstant ? node.inputs[1].tensor?.integers() : undefined);
}
