/** Mean and deviation of a normal variable behind an activation function, in closed form (ALGORITHMS.md §3.1). */

export interface Moments {
  readonly mean: number;
  readonly deviation: number;
}

/** φ(x), the density of the standard normal distribution. */
export function normalDensity(x: number): number {
  return Math.exp(-(x * x) / 2) / Math.sqrt(2 * Math.PI);
}

/** Φ(x) to about 15 digits: the series of Abramowitz and Stegun 26.2.10 in the middle, the fraction 26.2.14 in the tails. */
export function normalDistribution(x: number): number {
  if (x < -4) return normalTail(-x);
  if (x > 4) return 1 - normalTail(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (-x * x * (2 * n - 1)) / (2 * n * (2 * n + 1));
    sum += term;
  }
  return 0.5 + sum / Math.sqrt(2 * Math.PI);
}

/** 1 − Φ(x) for x > 4. */
function normalTail(x: number): number {
  if (x === Number.POSITIVE_INFINITY) return 0;
  let fraction = x;
  for (let n = 60; n >= 1; n--) fraction = x + n / fraction;
  return normalDensity(x) / fraction;
}

/** Of min(max(x, low), high) for normal x: Relu is 0 to ∞, Relu6 0 to 6. Bounds may be infinite. */
export function clippedNormal({ mean, deviation }: Moments, low: number, high: number): Moments {
  if (!(deviation > 0)) return { mean: Math.min(Math.max(mean, low), high), deviation: 0 };
  const [a, b] = [(low - mean) / deviation, (high - mean) / deviation];
  const [below, above] = [normalDistribution(a), normalDistribution(-b)];
  const inside = normalDistribution(b) - normalDistribution(a);
  const [atLow, atHigh] = [normalDensity(a), normalDensity(b)];
  // An infinite bound has no weight.
  const times = (bound: number, weight: number) => (Number.isFinite(bound) ? bound * weight : 0);
  const first = times(low, below) + times(high, above) + mean * inside + deviation * (atLow - atHigh);
  const second =
    times(low, times(low, below)) +
    times(high, times(high, above)) +
    (mean ** 2 + deviation ** 2) * inside +
    deviation ** 2 * (times(a, atLow) - times(b, atHigh)) +
    2 * mean * deviation * (atLow - atHigh);
  return { mean: first, deviation: Math.sqrt(Math.max(0, second - first ** 2)) };
}

/** Of x where it is positive and slope·x elsewhere, for normal x. */
export function leakyNormal(moments: Moments, slope: number): Moments {
  const positive = clippedNormal(moments, 0, Number.POSITIVE_INFINITY);
  const negative = clippedNormal(moments, Number.NEGATIVE_INFINITY, 0);
  const square = ({ mean, deviation }: Moments) => mean ** 2 + deviation ** 2;
  const mean = positive.mean + slope * negative.mean;
  // The two parts are never both other than zero.
  return { mean, deviation: Math.sqrt(Math.max(0, square(positive) + slope ** 2 * square(negative) - mean ** 2)) };
}
