/** How much is done for accuracy: what each preset stands for, and the steps that it is made of. */

/** How codes of weights are chosen, from the simplest on. */
export const solverSettings = ['nearest', 'gptq', 'reconstruction'] as const;

/**
 * - `nearest`: the nearest codes on the grids that `weightRange` finds;
 * - `gptq`: codes that make up for the errors of others, layer after layer behind the quantized part: first those of the same
 *   row, then those of other rows by what the outputs of the model see;
 * - `reconstruction`: from there on, codes, scales and biases of whole blocks are learned from their outputs.
 */
export type SolverSetting = (typeof solverSettings)[number];

/** What is done beside choosing codes, in the order in which it happens. */
export const correctionIds = ['bias', 'pixels', 'cross-layer', 'smooth', 'awq', 'normalization', 'ranges'] as const;

/**
 * - `bias`: every channel of a layer's result gets its deviation and its mean back;
 * - `pixels`: inputs that are pixels of 8 bits are rounded to the steps that they have, which loses nothing;
 * - `cross-layer`: channels are scaled so that those of one weight have like ranges, in exchange with the next weight;
 * - `smooth`: ranges of activations are moved into weights where these are quantized as well;
 * - `awq`: input channels that count for much are scaled up before rounding;
 * - `normalization`: scales and biases of normalizations are estimated again;
 * - `ranges`: ranges of activations that hurt most are refined by the divergence of the outputs.
 */
export type CorrectionId = (typeof correctionIds)[number];

export interface Preset {
  readonly summary: string;
  readonly solver: SolverSetting;
  readonly corrections: readonly CorrectionId[];
  /** At most so many samples are read. */
  readonly samples: number;
}

export const presets = {
  fast: {
    summary: 'nearest codes, biases corrected where there are samples: seconds',
    solver: 'nearest',
    corrections: ['bias'],
    samples: 128,
  },
  balanced: {
    summary: 'equalized channels and codes that make up for each other: minutes',
    solver: 'gptq',
    corrections: ['bias', 'pixels', 'cross-layer', 'smooth', 'awq', 'normalization'],
    samples: 256,
  },
  best: {
    summary: 'blocks learned from their outputs and refined ranges besides: as long as it pays',
    solver: 'reconstruction',
    corrections: correctionIds,
    samples: 1024,
  },
} as const satisfies Record<string, Preset>;

export type PresetId = keyof typeof presets;

export const presetIds = Object.keys(presets) as readonly PresetId[];
