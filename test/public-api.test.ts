/** What the package exports. A change here is a change of the public API: it belongs in the changelog. */
import { expect, test } from 'vitest';

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
