/** Codebooks of a distribution: the levels with the least squared error, or levels of equal mass. */

/** Numbers in bins of equal width: enough to place levels, with exact means. */
export class Distribution {
  readonly #low: number;
  readonly #width: number;
  /** Σ weight and Σ weight·number of the bins before each. */
  readonly #weights: Float64Array;
  readonly #sums: Float64Array;
  readonly #bins: number;

  /** @param weigh how much number i counts, not negative. Default: all the same. */
  constructor(numbers: Float32Array, bins: number, weigh?: (index: number) => number) {
    let low = Number.POSITIVE_INFINITY;
    let high = Number.NEGATIVE_INFINITY;
    for (const number of numbers) {
      if (number < low) low = number;
      if (number > high) high = number;
    }
    this.#bins = bins;
    this.#low = low;
    this.#width = (high - low) / bins;
    this.#weights = new Float64Array(bins + 1);
    this.#sums = new Float64Array(bins + 1);
    const scale = this.#width > 0 ? 1 / this.#width : 0;
    for (let i = 0; i < numbers.length; i++) {
      const bin = Math.min(Math.floor((numbers[i] - low) * scale), bins - 1) + 1;
      const weight = weigh ? weigh(i) : 1;
      this.#weights[bin] += weight;
      this.#sums[bin] += weight * numbers[i];
    }
    for (let bin = 1; bin <= bins; bin++) {
      this.#weights[bin] += this.#weights[bin - 1];
      this.#sums[bin] += this.#sums[bin - 1];
    }
  }

  get low(): number {
    return this.#low;
  }

  get high(): number {
    return this.#low + this.#width * this.#bins;
  }

  /** The first bin that lies, with its middle, at or above a number. */
  #binAt(number: number): number {
    if (!(this.#width > 0)) return number <= this.#low ? 0 : this.#bins;
    return Math.min(Math.max(Math.ceil((number - this.#low) / this.#width - 0.5), 0), this.#bins);
  }

  /** One step: every level becomes the mean of the numbers nearest to it. Returns what the levels explain of Σ w·x². */
  improve(levels: Float64Array): number {
    let explained = 0;
    let from = 0;
    for (let i = 0; i < levels.length; i++) {
      const to = i + 1 < levels.length ? this.#binAt((levels[i] + levels[i + 1]) / 2) : this.#bins;
      const weight = this.#weights[to] - this.#weights[from];
      const sum = this.#sums[to] - this.#sums[from];
      if (weight > 0) {
        levels[i] = sum / weight;
        explained += (sum * sum) / weight;
      }
      from = to;
    }
    return explained;
  }

  /** The bin before which a share of `mass` lies, of masses that fall as a power of the density. */
  quantiles(count: number, power: number): Float64Array {
    const masses = new Float64Array(this.#bins + 1);
    // Neighbours are taken together: single bins may hold one number or none.
    const reach = Math.max(1, Math.floor(this.#bins / 256));
    for (let bin = 0; bin < this.#bins; bin++) {
      const from = Math.max(bin - reach, 0);
      const to = Math.min(bin + reach + 1, this.#bins);
      const density =
        power === 1
          ? this.#weights[bin + 1] - this.#weights[bin]
          : (this.#weights[to] - this.#weights[from]) / (to - from);
      masses[bin + 1] = masses[bin] + density ** power;
    }
    const total = masses[this.#bins];
    const levels = new Float64Array(count);
    let bin = 0;
    for (let i = 0; i < count; i++) {
      const wanted = ((i + 0.5) / count) * total;
      while (bin + 1 < this.#bins && masses[bin + 1] < wanted) bin++;
      levels[i] = this.#low + (bin + 0.5) * this.#width;
    }
    return levels;
  }

  /** The means of `count` parts of equal mass. */
  equalMass(count: number): Float64Array {
    const total = this.#weights[this.#bins];
    const levels = new Float64Array(count);
    let from = 0;
    for (let i = 0; i < count; i++) {
      const wanted = ((i + 1) / count) * total;
      let to = from;
      while (to < this.#bins && this.#weights[to + 1] <= wanted * (1 + 1e-12)) to++;
      if (i + 1 === count) to = this.#bins;
      const weight = this.#weights[to] - this.#weights[from];
      const previous = i > 0 ? levels[i - 1] : this.#low;
      levels[i] = weight > 0 ? (this.#sums[to] - this.#sums[from]) / weight : previous;
      from = to;
    }
    return levels;
  }
}

/** Steps stop when one explains no more than this share more than the one before. */
const tolerance = 1e-9;
const maxSteps = 300;

/**
 * The levels with the least squared error, ascending (Lloyd 1982, method I; Max 1960). Begun from levels as dense as the
 * cube root of the density, which is best for many levels (Panter & Dite 1951), from quantiles, and from equal steps; the
 * best end is taken.
 */
export function lloydMax(distribution: Distribution, count: number): Float64Array {
  const { low, high } = distribution;
  const starts = [
    distribution.quantiles(count, 1 / 3),
    distribution.quantiles(count, 1),
    Float64Array.from({ length: count }, (_, i) => low + ((high - low) * (i + 0.5)) / count),
  ];
  let best = starts[0];
  let most = Number.NEGATIVE_INFINITY;
  for (const levels of starts) {
    const explained = converge(distribution, levels);
    if (explained > most) [best, most] = [levels, explained];
  }
  return best;
}

/** Improves levels until they stay. Returns what they explain of Σ w·x². */
export function converge(distribution: Distribution, levels: Float64Array): number {
  let explained = distribution.improve(levels);
  for (let step = 0; step < maxSteps; step++) {
    const next = distribution.improve(levels);
    const stays = !(next > explained * (1 + tolerance));
    explained = next;
    if (stays) break;
  }
  return explained;
}
