/** How far one stream of numbers is from another: SQNR, cosine, largest and mean error. */

export interface ErrorSummary {
  /**
   * Signal to quantization noise in dB, 10·log10(Σ reference² / Σ difference²). Infinite when nothing differs, NaN when
   * the reference held nothing finite, so that nothing is known; then cosine and errors are NaN, too.
   */
  readonly sqnr: number;
  /** Cosine of the angle between the two. 1 when both are all zeros. */
  readonly cosine: number;
  readonly maxError: number;
  readonly meanError: number;
  readonly count: number;
  /** Values where the reference is finite and the other is not. */
  readonly nonFinite: number;
  /** Values where the reference itself is NaN or infinite: they count nowhere else. */
  readonly referenceNonFinite: number;
}

export interface ErrorEnergies extends Pick<ErrorSummary, 'count' | 'nonFinite'> {
  /** Σ reference². */
  readonly signal: number;
  /** Σ difference², over values that are finite in both. */
  readonly noise: number;
}

export interface ErrorMeter {
  /** Adds pairs of values. Arrays must be equally long. */
  add(reference: Float32Array, other: Float32Array): void;
  summary(): ErrorSummary;
  /** What SQNR is made of, of all pairs so far. */
  energies(): ErrorEnergies;
}

/** Sums in double precision; memory does not grow with what is added. */
export function createErrorMeter(): ErrorMeter {
  let signal = 0;
  let energy = 0;
  let noise = 0;
  let dot = 0;
  let maxError = 0;
  let absolute = 0;
  let count = 0;
  let nonFinite = 0;
  let referenceNonFinite = 0;
  return {
    add(reference, other) {
      for (let i = 0; i < reference.length; i++) {
        const a = reference[i];
        const b = other[i];
        if (!Number.isFinite(a)) {
          referenceNonFinite++;
          continue;
        }
        if (!Number.isFinite(b)) {
          nonFinite++;
          continue;
        }
        const error = Math.abs(a - b);
        signal += a * a;
        energy += b * b;
        noise += error * error;
        dot += a * b;
        absolute += error;
        if (error > maxError) maxError = error;
        count++;
      }
    },
    energies: () => ({ signal, noise, count, nonFinite }),
    summary() {
      if (count + nonFinite === 0 && referenceNonFinite > 0) {
        const unknown = Number.NaN;
        return {
          sqnr: unknown,
          cosine: unknown,
          maxError: unknown,
          meanError: unknown,
          count,
          nonFinite,
          referenceNonFinite,
        };
      }
      const norm = Math.sqrt(signal) * Math.sqrt(energy);
      return {
        sqnr: nonFinite > 0 ? Number.NEGATIVE_INFINITY : decibels(signal, noise),
        cosine: norm > 0 ? dot / norm : signal === energy ? 1 : 0,
        maxError: nonFinite > 0 ? Number.POSITIVE_INFINITY : maxError,
        meanError: count > 0 ? absolute / count : 0,
        count,
        nonFinite,
        referenceNonFinite,
      };
    },
  };
}

/** 10·log10(signal / noise), with the limits that make sense for empty sums. */
export function decibels(signal: number, noise: number): number {
  if (noise === 0) return Number.POSITIVE_INFINITY;
  return signal === 0 ? Number.NEGATIVE_INFINITY : 10 * Math.log10(signal / noise);
}
