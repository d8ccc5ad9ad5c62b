/** A quantized model to measure, in the form that loads and runs fastest: codes already turned into floats where it can. */
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { dequantizeMatrix } from '../kernel/index.ts';
import { hasStaticPairs } from '../lowerings/index.ts';
import { lowerQdq, replaceWeight } from '../lowerings/qdq.ts';
import { SharedConstants, type Weight } from '../lowerings/weight.ts';
import { fromMatrix } from '../tensor/matrix-view.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type Correction, takesGain, withGain } from './correction.ts';
import {
  type CorrectionTarget,
  type LayerTarget,
  type NormalizationTarget,
  setBias,
  setNormalization,
} from './correction-targets.ts';
import type { Planning } from './plan.ts';

/** Weight name → its quantized matrix. */
export type Matrices = ReadonlyMap<string, QuantizedMatrix>;

/** Scale and bias of a normalization. */
export interface Normalization {
  readonly scale: Float32Array;
  readonly bias: Float32Array | undefined;
}

export interface Simulation {
  readonly model: Model;
  /** True when only weights are quantized. */
  readonly hasFloatActivations: boolean;
  /** Weights as they stand now. */
  readonly matrices: Matrices;
  /** Biases that were replaced, by the name of the layer's float result. */
  readonly biases: ReadonlyMap<string, Float32Array>;
  /** Normalizations that were changed, by the name of their result. */
  readonly normalizations: ReadonlyMap<string, Normalization>;
  /** The value that holds a layer's result before clipping and rounding. */
  resultOf(target: CorrectionTarget): Value;
  correct(target: CorrectionTarget, correction: Correction): void;
  normalize(target: NormalizationTarget, scale: Float32Array, bias: Float32Array | undefined): void;
  /** Gives a layer other codes. */
  replace(target: LayerTarget, matrix: QuantizedMatrix): void;
  /** True when every output channel has scales of its own, so that a factor can go into them. */
  hasRowScales(target: CorrectionTarget): boolean;
  /** Adds a node that does the layer's work on the same input with the float weight. To be removed after use. */
  addTwin(target: CorrectionTarget): Node;
}

/** Turns the planned model into its simulation. Integer layers keep their Quantize/Dequantize pairs. */
export function simulate(planning: Planning, matrices: Matrices): Simulation {
  const { model, integer, parameters } = planning;
  const integerWeights = new Map<Value, { weight: Weight; matrix: QuantizedMatrix }>();
  const current = new Map(matrices);
  const biases = new Map<string, Float32Array>();
  const normalizations = new Map<string, Normalization>();
  const lowerings = new Map(planning.plan.weights.map((plan) => [plan.tensor, plan.quantize?.lowering]));
  const floats = new Map(planning.weights.map((weight) => [weight.value, weight.tensor]));
  for (const weight of planning.weights) {
    const matrix = matrices.get(weight.value.name);
    if (!matrix) continue;
    const lowering = lowerings.get(weight.value.name);
    if (integer && parameters.size > 0 && lowering && hasStaticPairs(lowering)) {
      integerWeights.set(weight.value, { weight, matrix });
    } else {
      weight.value.tensor = dequantized(weight, matrix);
    }
  }
  if (integer && parameters.size > 0) lowerQdq(model, integer, parameters, integerWeights, new SharedConstants(model));
  model.graph.sort();
  const replace = ({ weight, node }: LayerTarget, matrix: QuantizedMatrix) => {
    current.set(weight.value.name, matrix);
    const pair = node.inputs[1]?.producer;
    if (integerWeights.has(weight.value) && pair?.is('DequantizeLinear')) replaceWeight(pair, weight, matrix);
    else weight.value.tensor = dequantized(weight, matrix);
  };
  return {
    model,
    hasFloatActivations: parameters.size === 0,
    matrices: current,
    biases,
    normalizations,
    resultOf: (target) => (target.bias?.node ?? target.node).output(),
    correct(target, { gain, bias }) {
      const matrix = current.get(target.weight.value.name);
      if (gain && matrix) replace(target, withGain(matrix, gain));
      if (bias) {
        biases.set(target.tensor, bias);
        setBias(target, bias);
      }
    },
    normalize(target, scale, bias) {
      normalizations.set(target.tensor, { scale, bias });
      setNormalization(target, scale, bias);
    },
    replace,
    hasRowScales({ weight }) {
      const matrix = current.get(weight.value.name);
      return matrix !== undefined && takesGain(matrix);
    },
    addTwin({ node, weight }) {
      const { graph } = node;
      const inputs = [...node.inputs];
      inputs[1] = graph.addInitializer(`${weight.value.name}_float`, floats.get(weight.value) ?? weight.tensor);
      const attributes = Object.fromEntries(node.attributes);
      return graph.add({ op: node.op, inputs, outputs: [`${node.output().name}_twin`], attributes });
    },
  };
}

/** The weight as its codes say it is. */
export function dequantized(weight: Weight, matrix: QuantizedMatrix): Tensor {
  const tensor = Tensor.float32(weight.tensor.shape, fromMatrix(dequantizeMatrix(matrix), weight.use.view));
  return weight.tensor.dtype === 'float16' || weight.tensor.dtype === 'bfloat16'
    ? tensor.converted(weight.tensor.dtype)
    : tensor;
}
