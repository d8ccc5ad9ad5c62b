/** What is learned of a block: scales, codes and biases of its layers, and its normalizations. */
import { formatOf } from '../formats/index.ts';
import { Adam, LearnedRounding, learnsFrom } from '../solvers/learned-rounding.ts';
import { fromMatrix, toMatrix } from '../tensor/matrix-view.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { CorrectionTarget, NormalizationTarget } from './correction-targets.ts';
import type { Simulation } from './simulate.ts';

/** How far numbers move in one step at the start (Adam's learning rates). */
export interface ReconstructionRates {
  /** Latent codes of 8-bit weights, in codes. Narrower codes stay. Default 0.03. */
  readonly codes: number;
  /** Scales, as a share of themselves. Default 0.002. */
  readonly scales: number;
  /** Biases, as a share of their root mean square. Default 0.004. */
  readonly biases: number;
}

/** Numbers of a block that are learned. */
export interface Learner {
  /** Names of values of the simulated model → what they are now. */
  feeds(): readonly (readonly [string, Tensor])[];
  /** @param gradients by the same names */
  step(gradients: ReadonlyMap<string, Float32Array>, rates: ReconstructionRates): void;
  /** What is learned by now, to be put into the simulation. */
  snapshot(): (simulation: Simulation) => void;
}

/**
 * Codes of narrower formats stay as they are: they were chosen together, and gradients that pass straight through the
 * rounding flip them one by one for less than a flip costs (measured on 2 to 4 bits behind GPTQ: the error grew).
 */
const leastBits = 8;

/** A layer whose weight nobody else reads, and its bias; undefined where its codes cannot be learned from. */
export function layerLearner(target: CorrectionTarget, simulation: Simulation): Learner | undefined {
  const { weight, node } = target;
  const matrix = simulation.matrices.get(weight.value.name);
  const read = node.inputs[1];
  if (!matrix || !read || !learnsFrom(matrix) || weight.uses.length > 1) return undefined;
  const { view } = weight.use;
  const rounding = new LearnedRounding(matrix, toMatrix(weight.tensor.floats(), view));
  const isWide = formatOf(matrix.scheme.format).bits >= leastBits;
  const bias = target.bias && vector(target.bias.node.inputs[target.bias.input]);
  return {
    feeds: () => [
      [read.name, Tensor.float32(weight.tensor.shape, fromMatrix(rounding.values, view))],
      ...(bias?.feeds() ?? []),
    ],
    step(gradients, rates) {
      const own = gradients.get(read.name);
      if (own) rounding.step(toMatrix(own, view), { codes: isWide ? rates.codes : 0, scales: rates.scales });
      bias?.step(gradients, rates.biases);
    },
    snapshot() {
      const learned = rounding.matrix();
      const shift = bias?.numbers.slice();
      return (into) => {
        into.replace(target, learned);
        if (shift) into.correct(target, { gain: undefined, bias: shift });
      };
    },
  };
}

/** Scale and bias of a normalization; undefined where other nodes read them, too. */
export function normalizationLearner(target: NormalizationTarget): Learner | undefined {
  const { node } = target;
  const scale = vector(node.inputs[target.scale]);
  const bias = target.bias === undefined ? undefined : vector(node.inputs[target.bias]);
  if (!scale) return undefined;
  const parts = bias ? [scale, bias] : [scale];
  return {
    feeds: () => parts.flatMap((part) => part.feeds()),
    step(gradients, rates) {
      for (const part of parts) part.step(gradients, rates.biases);
    },
    snapshot() {
      const [learned, shift] = [scale.numbers.slice(), bias?.numbers.slice()];
      const present = target.bias === undefined ? undefined : node.inputs[target.bias]?.tensor?.floats();
      return (into) => into.normalize(target, learned, shift ?? present);
    },
  };
}

/** A float constant that one input reads. Steps are shares of its root mean square. */
function vector(value: CorrectionTarget['weight']['value'] | undefined) {
  const { tensor, name } = value ?? {};
  if (!value?.isConstant || !tensor || !name || tensor.dtype !== 'float32' || value.useCount !== 1) return undefined;
  const numbers = tensor.floats().slice();
  const adam = new Adam(numbers.length);
  const unit = Math.sqrt(numbers.reduce((sum, number) => sum + number * number, 0) / numbers.length) || 1;
  return {
    numbers,
    feeds: (): [string, Tensor][] => [[name, Tensor.float32(tensor.shape, numbers)]],
    step(gradients: ReadonlyMap<string, Float32Array>, rate: number) {
      const own = gradients.get(name);
      if (own) adam.step(numbers, own, rate * unit);
    },
  };
}
