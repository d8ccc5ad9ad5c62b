/**
 * `npx tsx bench/gptq.ts`: how long GPTQ of square layers takes, with products on ONNX Runtime: the factorization of the
 * inputs' moment, choosing codes with the loss before and after, and each sweep of coordinate descent. Prints a table.
 */
import { createGaussian, createRandom } from '../src/base/random.ts';
import { parseScheme } from '../src/formats/scheme.ts';
import { openRuntime } from '../src/runtime/node.ts';
import { openProducts } from '../src/runtime/products.ts';
import { compensate, prepareCurvature } from '../src/solvers/gptq.ts';
import { rtn } from '../src/solvers/rtn.ts';
import { table } from './report.ts';

/** Inputs of which neighbours, and some far apart, are correlated, some much larger than others: their exact moment. */
function momentOf(columns: number): Float32Array {
  const random = createRandom(7);
  const sizes = Float64Array.from({ length: columns }, () => 0.2 + random() ** 4 * 4);
  const moment = new Float32Array(columns * columns);
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < columns; j++) {
      const distance = Math.abs(i - j);
      const wave = Math.cos((2 * Math.PI * 17 * distance) / columns);
      const correlation = 0.6 * 0.95 ** distance + 0.3 * wave + (distance === 0 ? 0.1 : 0);
      moment[i * columns + j] = sizes[i] * sizes[j] * correlation;
    }
  }
  return moment;
}

const products = openProducts(await openRuntime());
const seconds = (start: number) => (performance.now() - start) / 1000;
const rows: string[][] = [];
for (const [size, text] of [
  [512, 'int4:g32'],
  [2048, 'int4:g32'],
  [2048, 'int4:g128'],
  [4096, 'int4:g128'],
  [4096, 'int4:g32'],
  [2048, 'nf4:g32'],
  [2048, 'binary2:g32'],
] as const) {
  const values = Float32Array.from({ length: size * size }, createGaussian(createRandom(1)));
  const moments = { moment: momentOf(size), mean: new Float32Array(size), count: 4 * size };
  const start = rtn.solve(values, size, size, parseScheme(text));
  let since = performance.now();
  const curvature = await prepareCurvature(moments, size, { products });
  if (typeof curvature === 'string') throw new Error(curvature);
  const prepared = seconds(since);
  const run = async (sweeps: number, refit: boolean) => {
    since = performance.now();
    const { loss, before } = await compensate(values, size, size, start, { curvature, products, sweeps, refit });
    return { time: seconds(since), share: loss / before };
  };
  const plain = await run(0, false);
  const swept = await run(4, false);
  const refitted = await run(4, true);
  rows.push([
    `${size}²`,
    text,
    prepared.toFixed(2),
    (prepared + plain.time).toFixed(2),
    plain.share.toFixed(3),
    (prepared + swept.time).toFixed(2),
    swept.share.toFixed(3),
    (prepared + refitted.time).toFixed(2),
    refitted.share.toFixed(3),
  ]);
}
await products.close();
console.log(
  table(['layer', 'scheme', 'moment, s', 'GPTQ, s', 'loss', '4 sweeps, s', 'loss', 'refit, s', 'loss'], rows),
);
