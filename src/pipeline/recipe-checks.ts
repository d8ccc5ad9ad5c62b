/** The types of settings and rules, checked one by one: recipes come from JSON, where anything may stand anywhere. */
import { HalftoneError, messageOf } from '../base/errors.ts';
import { checkScheme, parseScheme } from '../formats/scheme.ts';
import { loweringIds } from '../lowerings/index.ts';
import type { WeightKind } from '../lowerings/weight.ts';
import { ranges } from '../ranges/index.ts';
import { correctionIds, presetIds, solverSettings } from './presets.ts';
import type { Recipe, Rule, RuleMatch, RuleUse, WeightRange } from './recipe.ts';

export const weightRanges: readonly WeightRange[] = ['search', 'hqq', 'min-max', 'percentile', 'entropy', 'mse'];

const weightKinds = Object.keys({
  convolution: true,
  'depthwise-convolution': true,
  'transposed-convolution': true,
  matrix: true,
  recurrent: true,
  embedding: true,
  other: true,
} satisfies Record<WeightKind, true>);

/** What a value has to be, in words, and whether it is. */
interface Check {
  readonly expected: string;
  readonly holds: (value: unknown) => boolean;
}

const isText = (value: unknown): value is string => typeof value === 'string';
const areTexts = (value: unknown) => Array.isArray(value) && value.every(isText);
const text = (expected: string): Check => ({ expected, holds: isText });
const oneOf = (known: readonly string[]): Check => ({
  expected: `one of ${known.join(', ')}`,
  holds: (value) => isText(value) && known.includes(value),
});
const truth: Check = { expected: 'true or false', holds: (value) => typeof value === 'boolean' };
const texts: Check = { expected: 'an array of texts', holds: areTexts };
const weights = text('a scheme as text, such as "int4:g32", or "float"');

const settings: Readonly<Record<keyof Recipe, Check>> = {
  preset: oneOf(presetIds),
  weights,
  activations: text('none, dynamic or a format, as text'),
  range: oneOf(ranges.map((range) => range.id)),
  percentile: {
    expected: 'more than 50 and at most 100, as a number',
    holds: (value) => typeof value === 'number' && value > 50 && value <= 100,
  },
  weightRange: oneOf(weightRanges),
  solver: oneOf(solverSettings),
  lowering: oneOf(['auto', ...loweringIds]),
  symmetricActivations: truth,
  reduceRange: truth,
  uniform: truth,
  opTypes: texts,
  exclude: texts,
  accuracyLevel: { expected: '0 or 4', holds: (value) => value === 0 || value === 4 },
  corrections: {
    expected: `an array of ${correctionIds.join(', ')}`,
    holds: (value) => areTexts(value) && (value as string[]).every((id) => correctionIds.some((known) => known === id)),
  },
  rules: { expected: 'an array of rules', holds: Array.isArray },
};

/** The settings that a recipe may hold. */
export const recipeKeys = Object.keys(settings) as readonly (keyof Recipe)[];

const matchFields: Readonly<Record<keyof RuleMatch, Check>> = {
  op: { expected: 'an operator or an array of them, as text', holds: (value) => isText(value) || areTexts(value) },
  node: text("a node's name as text"),
  tensor: text("a weight's name as text"),
  kind: oneOf(weightKinds),
  position: oneOf(['first', 'last']),
};

const useFields: Readonly<Record<keyof RuleUse, Check>> = {
  weights,
  range: oneOf(weightRanges),
  lowering: oneOf(loweringIds),
};

const isObject = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value);
const ruleFields: Readonly<Record<keyof Rule, Check>> = {
  match: { expected: 'an object of conditions, {} for every weight', holds: isObject },
  use: { expected: 'an object such as {"weights": "int4"}', holds: isObject },
  because: text('a reason as text'),
};

/**
 * Makes sure that settings and rules are of the types that `Recipe` says; undefined ones count as left out.
 * @param source begins messages, as `recipe "r.json": `
 * @throws HalftoneError `usage` naming the setting, or the rule by its number from 1.
 */
export function checkSettings(input: object, source = ''): void {
  checkFields(input, settings, `${source}setting`, source);
  const { rules } = input as { readonly rules?: readonly unknown[] };
  for (const [index, rule] of (rules ?? []).entries()) checkRule(rule, `${source}rule ${index + 1}`);
}

function checkRule(rule: unknown, subject: string): void {
  const parts = (isObject(rule) ? rule : {}) as Partial<Rule>;
  if (parts.match === undefined || parts.use === undefined)
    throw unexpected(subject, '{"match": {…}, "use": {…}}', rule);
  checkFields(parts, ruleFields, subject, `${subject}, `);
  checkFields(parts.match, matchFields, `${subject}, match`, `${subject}, `);
  checkFields(parts.use, useFields, `${subject}, use`, `${subject}, `);
  const scheme = parts.use.weights;
  if (scheme === undefined || scheme === 'float') return;
  try {
    checkScheme(parseScheme(scheme));
  } catch (error) {
    throw new HalftoneError('usage', `${subject}, weights: ${messageOf(error)}`, { cause: error });
  }
}

/** @param subject begins the message on unknown fields. @param before stands before the name of a known one. */
function checkFields(value: object, checks: Readonly<Record<string, Check>>, subject: string, before: string): void {
  for (const [key, field] of Object.entries(value)) {
    if (!Object.hasOwn(checks, key)) throw unexpected(subject, `one of ${Object.keys(checks).join(', ')}`, key);
    const { expected, holds } = checks[key];
    if (field !== undefined && !holds(field)) throw unexpected(`${before}${key}`, expected, field);
  }
}

function unexpected(subject: string, expected: string, got: unknown): HalftoneError {
  const written = JSON.stringify(got) ?? String(got);
  return new HalftoneError(
    'usage',
    `${subject}: expected ${expected}, got ${written.length > 200 ? `${written.slice(0, 200)}…` : written}`,
  );
}
