/** The report of a quantization: plain JSON that says what was done to every weight, and what it gained and cost. */
import type { LoweringId } from '../lowerings/index.ts';
import type { Comparison } from './compare.ts';
import type { Plan } from './plan.ts';
import type { CorrectionId, SolverSetting } from './presets.ts';

/** What became of one weight. */
export interface WeightResult {
  readonly tensor: string;
  /** The scheme as stored; scales fall back to float32 where float16 cannot hold them. */
  readonly scheme?: string;
  /** Signal to quantization noise of the weight itself, in dB: of the equalized weight, where it was equalized. */
  readonly sqnr?: number;
  /** Bytes of its codes, scales, zero points and codebooks in the file, and these in bits for each weight. */
  readonly bytes?: number;
  readonly bitsPerWeight?: number;
  /** The operators that compute with it, and in what. */
  readonly executes?: string;
  /** Bytes that the runtime holds for it once the file is loaded. */
  readonly loadedBytes?: number;
  /** Set where the plan could not be carried out. */
  readonly left?: string;
  /** Set where the weight is written in another way than the plan says, and why. */
  readonly instead?: { readonly lowering: LoweringId; readonly because: string };
}

/** What one stage brought, by the outputs of samples that nothing was fitted to. */
export interface StageResult {
  /** `recurrent` is gptq for the weights of recurrent layers. */
  readonly stage: SolverSetting | CorrectionId | 'coupled' | 'recurrent';
  /** False when held-out samples were better without it, or when there was nothing to do. */
  readonly kept: boolean;
  /**
   * Signal to noise of the outputs with it, in dB, by their relative error in the mean over samples; and how much better that
   * is than what was kept before.
   */
  readonly sqnr: number;
  readonly gain: number;
  /** Decibels that it had to gain to be kept, where it costs time when the model runs. */
  readonly leastGain?: number;
  /** Layers, groups, blocks or tensors that it changed. */
  readonly changed: number;
  /** What it left as it was, and why. */
  readonly left: readonly { readonly tensor: string; readonly because: string }[];
  readonly seconds?: number;
}

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
  /** What was done for accuracy, in this order, where there were samples; the first is the nearest codes. */
  readonly stages?: readonly StageResult[];
  /** On samples that were not used for calibration. */
  readonly comparison?: Comparison;
  readonly notes: readonly string[];
}
