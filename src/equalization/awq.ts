/**
 * AWQ: activation-aware weight quantization (Lin et al. 2023, arXiv 2306.00978, section 3.2). Columns of weights that meet
 * large activations are multiplied by a factor before they are rounded, which makes their share of the error smaller:
 * s_j = mean|X_j|^α, with the α of a grid whose rounding error costs least in the layers' results.
 */
import type { Scheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import { dequantizeMatrix } from '../kernel/index.ts';
import { solverOf } from '../solvers/index.ts';
import { matrixView, toMatrix } from '../tensor/matrix-view.ts';
import type { Slot } from './groups.ts';
import { layerAxes } from './layers.ts';
import { describeScaling, type ScaledGroup, scaleGroup } from './scale.ts';
import { productGroups, readStatistic } from './smooth.ts';

export interface AwqOptions {
  /** How the weight of this name is going to be quantized; undefined for weights that stay float. */
  readonly schemeOf: (weight: string) => Scheme | undefined;
  /** Mean of the magnitudes of each channel of what layers read, by the name of the value. */
  readonly magnitudes: ReadonlyMap<string, ArrayLike<number>>;
  /** Mean of x·xᵀ of what each weight's columns meet, [columns, columns], by the name of the weight. */
  readonly moments: ReadonlyMap<string, Float32Array>;
}

export interface WeighedGroup extends ScaledGroup {
  /** The α that was taken; 0 leaves the group as it was. */
  readonly exponent: number;
  /** tr(ΔW·M·ΔWᵀ) of all consumers with it, as a share of what it is without. */
  readonly gain: number;
}

/** α = 0, 0.05 … 0.95 (llm-awq, auto_scale.py). */
const steps = 20;

/** Products with the second moment for one α, and the rows that are looked at in any case: of more rows, evenly spread ones. */
const largestWork = 2 ** 24;
const fewestRows = 64;

/** Scales, in place, the groups that matrix products read, where the error falls. Outputs stay what they were. */
export function weighByActivations(model: Model, options: AwqOptions): WeighedGroup[] {
  const done: WeighedGroup[] = [];
  for (const group of productGroups(model)) {
    const sizes = readStatistic(group, (name) => options.magnitudes.get(name));
    const losses = group.consumers.map((slot) => lossOf(slot, options));
    const known = losses.filter((loss) => loss !== undefined);
    if (!sizes || known.length === 0) continue;
    const total = (factors: Float64Array) => known.reduce((sum, loss) => sum + loss(factors), 0);
    let factors: Float64Array = new Float64Array(group.channels).fill(1);
    const plain = total(factors);
    let [least, exponent] = [plain, 0];
    for (let step = 1; step < steps; step++) {
      const candidate = normalized(sizes, step / steps);
      const loss = total(candidate);
      if (loss < least) [least, exponent, factors] = [loss, step / steps, candidate];
    }
    if (exponent > 0) scaleGroup(group, factors);
    done.push({ ...describeScaling(group, factors), exponent, gain: plain > 0 ? least / plain : 1 });
  }
  return done;
}

/** s = a^α, at least 1e-4, over √(max s · min s) (llm-awq, auto_scale.py). */
function normalized(sizes: Float64Array, alpha: number): Float64Array {
  const raw = sizes.map((size) => Math.max(size ** alpha, 1e-4));
  const middle = Math.sqrt(raw.reduce((a, b) => Math.max(a, b)) * raw.reduce((a, b) => Math.min(a, b)));
  return raw.map((factor) => factor / middle);
}

/** What rounding the consumer's weight under given factors costs in its results. */
function lossOf(slot: Slot, { schemeOf, moments }: AwqOptions): ((factors: Float64Array) => number) | undefined {
  const value = slot.node.input(1);
  const scheme = schemeOf(value.name);
  const moment = moments.get(value.name);
  const axes = layerAxes(slot.node);
  if (!scheme || !axes || moment?.length !== slot.channels.length ** 2) return undefined;
  const tensor = axes.weight;
  const view = matrixView(tensor.shape, [axes.makes.axis]);
  const { columns } = view;
  const whole = toMatrix(tensor.floats(), view);
  const count = Math.min(view.rows, Math.max(fewestRows, Math.floor(largestWork / columns ** 2)));
  const weights = new Float32Array(count * columns);
  for (let row = 0; row < count; row++) {
    const from = Math.floor((row * view.rows) / count) * columns;
    weights.set(whole.subarray(from, from + columns), row * columns);
  }
  const solver = solverOf('search');
  return (factors) => {
    const own = Float32Array.from(slot.channels, (channel) => (channel < 0 ? 1 : factors[channel]));
    const scaled = weights.map((weight, index) => weight * own[index % columns]);
    const rounded = dequantizeMatrix(solver.solve(scaled, count, columns, scheme));
    let loss = 0;
    const error = new Float64Array(columns);
    for (let row = 0; row < count; row++) {
      for (let j = 0; j < columns; j++) {
        const index = row * columns + j;
        error[j] = (rounded[index] - scaled[index]) / own[j];
      }
      for (let j = 0; j < columns; j++) {
        let sum = 0;
        for (let k = 0; k < columns; k++) sum += moment[j * columns + k] * error[k];
        loss += error[j] * sum;
      }
    }
    return (loss * view.rows) / count;
  };
}
