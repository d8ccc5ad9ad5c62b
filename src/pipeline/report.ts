/** The report of a quantization: plain JSON that says what was done to every weight, and what it gained and cost. */
import type { WeightResult } from './apply.ts';
import type { Comparison } from './compare.ts';
import type { Plan } from './plan.ts';

export interface Report {
  readonly version: 1;
  readonly plan: Plan;
  /** What became of each weight that the plan quantizes. */
  readonly weights: readonly WeightResult[];
  /** Graph passes that changed something. */
  readonly passes: readonly string[];
  /** Bytes of the serialized models, external data included. */
  readonly floatBytes: number;
  readonly quantizedBytes: number;
  readonly calibration?: { readonly data: string; readonly samples: number; readonly synthetic: boolean };
  readonly biasCorrection?: {
    readonly layers: number;
    /** False when it was taken back because held-out samples were better without it. */
    readonly kept: boolean;
    /** Layers without a place for a bias. */
    readonly left: readonly string[];
  };
  /** On samples that were not used for calibration. */
  readonly comparison?: Comparison;
  readonly notes: readonly string[];
}
