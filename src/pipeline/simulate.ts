/** A quantized model to measure, in the form that loads and runs fastest: codes already turned into floats where it can. */
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { dequantizeMatrix } from '../kernel/index.ts';
import { lowerQdq } from '../lowerings/qdq.ts';
import { SharedConstants, type Weight } from '../lowerings/weight.ts';
import { fromMatrix } from '../tensor/matrix-view.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type Correction, type CorrectionTarget, setBias, takesGain, withGain } from './correction.ts';
import type { Planning } from './plan.ts';

/** Weight name → its quantized matrix. */
export type Matrices = ReadonlyMap<string, QuantizedMatrix>;

export interface Simulation {
  readonly model: Model;
  /** True when only weights are quantized. */
  readonly hasFloatActivations: boolean;
  /** The value that holds a layer's result before clipping and rounding. */
  resultOf(target: CorrectionTarget): Value;
  apply(target: CorrectionTarget, correction: Correction): void;
  /** Gives a layer other codes, in float. */
  replace(target: CorrectionTarget, matrix: QuantizedMatrix): void;
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
  const lowerings = new Map(planning.plan.weights.map((plan) => [plan.tensor, plan.quantize?.lowering]));
  const floats = new Map(planning.weights.map((weight) => [weight.value, weight.tensor]));
  for (const weight of planning.weights) {
    const matrix = matrices.get(weight.value.name);
    if (!matrix) continue;
    const lowering = lowerings.get(weight.value.name);
    if (integer && parameters.size > 0 && (lowering === 'qdq' || lowering === 'qoperator')) {
      integerWeights.set(weight.value, { weight, matrix });
    } else {
      weight.value.tensor = dequantized(weight, matrix);
    }
  }
  if (integer && parameters.size > 0) lowerQdq(model, integer, parameters, integerWeights, new SharedConstants(model));
  model.graph.sort();
  return {
    model,
    hasFloatActivations: parameters.size === 0,
    resultOf: (target) => (target.bias?.node ?? target.node).output(),
    apply(target, { gain, bias }) {
      const { weight } = target;
      const matrix = current.get(weight.value.name);
      if (gain && matrix) {
        const scaled = withGain(matrix, gain);
        current.set(weight.value.name, scaled);
        const pair = target.node.inputs[1]?.producer;
        const scale = pair?.is('DequantizeLinear') ? pair.inputs[1] : undefined;
        if (scale?.tensor) scale.tensor = Tensor.float32(scale.tensor.shape, scaled.scales);
        else weight.value.tensor = dequantized(weight, scaled);
      }
      if (bias) setBias(target, bias);
    },
    replace({ weight }, matrix) {
      current.set(weight.value.name, matrix);
      weight.value.tensor = dequantized(weight, matrix);
    },
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
