/** What the package exports. A change here is a change of the public API: it belongs in the changelog. */
import { expect, expectTypeOf, test } from 'vitest';
import type * as browser from '../src/browser.ts';
import type * as shared from '../src/index.ts';
import type * as node from '../src/node.ts';

test('every environment', async () => {
  expect(Object.keys(await import('../src/index.ts')).sort()).toMatchInlineSnapshot(`
    [
      "HalftoneError",
      "Model",
      "Tensor",
      "batches",
      "compareModels",
      "errorCodes",
      "formatIds",
      "formatScheme",
      "ggufTypeIds",
      "ggufTypeOf",
      "ggufTypeOfNumber",
      "inputsOf",
      "inspect",
      "isHalftoneError",
      "loweringIds",
      "parseScheme",
      "planQuantization",
      "quantizeModel",
      "randomSamples",
      "ranges",
      "readOnnx",
      "split",
      "take",
      "writeOnnx",
    ]
  `);
});

test('Node adds', async () => {
  const shared = Object.keys(await import('../src/index.ts'));
  const node = Object.keys(await import('../src/node.ts'));
  expect(shared.filter((name) => !node.includes(name))).toEqual([]);
  expect(node.filter((name) => !shared.includes(name)).sort()).toMatchInlineSnapshot(`
    [
      "compare",
      "openRuntime",
      "openSamples",
      "quantize",
      "readLabels",
      "readModel",
      "runtimeIds",
      "writeModel",
    ]
  `);
});

test('a browser adds', async () => {
  const shared = Object.keys(await import('../src/index.ts'));
  const browser = Object.keys(await import('../src/browser.ts'));
  expect(shared.filter((name) => !browser.includes(name))).toEqual([]);
  expect(browser.filter((name) => !shared.includes(name)).sort()).toMatchInlineSnapshot(`
    [
      "createRuntime",
      "openExecutor",
      "readModel",
      "writeModel",
    ]
  `);
});

test('what options and arguments take has names', () => {
  type Options = shared.QuantizeOptions;
  expectTypeOf<NonNullable<Options['executor']>>().toEqualTypeOf<shared.Executor>();
  expectTypeOf<Parameters<shared.Executor['solve']>[0]>().toEqualTypeOf<shared.SolveJob>();
  expectTypeOf<ReturnType<shared.Executor['solve']>>().toEqualTypeOf<Promise<shared.SolvedPart>>();
  expectTypeOf<shared.SolveJob['data']>().toEqualTypeOf<Uint8Array | shared.FileRange>();
  expectTypeOf<ReturnType<NonNullable<Options['openStore']>>>().toEqualTypeOf<shared.Store>();
  expectTypeOf<ReturnType<shared.Store['find']>>().toEqualTypeOf<shared.FinishedWeight | undefined>();
  expectTypeOf<Parameters<shared.Store['range']>>().toEqualTypeOf<[shared.StoredRange]>();
  expectTypeOf<ReturnType<shared.Store['range']>>().toEqualTypeOf<shared.ByteSource>();
  expectTypeOf<ConstructorParameters<typeof shared.Tensor>[1]>().toEqualTypeOf<shared.Shape>();
  expectTypeOf<ReturnType<typeof browser.openExecutor>>().toEqualTypeOf<browser.Executor>();
  expectTypeOf<keyof node.WriteModelOptions>().toEqualTypeOf<'external' | 'chunkBytes'>();
  expectTypeOf<ReturnType<typeof node.writeModel>>().toEqualTypeOf<node.WrittenFiles>();
});
