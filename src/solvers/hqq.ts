/**
 * `hqq`: half-quadratic quantization (Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog; hqq/core/optimize.py). Scales
 * cover each group; its zero point is moved so that few weights have large errors: Σ |error|^0.7 becomes small.
 */
import { roundHalfToEven } from '../base/round.ts';
import { intFormatOf } from '../formats/index.ts';
import { coverInterval, type Parameters, quantizeValue } from '../kernel/index.ts';
import { solveOther } from './formats.ts';
import { type Constraints, chooseParameters, eachGroup, type Find, type Group, nearestCodes } from './groups.ts';
import { exactFinder, rtn } from './rtn.ts';
import type { NearestSolver } from './solver.ts';

/** The defaults of hqq/core/optimize.py, and of onnxruntime's matmul_nbits_quantizer.py. */
const power = 0.7;
const firstBeta = 10;
const betaGrowth = 1.01;
const mostRounds = 20;

/**
 * The mean, over a group, of codes less what weights without their outlying errors are in codes: the zero point that fits
 * both. Adds up magnitudes of errors, too. Outlying errors are what generalized soft thresholding leaves of them:
 * sign(e)·max(|e| − |e|^(0.7 − 1) / β, 0).
 */
function half(
  { values, length }: Group,
  { min, max }: Constraints,
  { scale, zeroPoint }: Parameters,
  beta: number,
): { readonly error: number; readonly zeroPoint: number } {
  // Where |e| = |e|^(0.7 − 1) / β: smaller errors leave nothing.
  const threshold = beta ** (-1 / (2 - power));
  let error = 0;
  let sum = 0;
  for (let i = 0; i < length; i++) {
    const code = quantizeValue(values[i], scale, zeroPoint, min, max);
    const own = values[i] - (code - zeroPoint) * scale;
    const magnitude = Math.abs(own);
    error += magnitude;
    const outlying = magnitude > threshold ? Math.sign(own) * (magnitude - magnitude ** (power - 1) / beta) : 0;
    sum += code - (values[i] - outlying) / scale;
  }
  return { error, zeroPoint: sum / length };
}

/** Starts from min-max, and goes on for as long as the mean magnitude of the error falls. */
const findZeroPoint: Find = (group, constraints, found) => {
  const { min, max, floatZeroPoint, round } = constraints;
  let [low, high] = [0, 0];
  for (let i = 0; i < group.length; i++) {
    low = Math.min(low, group.values[i]);
    high = Math.max(high, group.values[i]);
  }
  coverInterval(low, high, constraints, found);
  if (!(found.scale > 0 && found.scale < Number.POSITIVE_INFINITY)) return;
  const tried: Parameters = { ...found };
  let least = Number.POSITIVE_INFINITY;
  for (let k = 0, beta = firstBeta; k < mostRounds; k++, beta *= betaGrowth) {
    const { error, zeroPoint } = half(group, constraints, tried, beta);
    if (!(error < least)) return;
    least = error;
    found.zeroPoint = tried.zeroPoint;
    const stored = floatZeroPoint ? round(zeroPoint) : Math.min(Math.max(roundHalfToEven(zeroPoint), min), max);
    if (stored === tried.zeroPoint) return;
    tried.zeroPoint = stored;
  }
};

/**
 * Meant for float zero points (`:float-zero`). Integer ones are rounded half to even wherever one is found, as
 * matmul_nbits_quantizer.py does with the one it starts from; little of the gain is left then. Scales are never changed,
 * so symmetric schemes, exact formats, and those that are not integers get what `rtn` gives. Unlike the original it
 * stops for each group by itself, so that rows can be solved in any parts, keeps the best zero point that it met rather
 * than the last one, and starts from a range that contains zero. `importance` is not used. In squared error `search` is
 * better (ALGORITHMS 3.9).
 */
export const hqq: NearestSolver<'hqq'> = {
  id: 'hqq',
  summary: 'half-quadratic search for zero points between codes, robust to outliers; scales cover the range',
  solve(values, rows, columns, scheme, options = {}) {
    const other = solveOther(hqq, values, rows, columns, scheme, options, false);
    if (other) return other;
    return nearestCodes(values, rows, columns, hqq.parameters(values, rows, columns, scheme, options), options);
  },
  parameters(values, rows, columns, scheme, options = {}) {
    if (scheme.symmetric || exactFinder(intFormatOf(scheme.format), false)) {
      return rtn.parameters(values, rows, columns, scheme, { ...options, range: 'min-max' });
    }
    return chooseParameters(values, rows, columns, scheme, options, eachGroup(findZeroPoint));
  },
};
