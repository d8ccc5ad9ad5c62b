/** What is wanted: plain settings and ordered rules, from which `plan` decides every tensor. The last matching rule wins. */
import { HalftoneError } from '../base/errors.ts';
import { type FormatId, formatOf } from '../formats/index.ts';
import { checkScheme, formatScheme, parseScheme, type Scheme } from '../formats/scheme.ts';
import { type LoweringId, loweringIds } from '../lowerings/index.ts';
import type { WeightKind } from '../lowerings/weight.ts';
import { type RangeId, ranges } from '../ranges/index.ts';

/** How activations are treated: left float, quantized while the model runs, or with ranges fixed by calibration. */
export type ActivationSetting = 'none' | 'dynamic' | FormatId;

/** `search` is the scale search with least-squares refit; the others fix the range and round. */
export type WeightRange = 'search' | Exclude<RangeId, 'moving-average'>;
export const weightRanges: readonly WeightRange[] = ['search', 'min-max', 'percentile', 'entropy', 'mse'];

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
  /** The scheme of weights, or `float`. */
  readonly weights: string;
  readonly activations: ActivationSetting;
  /** Range method of static activations. */
  readonly range: RangeId;
  /** Percent of the values inside, for the percentile method. */
  readonly percentile: number;
  readonly weightRange: WeightRange;
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
  readonly biasCorrection: boolean;
  readonly rules: readonly Rule[];
}

/** Settings as callers give them; everything is optional. */
export type RecipeInput = Partial<Recipe>;

/** The settings that a recipe may hold. */
export const recipeKeys: readonly (keyof Recipe)[] = [
  'weights',
  'activations',
  'range',
  'percentile',
  'weightRange',
  'lowering',
  'symmetricActivations',
  'reduceRange',
  'uniform',
  'opTypes',
  'exclude',
  'accuracyLevel',
  'biasCorrection',
  'rules',
];

/**
 * Fills in defaults and checks every part. Without samples (`calibrated` false) activations stay float; with them a
 * network gets uint8 activations.
 * @throws HalftoneError `usage` naming the setting.
 */
export function makeRecipe(input: RecipeInput, calibrated: boolean): Recipe {
  for (const key of Object.keys(input)) {
    if (!recipeKeys.includes(key as keyof Recipe)) throw usage('setting', recipeKeys.join(', '), key);
  }
  const narrow = input.weights !== undefined && (input.weights === 'float' || bitsOf(input.weights) !== 8);
  const activations = input.activations ?? (calibrated && !narrow ? 'uint8' : 'none');
  const isStatic = activations !== 'none' && activations !== 'dynamic';
  if (isStatic) {
    const format = formatOf(activations);
    const known = format.kind === 'float' ? format.id === 'float16' : [2, 4, 8, 16].includes(format.bits);
    if (!known)
      throw usage(
        'activations',
        'none, dynamic, uint8, int8, uint16, int16, uint4, int4, uint2, int2 or float16',
        activations,
      );
  }
  const weights = input.weights ?? (activations === 'float16' ? 'float16' : 'int8');
  const recipe: Recipe = {
    weights: weights === 'float' ? 'float' : formatScheme(schemeFor(weights, isStatic && activations !== 'float16')),
    activations,
    range: oneOf(
      'range',
      input.range ?? 'mse',
      ranges.map((range) => range.id),
    ),
    percentile: input.percentile ?? 99.999,
    weightRange: oneOf('weightRange', input.weightRange ?? 'search', weightRanges),
    lowering: oneOf('lowering', input.lowering ?? 'auto', ['auto', ...loweringIds]),
    symmetricActivations: input.symmetricActivations ?? activations === 'int16',
    reduceRange: input.reduceRange ?? false,
    uniform: input.uniform ?? false,
    opTypes: input.opTypes ?? [],
    exclude: input.exclude ?? [],
    accuracyLevel: input.accuracyLevel ?? 4,
    biasCorrection: input.biasCorrection ?? true,
    rules: (input.rules ?? []).map(checkRule),
  };
  if (!(recipe.percentile > 50 && recipe.percentile <= 100))
    throw usage('percentile', 'more than 50 and at most 100', String(recipe.percentile));
  const graphWide = recipe.lowering === 'qdq' || recipe.lowering === 'qoperator';
  if (graphWide && (!isStatic || activations === 'float16')) {
    throw new HalftoneError(
      'usage',
      `lowering ${recipe.lowering}: expected static activations, got "${activations}"; add --calibrate DATA`,
    );
  }
  if (recipe.lowering === 'qoperator' && !['uint8', 'int8'].includes(activations)) {
    throw new HalftoneError('usage', `lowering qoperator: expected uint8 or int8 activations, got "${activations}"`);
  }
  if (recipe.lowering === 'dynamic' && activations !== 'dynamic') {
    throw new HalftoneError('usage', `lowering dynamic: expected --activations dynamic, got "${activations}"`);
  }
  if (recipe.accuracyLevel !== 0 && recipe.accuracyLevel !== 4)
    throw usage('accuracyLevel', '0 or 4', String(recipe.accuracyLevel));
  return recipe;
}

function bitsOf(weights: string): number {
  return formatOf(weights.split(':')[0]).bits;
}

/** Integer arithmetic needs one scale per channel or tensor: where nothing was said, static activations get that. */
function schemeFor(weights: string, integerArithmetic: boolean): Scheme {
  const scheme = parseScheme(weights);
  if (!integerArithmetic || formatOf(scheme.format).kind === 'float') return scheme;
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

/** @throws HalftoneError `usage`. */
function checkRule(rule: Rule, index: number): Rule {
  if (typeof rule !== 'object' || rule === null || typeof rule.match !== 'object' || typeof rule.use !== 'object') {
    throw usage(`rule ${index + 1}`, '{"match": {…}, "use": {…}}', JSON.stringify(rule));
  }
  for (const key of Object.keys(rule.match)) {
    if (!['op', 'node', 'tensor', 'kind', 'position'].includes(key))
      throw usage(`rule ${index + 1}, match`, 'op, node, tensor, kind, position', key);
  }
  for (const key of Object.keys(rule.use)) {
    if (!['weights', 'range', 'lowering'].includes(key))
      throw usage(`rule ${index + 1}, use`, 'weights, range, lowering', key);
  }
  if (rule.use.weights && rule.use.weights !== 'float') checkScheme(parseScheme(rule.use.weights));
  if (rule.use.range) oneOf(`rule ${index + 1}, range`, rule.use.range, weightRanges);
  if (rule.use.lowering) oneOf(`rule ${index + 1}, lowering`, rule.use.lowering, loweringIds);
  return rule;
}

function oneOf<T extends string>(what: string, value: string, known: readonly T[]): T {
  if (!known.includes(value as T)) throw usage(what, known.join(', '), value);
  return value as T;
}

function usage(what: string, expected: string, got: string): HalftoneError {
  return new HalftoneError(
    'usage',
    `${what}: expected ${/^[\w-]+,/.test(expected) ? 'one of ' : ''}${expected}, got "${got}"`,
  );
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
