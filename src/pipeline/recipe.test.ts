/** Recipes: defaults, checks, patterns, files. */
import { describe, expect, test } from 'vitest';
import { isHalftoneError } from '../base/errors.ts';
import { makeRecipe, matches, parseRecipe, type RecipeInput } from './recipe.ts';

describe('defaults', () => {
  test.each<[RecipeInput, boolean, { weights: string; activations: string }]>([
    [{}, false, { weights: 'int8:channel:sym', activations: 'none' }],
    [{}, true, { weights: 'int8:channel:sym', activations: 'uint8' }],
    [{ weights: 'int4' }, true, { weights: 'int4:g32:asym', activations: 'none' }],
    [{ weights: 'int4' }, false, { weights: 'int4:g32:asym', activations: 'none' }],
    [{ weights: 'int4', activations: 'uint8' }, true, { weights: 'int4:channel:sym', activations: 'uint8' }],
    [{ weights: 'int4:tensor:asym', activations: 'int8' }, true, { weights: 'int4:tensor:asym', activations: 'int8' }],
    [{ weights: 'float' }, true, { weights: 'float', activations: 'none' }],
    [{ weights: 'float8e4m3fn' }, true, { weights: 'float8e4m3fn:channel', activations: 'none' }],
    [{ weights: 'mxint8' }, true, { weights: 'mxint8:g32', activations: 'none' }],
    [{ weights: 'nf4', activations: 'uint8' }, true, { weights: 'nf4:g32', activations: 'uint8' }],
    [{ activations: 'float8e4m3fn' }, true, { weights: 'float8e4m3fn:channel', activations: 'float8e4m3fn' }],
    [{ activations: 'float8e5m2' }, true, { weights: 'float8e4m3fn:channel', activations: 'float8e5m2' }],
    [{ activations: 'float8e5m2', weights: 'int4:g32' }, true, { weights: 'int4:g32:asym', activations: 'float8e5m2' }],
    [{ activations: 'float16' }, true, { weights: 'float16', activations: 'float16' }],
    [{ activations: 'dynamic' }, false, { weights: 'int8:channel:sym', activations: 'dynamic' }],
    [{ lowering: 'fold-at-load' }, true, { weights: 'int8:channel:sym', activations: 'none' }],
    [{ lowering: 'matmul-nbits', weights: 'int8:g32' }, true, { weights: 'int8:g32:sym', activations: 'none' }],
    [{ lowering: 'gather-block' }, true, { weights: 'int8:channel:sym', activations: 'none' }],
    [{ lowering: 'dynamic' }, false, { weights: 'int8:channel:sym', activations: 'dynamic' }],
    [{ lowering: 'dynamic' }, true, { weights: 'int8:channel:sym', activations: 'dynamic' }],
    [{ lowering: 'qdq' }, true, { weights: 'int8:channel:sym', activations: 'uint8' }],
  ])('%o, samples given: %s', (input, calibrated, expected) => {
    expect(makeRecipe(input, calibrated)).toMatchObject(expected);
  });

  test('int16 activations are symmetric, as runtimes want them, others not', () => {
    expect(makeRecipe({ activations: 'int16' }, true).symmetricActivations).toBe(true);
    expect(makeRecipe({ activations: 'uint16' }, true).symmetricActivations).toBe(false);
    expect(makeRecipe({ activations: 'int16', symmetricActivations: false }, true).symmetricActivations).toBe(false);
  });

  test('float8 activations are symmetric and get the whole range', () => {
    const recipe = makeRecipe({ activations: 'float8e4m3fn', symmetricActivations: false }, true);
    expect(recipe).toMatchObject({ symmetricActivations: true, range: 'min-max' });
    expect(makeRecipe({ activations: 'float8e4m3fn', range: 'percentile' }, true).range).toBe('percentile');
    expect(makeRecipe({}, true).range).toBe('mse');
  });

  test('a recipe made from a recipe is the same', () => {
    const recipe = makeRecipe({ weights: 'uint4:g64', exclude: ['a*'], range: 'percentile' }, true);
    expect(makeRecipe(recipe, true)).toEqual(recipe);
    expect(JSON.parse(JSON.stringify(recipe))).toEqual(recipe);
  });
});

describe('refusals', () => {
  const cases: [object, string][] = [
    [{ wieghts: 'int8' }, 'setting: expected one of preset, weights'],
    [{ weights: 'int9' }, 'format: expected one of'],
    [{ activations: 'uint3' }, 'activations: expected one of none, dynamic'],
    [{ activations: 'ternary' }, 'got "ternary"; ONNX Runtime has no operators that round to another format'],
    [{ activations: 'nf4' }, 'float8e5m2fnuz, got "nf4"'],
    [{ activations: 'float4e2m1' }, 'got "float4e2m1"'],
    [{ activations: 'float6e2m3' }, 'got "float6e2m3"'],
    [{ activations: 'kmeans4' }, 'got "kmeans4"'],
    [{ activations: 'pot4' }, 'got "pot4"'],
    [{ activations: 'apot8' }, 'got "apot8"'],
    [{ activations: 'binary2' }, 'got "binary2"'],
    [{ activations: 'int1' }, 'got "int1"'],
    [{ activations: 'bfloat16' }, 'got "bfloat16"'],
    [{ activations: 'fp7' }, 'got "fp7"'],
    [{ activations: 'float8e4m3fn', lowering: 'qoperator' }, 'lowering qoperator: expected uint8 or int8 activations'],
    [{ activations: 'uint8', weights: 'int4:g32' }, 'weights int4:g32: expected :channel or :tensor'],
    [{ range: 'best' }, 'range: expected one of'],
    [{ weightRange: 'moving-average' }, 'weightRange: expected one of search'],
    [{ lowering: 'magic' }, 'lowering: expected one of auto'],
    [{ lowering: 'qdq', activations: 'none' }, 'lowering qdq: expected static activations, got "none"'],
    [{ lowering: 'qoperator', activations: 'uint16' }, 'lowering qoperator: expected uint8 or int8'],
    [{ lowering: 'dynamic', activations: 'uint8' }, 'lowering dynamic: expected --activations dynamic'],
    [{ percentile: 50 }, 'percentile: expected more than 50'],
    [{ accuracyLevel: 2 }, 'accuracyLevel: expected 0 or 4'],
    [{ rules: [{ match: { name: 'x' }, use: {} }] }, 'rule 1, match: expected one of op'],
    [{ rules: [{ match: {}, use: { scheme: 'int8' } }] }, 'rule 1, use: expected one of weights'],
    [{ rules: [{ match: {}, use: { range: 'x' } }] }, 'rule 1, range: expected one of'],
    [{ rules: [{ match: {}, use: { lowering: 'x' } }] }, 'rule 1, lowering: expected one of'],
    [{ rules: [{ match: {}, use: { weights: 'int4:g1' } }] }, 'expected a block size'],
    [{ rules: ['x'] }, 'rule 1: expected {"match"'],
    [{ rules: { a: 1 } }, 'rules: expected an array of rules, got {"a":1}'],
    [{ rules: [{ match: null, use: {} }] }, 'rule 1, match: expected an object of conditions'],
    [{ rules: [{ match: {}, use: [] }] }, 'rule 1, use: expected an object'],
    [{ rules: [{ match: {}, use: {}, why: '' }] }, 'rule 1: expected one of match, use, because, got "why"'],
    [{ rules: [{ match: {}, use: {}, because: 1 }] }, 'rule 1, because: expected a reason as text, got 1'],
    [{ rules: [{ match: {}, use: { weights: 5 } }] }, 'rule 1, weights: expected a scheme as text'],
    [{ rules: [{ match: {}, use: { weights: null } }] }, 'rule 1, weights: expected a scheme as text'],
    [{ rules: [{ match: {}, use: { weights: 'int9' } }] }, 'rule 1, weights: format: expected'],
    [{ rules: [{ match: { op: 5 }, use: {} }] }, 'rule 1, op: expected an operator'],
    [{ rules: [{ match: { node: 5 }, use: {} }] }, "rule 1, node: expected a node's name"],
    [{ rules: [{ match: { position: 'middle' }, use: {} }] }, 'rule 1, position: expected one of first, last'],
    [{ rules: [{ match: { kind: 'conv' }, use: {} }] }, 'rule 1, kind: expected one of convolution, '],
    [
      { activations: 'none', rules: [{ match: {}, use: { lowering: 'qdq' } }] },
      'rule 1, lowering qdq: expected static activations, got "none"',
    ],
    [
      { activations: 'uint16', rules: [{ match: {}, use: { lowering: 'qoperator' } }] },
      'rule 1, lowering qoperator: expected uint8 or int8',
    ],
    [{ exclude: 'fc' }, 'exclude: expected an array of texts, got "fc"'],
    [{ opTypes: ['Conv', 3] }, 'opTypes: expected an array of texts, got ["Conv",3]'],
    [{ weights: 8 }, 'weights: expected a scheme as text'],
    [{ activations: null }, 'activations: expected none, dynamic or a format'],
    [{ uniform: 'false' }, 'uniform: expected true or false, got "false"'],
    [
      { corrections: ['bias', 'luck'] },
      'corrections: expected an array of bias, pixels, cross-layer, smooth, awq, normalization',
    ],
    [{ preset: 'slow' }, 'preset: expected one of fast, balanced, best, got "slow"'],
    [{ percentile: '99' }, 'percentile: expected more than 50 and at most 100, as a number, got "99"'],
    [{ accuracyLevel: '4' }, 'accuracyLevel: expected 0 or 4'],
  ];
  test.each(cases)('%o', (input, message) => {
    try {
      makeRecipe(input as RecipeInput, true);
      expect.unreachable();
    } catch (error) {
      expect(isHalftoneError(error) && error.code).toBe('usage');
      expect((error as Error).message).toContain(message);
    }
  });

  test('files that hold no settings', () => {
    expect(() => parseRecipe('{', 'r.json')).toThrow('recipe "r.json": expected JSON');
    expect(() => parseRecipe('[]', 'r.json')).toThrow('recipe "r.json": expected a JSON object of settings');
    expect(() => parseRecipe('null', 'r.json')).toThrow('recipe "r.json": expected a JSON object of settings');
    expect(() => parseRecipe('{"weights": 8}', 'r.json')).toThrow('recipe "r.json": weights: expected a scheme');
    expect(() => parseRecipe('{"rules": [{"match": 1, "use": {}}]}', 'r.json')).toThrow(
      'recipe "r.json": rule 1, match: expected an object',
    );
    expect(parseRecipe('{"weights": "int4"}', 'r.json')).toEqual({ weights: 'int4' });
  });
});

test.each<[string, string, boolean]>([
  ['conv1', 'conv1', true],
  ['conv1', 'conv10', false],
  ['conv*', 'conv10', true],
  ['*conv', 'layer/conv', true],
  ['*conv*', 'a/conv/b', true],
  ['a*b*c', 'a-b-c', true],
  ['a*b*c', 'a-c-b', false],
  ['ab*ba', 'aba', false],
  ['*', '', true],
  ['a**b', 'ab', true],
  ['a.c', 'abc', false],
])('%s on "%s": %s', (pattern, text, expected) => {
  expect(matches(pattern, text)).toBe(expected);
});
