/** How far one distribution over classes is from another: the Kullback–Leibler divergence of two models' outputs. */

export interface DivergenceMeter {
  /** Adds rows of `classes` scores: probabilities, or what becomes probabilities by Softmax. */
  add(float: Float32Array, quantized: Float32Array, classes: number): void;
  /** Mean of Σ p·ln(p / q) over the rows, in nats; NaN without rows. */
  mean(): number;
}

/** Probabilities are not taken to be smaller: what is never chosen needs no exactness. */
const smallest = 1e-12;

export function createDivergenceMeter(): DivergenceMeter {
  let rows = 0;
  let sum = 0;
  return {
    add(float, quantized, classes) {
      for (let start = 0; start < float.length; start += classes) {
        const p = float.subarray(start, start + classes);
        const q = quantized.subarray(start, start + classes);
        if (!p.every(Number.isFinite)) continue;
        const given = isDistribution(p);
        const [a, b] = [logarithms(p, given), logarithms(q, given)];
        for (let i = 0; i < classes; i++) sum += Math.exp(a[i]) * (a[i] - b[i]);
        rows++;
      }
    },
    mean: () => (rows > 0 ? sum / rows : Number.NaN),
  };
}

function isDistribution(row: Float32Array): boolean {
  const sum = row.reduce((total, value) => total + (value < 0 ? Number.NaN : value), 0);
  return Math.abs(sum - 1) < 1e-3;
}

/** Logarithms of probabilities. */
function logarithms(row: Float32Array, isGiven: boolean): Float64Array {
  if (isGiven) return Float64Array.from(row, (value) => Math.log(Math.max(value, smallest)));
  const top = row.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const total = row.reduce((all, value) => all + Math.exp(value - top), 0);
  return Float64Array.from(row, (value) => Math.max(value - top - Math.log(total), Math.log(smallest)));
}
