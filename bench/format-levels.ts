/** Where the levels of a format come to lie on a normal distribution: for the value tables and plots of docs/formats.md. */
import { type Format, formatOf } from '../src/formats/index.ts';
import { parseScheme } from '../src/formats/scheme.ts';
import { levelsIn } from '../src/formats/size.ts';
import { dequantizeMatrix } from '../src/kernel/index.ts';
import { solverOf } from '../src/solvers/index.ts';
import { gaussianNumbers } from './format-ratios.ts';

/** The density is integrated over −reach … reach standard deviations. */
const reach = 6;
const steps = 6000;

/** Scales that are tried: the largest level comes to lie on so many standard deviations. */
const tops = { first: 0.7, last: 24, factor: 1.01 } as const;

/** Numbers that levels are learned from. */
const learnedFrom = 2 ** 17;

export interface PlacedLevels {
  /** Ascending, in standard deviations. */
  readonly levels: Float64Array;
  /** Signal to noise in dB of a normal distribution with these levels: no blocks, one scale. */
  readonly sqnr: number;
}

export const density = (x: number) => Math.exp(-(x * x) / 2) / Math.sqrt(2 * Math.PI);

/** The expected squared error of the nearest level times `scale`. */
function expectedError(levels: ArrayLike<number>, scale: number): number {
  let place = 0;
  let sum = 0;
  const width = (2 * reach) / steps;
  for (let step = 0; step < steps; step++) {
    const x = -reach + (step + 0.5) * width;
    while (place + 1 < levels.length && x > ((levels[place] + levels[place + 1]) / 2) * scale) place++;
    const error = x - levels[place] * scale;
    sum += density(x) * error * error;
  }
  return sum * width;
}

/**
 * The levels that a standard normal distribution gets: those of the format, stretched by the scale with the least
 * expected squared error (floats without scales as they are), or those that the solver learns.
 */
export function levelsOnGaussian(format: Format): PlacedLevels {
  const fixed = levelsIn(format);
  if (!fixed) return learnedLevels(format);
  let scale = 1;
  if (format.kind !== 'float') {
    let least = Number.POSITIVE_INFINITY;
    const top = Math.max(Math.abs(fixed[0]), fixed[fixed.length - 1]);
    for (let reached = tops.first; reached < tops.last; reached *= tops.factor) {
      const error = expectedError(fixed, reached / top);
      // Floats are about as good an octave further out: the first counts.
      if (error < least * 0.9999) {
        least = error;
        scale = reached / top;
      }
    }
  }
  const levels = Float64Array.from(fixed, (level) => level * scale);
  return { levels, sqnr: -10 * Math.log10(expectedError(levels, 1)) };
}

/** What `FORMAT:tensor` makes of normal numbers. */
function learnedLevels(format: Format): PlacedLevels {
  const half = gaussianNumbers(learnedFrom / 2);
  // Each with its negative, and levels likewise, so that these are as symmetric as the distribution.
  const values = Float32Array.from({ length: learnedFrom }, (_, i) => (i % 2 === 0 ? half[i >> 1] : -half[i >> 1]));
  const scheme = parseScheme(`${format.id}:tensor`);
  const matrix = solverOf('search').solve(values, 1, values.length, scheme);
  const found = Float64Array.from(new Set(dequantizeMatrix(matrix))).sort();
  const levels = found.map((level, index) => (level - found[found.length - 1 - index]) / 2);
  return { levels, sqnr: -10 * Math.log10(expectedError(levels, 1)) };
}

/** Whether the levels of a format come from the numbers, so that a document shows an example of them. */
export function isLearned(id: string): boolean {
  return levelsIn(formatOf(id)) === undefined;
}
