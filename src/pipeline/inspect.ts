/** What a model is made of: operators, weights with their bytes and ranges, inputs and outputs. Runs nothing. */
import { producerOf } from '../files/onnx/read.ts';
import { serializedBytes } from '../files/onnx/write.ts';
import type { Model } from '../graph/model.ts';
import { bestKernel } from '../kernel/index.ts';
import { findWeights, type WeightKind } from '../lowerings/weight.ts';
import { byteLengthOf, type DType } from '../tensor/dtype.ts';
import { Tensor } from '../tensor/tensor.ts';
import { quantizedOperatorsOf } from './quantized-operators.ts';

export interface InspectedWeight {
  readonly tensor: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly kind: WeightKind;
  readonly users: readonly string[];
  readonly bytes: number;
  readonly min: number;
  readonly max: number;
  readonly nonFinite: number;
}

export interface InspectedValue {
  readonly name: string;
  readonly dtype: DType | undefined;
  readonly shape: readonly (number | string | undefined)[] | undefined;
}

export interface Inspection {
  readonly irVersion: number;
  readonly opset: number;
  readonly domains: Readonly<Record<string, number>>;
  readonly producer: string;
  readonly inputs: readonly InspectedValue[];
  readonly outputs: readonly InspectedValue[];
  readonly nodes: number;
  /** Operators with their counts, most frequent first, subgraphs included. */
  readonly operators: readonly (readonly [op: string, count: number])[];
  /** Numbers held by float tensors. */
  readonly parameters: number;
  readonly weightBytes: number;
  /** Bytes of the model as one file. */
  readonly bytes: number;
  /** Largest first. */
  readonly weights: readonly InspectedWeight[];
  /** Quantized operators; empty for a float model. */
  readonly quantized: readonly (readonly [op: string, count: number])[];
}

/** Bytes of a tensor that are looked at together. */
const piece = 2 ** 24;

/** The range of the finite values of a tensor that need not fit into memory. */
function extentOf(tensor: Tensor): { min: number; max: number; nonFinite: number } {
  const width = byteLengthOf(tensor.dtype, 1);
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  let nonFinite = 0;
  for (let start = 0; start < tensor.byteLength; start += piece) {
    const bytes = tensor.bytesAt(start, Math.min(start + piece, tensor.byteLength));
    const found = bestKernel().extent(new Tensor(tensor.dtype, [bytes.byteLength / width], bytes).floats());
    nonFinite += found.nan + found.positiveInfinity + found.negativeInfinity;
    if (found.finite === 0) continue;
    min = Math.min(min, found.min);
    max = Math.max(max, found.max);
  }
  return min <= max ? { min, max, nonFinite } : { min: 0, max: 0, nonFinite };
}

/** Describes a model. */
export function inspect(model: Model): Inspection {
  const counts = new Map<string, number>();
  let nodes = 0;
  for (const node of model.nodes()) {
    const name = node.domain ? `${node.domain}.${node.op}` : node.op;
    counts.set(name, (counts.get(name) ?? 0) + 1);
    nodes++;
  }
  const weights = findWeights(model).map(({ value, tensor, use, uses }): InspectedWeight => {
    const { min, max, nonFinite } = extentOf(tensor);
    return {
      tensor: value.name,
      dtype: tensor.dtype,
      shape: tensor.shape,
      kind: use.kind,
      users: uses.map(({ node }) => node.label),
      bytes: tensor.byteLength,
      min,
      max,
      nonFinite,
    };
  });
  const describe = (value: (typeof model.graph.inputs)[number]): InspectedValue => ({
    name: value.name,
    dtype: value.type?.dtype,
    shape: value.type?.shape,
  });
  let parameters = 0;
  let weightBytes = 0;
  for (const graph of model.graphs()) {
    for (const { tensor } of graph.initializers) {
      weightBytes += tensor?.byteLength ?? 0;
      if (tensor?.isFloat) parameters += tensor.size;
    }
  }
  return {
    irVersion: model.irVersion,
    opset: model.opset,
    domains: Object.fromEntries([...model.opsets].map(([domain, version]) => [domain || 'ai.onnx', version])),
    producer: producerOf(model),
    inputs: model.graph.inputs.filter((value) => !value.tensor).map(describe),
    outputs: model.graph.outputs.map(describe),
    nodes,
    operators: [...counts].sort((a, b) => b[1] - a[1]),
    parameters,
    weightBytes,
    bytes: serializedBytes(model),
    weights: weights.sort((a, b) => b.bytes - a.bytes),
    quantized: quantizedOperatorsOf(model),
  };
}
