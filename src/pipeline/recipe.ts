/** What is wanted: plain settings and ordered rules, from which `plan` decides every tensor. The last matching rule wins. */
import { HalftoneError } from '../base/errors.ts';
import { type FormatId, formatOf } from '../formats/index.ts';
import { formatScheme, isAffine, parseScheme, type Scheme } from '../formats/scheme.ts';
import type { LoweringId } from '../lowerings/index.ts';
import type { WeightKind } from '../lowerings/weight.ts';
import type { RangeId } from '../ranges/index.ts';
import { type CorrectionId, type PresetId, presets, type SolverSetting } from './presets.ts';
import { checkSettings } from './recipe-checks.ts';

export { recipeKeys, weightRanges } from './recipe-checks.ts';

/** How activations are treated: left float, quantized while the model runs, or with ranges fixed by calibration. */
export type ActivationSetting = 'none' | 'dynamic' | FormatId;

/**
 * `search` is the scale search with least-squares refit, `hqq` half-quadratic quantization of zero points; the others fix
 * the range and round.
 */
export type WeightRange = 'search' | 'hqq' | Exclude<RangeId, 'moving-average'>;

/** All given conditions must hold. Names may hold `*`, which stands for any text. */
export interface RuleMatch {
  readonly op?: string | readonly string[];
  /** The node's name, or the name of its first output. */
  readonly node?: string;
  /** The weight's name. */
  readonly tensor?: string;
  readonly kind?: WeightKind;
  readonly position?: 'first' | 'last';
}

/** What matching weights get. */
export interface RuleUse {
  /** A scheme such as `int4:g32:asym`, or `float` to leave the layer as it is. */
  readonly weights?: string;
  readonly range?: WeightRange;
  readonly lowering?: LoweringId;
}

export interface Rule {
  readonly match: RuleMatch;
  readonly use: RuleUse;
  /** The reason given in plans and reports. */
  readonly because?: string;
}

export interface Recipe {
  /** Stands for the solver, the corrections and the number of samples where these are not given. */
  readonly preset: PresetId;
  /** The scheme of weights, or `float`. */
  readonly weights: string;
  readonly activations: ActivationSetting;
  /** Range method of static activations. */
  readonly range: RangeId;
  /** Percent of the values inside, for the percentile method. */
  readonly percentile: number;
  readonly weightRange: WeightRange;
  /** All but `nearest` need samples. */
  readonly solver: SolverSetting;
  /** `auto` chooses per weight. */
  readonly lowering: LoweringId | 'auto';
  readonly symmetricActivations: boolean;
  readonly reduceRange: boolean;
  /** No exceptions: every weight gets the same scheme. */
  readonly uniform: boolean;
  /** Only these operators are quantized; empty means all that halftone knows. */
  readonly opTypes: readonly string[];
  /** Node or weight names to leave alone; `*` stands for any text. */
  readonly exclude: readonly string[];
  /** Accuracy level of MatMulNBits: 4 lets the kernel use 8-bit activations, 0 keeps them float. */
  readonly accuracyLevel: 0 | 4;
  /** In any order; what is not in here is not done. */
  readonly corrections: readonly CorrectionId[];
  readonly rules: readonly Rule[];
}

/** Settings as callers give them; everything is optional. */
export type RecipeInput = Partial<Recipe>;

/** The formats of activations with fixed ranges: what QuantizeLinear makes, in ONNX and in ONNX Runtime. */
const staticFormats: readonly string[] = [
  'uint8',
  'int8',
  'uint16',
  'int16',
  'uint4',
  'int4',
  'uint2',
  'int2',
  'float8e4m3fn',
  'float8e5m2',
  'float8e4m3fnuz',
  'float8e5m2fnuz',
] satisfies FormatId[];

/** These leave activations alone. */
const weightOnly: readonly (LoweringId | 'auto')[] = ['fold-at-load', 'matmul-nbits', 'gather-block'];

/**
 * Fills in defaults and checks every part. Activations that are not given follow from the lowering where it
 * leaves no choice; else they stay float without samples (`calibrated` false), and become uint8 with them.
 * @throws HalftoneError `usage` naming the setting.
 */
export function makeRecipe(input: RecipeInput, calibrated: boolean): Recipe {
  checkSettings(input);
  const activations = input.activations ?? activationsFor(input, calibrated);
  checkActivations(activations);
  const preset = input.preset ?? 'fast';
  const isFloat8 = activations.startsWith('float8');
  const weights = input.weights ?? (isFloat8 ? 'float8e4m3fn' : activations === 'float16' ? 'float16' : 'int8');
  const recipe: Recipe = {
    weights:
      weights === 'float'
        ? 'float'
        : formatScheme(schemeFor(weights, hasStaticActivations({ activations }) && !isFloat8)),
    activations,
    // A float's precision follows its values: cutting off the largest loses more than finer steps bring.
    range: input.range ?? (isFloat8 ? 'min-max' : 'mse'),
    percentile: input.percentile ?? 99.999,
    weightRange: input.weightRange ?? 'search',
    preset,
    solver: input.solver ?? presets[preset].solver,
    lowering: input.lowering ?? 'auto',
    symmetricActivations: isFloat8 || (input.symmetricActivations ?? activations === 'int16'),
    reduceRange: input.reduceRange ?? false,
    uniform: input.uniform ?? false,
    opTypes: input.opTypes ?? [],
    exclude: input.exclude ?? [],
    accuracyLevel: input.accuracyLevel ?? 4,
    corrections: input.corrections ?? presets[preset].corrections,
    rules: input.rules ?? [],
  };
  checkLowering(`lowering ${recipe.lowering}`, recipe.lowering, activations, calibrated);
  if (recipe.lowering === 'dynamic' && activations !== 'dynamic') {
    throw new HalftoneError('usage', `lowering dynamic: expected --activations dynamic, got "${activations}"`);
  }
  for (const [index, { use }] of recipe.rules.entries()) {
    if (use.lowering) {
      checkLowering(`rule ${index + 1}, lowering ${use.lowering}`, use.lowering, activations, calibrated);
    }
  }
  return recipe;
}

/** @throws HalftoneError `usage` for formats that activations cannot have. */
function checkActivations(activations: ActivationSetting): void {
  if (['none', 'dynamic', 'float16', ...staticFormats].includes(activations)) return;
  throw new HalftoneError(
    'usage',
    `activations: expected one of none, dynamic, float16, ${staticFormats.join(', ')}, got "${activations}"; ` +
      'ONNX Runtime has no operators that round to another format while a model runs, so only weights can have it',
  );
}

function activationsFor({ weights, lowering }: RecipeInput, calibrated: boolean): ActivationSetting {
  if (lowering === 'dynamic') return 'dynamic';
  if (lowering !== undefined && weightOnly.includes(lowering)) return 'none';
  return calibrated && (weights === undefined || isInteger8(weights)) ? 'uint8' : 'none';
}

/** Integer arithmetic needs ranges of activations. @throws HalftoneError `usage`. */
function checkLowering(
  subject: string,
  lowering: LoweringId | 'auto',
  activations: ActivationSetting,
  calibrated: boolean,
): void {
  if (lowering !== 'qdq' && lowering !== 'qoperator') return;
  if (['none', 'dynamic', 'float16'].includes(activations)) {
    throw new HalftoneError(
      'usage',
      `${subject}: expected static activations, got "${activations}"; add ${calibrated ? '--activations uint8' : '--calibrate DATA'}`,
    );
  }
  if (lowering === 'qoperator' && !['uint8', 'int8'].includes(activations)) {
    throw new HalftoneError('usage', `${subject}: expected uint8 or int8 activations, got "${activations}"`);
  }
}

/** True for weights that make integer arithmetic worth while. */
function isInteger8(weights: string): boolean {
  if (weights === 'float') return false;
  const scheme = parseScheme(weights);
  return isAffine(scheme) && formatOf(scheme.format).bits === 8;
}

/** Integer arithmetic needs one scale per channel or tensor: where nothing was said, static activations get that. */
function schemeFor(weights: string, integerArithmetic: boolean): Scheme {
  const scheme = parseScheme(weights);
  if (!integerArithmetic || !isAffine(scheme)) return scheme;
  const said = weights.split(':').slice(1);
  if (said.some((part) => /^g\d/.test(part))) {
    throw new HalftoneError(
      'usage',
      `weights ${weights}: expected :channel or :tensor for static activations, since integer arithmetic has no blocks; ` +
        'or use --activations none',
    );
  }
  const granularity = said.includes('tensor') ? { kind: 'tensor' as const } : { kind: 'channel' as const };
  const symmetric = !said.includes('asym');
  return { ...scheme, granularity, symmetric, scaleType: 'float32', zeroPointType: scheme.zeroPointType };
}

function usage(what: string, expected: string, got: string): HalftoneError {
  return new HalftoneError(
    'usage',
    `${what}: expected ${/^[\w-]+,/.test(expected) ? 'one of ' : ''}${expected}, got "${got}"`,
  );
}

/** True when activations get fixed ranges, which only samples can tell. */
export function hasStaticActivations({ activations }: Pick<Recipe, 'activations'>): boolean {
  return activations !== 'none' && activations !== 'dynamic' && activations !== 'float16';
}

/** Parses a recipe file: the settings of `Recipe` as JSON, all optional. @throws HalftoneError `usage`. */
export function parseRecipe(text: string, path: string): RecipeInput {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new HalftoneError(
      'usage',
      `recipe "${path}": expected JSON, got something else (${(error as Error).message})`,
      { cause: error },
    );
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw usage(`recipe "${path}"`, 'a JSON object of settings', typeof parsed);
  }
  checkSettings(parsed, `recipe "${path}": `);
  return parsed as RecipeInput;
}

/** True when `text` matches a pattern in which `*` stands for any text. */
export function matches(pattern: string, text: string): boolean {
  if (!pattern.includes('*')) return pattern === text;
  const parts = pattern.split('*');
  let position = parts[0].length;
  if (!text.startsWith(parts[0])) return false;
  for (const part of parts.slice(1, -1)) {
    const found = text.indexOf(part, position);
    if (found < 0) return false;
    position = found + part.length;
  }
  const last = parts[parts.length - 1];
  return text.length - last.length >= position && text.endsWith(last);
}
