/**
 * `npx tsx bench/gptq.ts [SIZE …] [--scheme int4:g32] [--rounds 2] [--threads 2]`: how long GPTQ of square layers takes once
 * the inputs' second moment is known, with products on ONNX Runtime: the factorization, choosing codes, and what coordinate
 * descent and fitted scales add. Prints a Markdown table: seconds, and seconds of processors, of the fastest round. The
 * yardstick is one product of two dense matrices of the same size, as a sweep of descent needs it.
 */
import { parseArgs } from 'node:util';
import { createGaussian, createRandom } from '../src/base/random.ts';
import { parseScheme } from '../src/formats/scheme.ts';
import { openRuntime } from '../src/runtime/node.ts';
import { openProducts } from '../src/runtime/products.ts';
import { type CompensateOptions, compensate, prepareCurvature } from '../src/solvers/gptq.ts';
import { rtn } from '../src/solvers/rtn.ts';
import { table } from './report.ts';

/** What inputs have in common: the number of factors, and how much less the next one counts. */
const factors = 64;
const decay = 0.97;

/** Inputs that are sums of factors and of noise of their own, some larger than others: their exact second moment. */
async function momentOf(columns: number): Promise<Float32Array> {
  const random = createRandom(7);
  const gaussian = createGaussian(random);
  const left = new Float32Array(columns * factors);
  const right = new Float32Array(factors * columns);
  const noise = new Float32Array(columns);
  for (let i = 0; i < columns; i++) {
    const size = 0.2 + random() ** 4 * 4;
    noise[i] = (0.3 * size) ** 2;
    for (let k = 0; k < factors; k++) {
      const share = size * gaussian() * decay ** k;
      left[i * factors + k] = share;
      right[k * columns + i] = share;
    }
  }
  const moment = await products.multiply(left, right, columns, factors, columns);
  for (let i = 0; i < columns; i++) moment[i * (columns + 1)] += noise[i];
  return moment;
}

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    scheme: { type: 'string', default: 'int4:g32' },
    rounds: { type: 'string', default: '2' },
    threads: { type: 'string' },
  },
});

interface Spent {
  readonly wall: number;
  readonly processors: number;
}

/** What a step took, and what it gave. */
async function spend<T>(step: () => Promise<T>): Promise<Spent & { readonly result: T }> {
  const before = process.cpuUsage();
  const start = performance.now();
  const result = await step();
  const wall = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(before);
  return { result, wall, processors: (user + system) / 1e6 };
}

// Threads that spin between products, while JavaScript works, cost as much again; with other programs beside, twice the time.
const config = { 'session.intra_op.allow_spinning': '0' };
const products = openProducts(await openRuntime(), {
  config,
  ...(options.threads ? { threads: Number(options.threads) } : {}),
});

/** Seconds of each step, and what is left of the loss of rounding to nearest. */
async function measure(size: number, scheme: string): Promise<{ spent: Spent[]; losses: number[] }> {
  const values = Float32Array.from({ length: size * size }, createGaussian(createRandom(1)));
  const moments = { moment: await momentOf(size), mean: new Float32Array(size), count: 4 * size };
  const start = rtn.solve(values, size, size, parseScheme(scheme));
  const product = await spend(() => products.multiply(values, moments.moment, size, size, size));
  const factorization = await spend(() => prepareCurvature(moments, size, { products }));
  const curvature = factorization.result;
  if (typeof curvature === 'string') throw new Error(curvature);
  const solve = async (own: CompensateOptions) =>
    spend(() => compensate(values, size, size, start, { curvature, products, ...own }));
  const runs = [
    await solve({ sweeps: 0 }),
    await solve({ sweeps: 1 }),
    await solve({ sweeps: 4 }),
    await solve({ sweeps: 4, refit: true }),
  ];
  return {
    spent: [product, factorization, ...runs],
    losses: runs.map(({ result }) => result.loss / result.before),
  };
}

const rows: string[][] = [];
for (const size of positionals.length > 0 ? positionals.map(Number) : [1024, 2048, 4096]) {
  const best: Spent[] = [];
  let losses: readonly number[] = [];
  for (let round = 0; round < Number(options.rounds); round++) {
    const found = await measure(size, options.scheme);
    losses = found.losses;
    for (const [index, spent] of found.spent.entries()) {
      if (best[index] === undefined || spent.wall < best[index].wall) best[index] = spent;
    }
  }
  const [product, factorization, codes, ...more] = best;
  const show = ({ wall, processors }: Spent) => `${wall.toFixed(2)} (${processors.toFixed(2)})`;
  const sum = (a: Spent, b: Spent, sign = 1): Spent => ({
    wall: a.wall + sign * b.wall,
    processors: a.processors + sign * b.processors,
  });
  rows.push([
    `${size}²`,
    show(product),
    show(factorization),
    show(codes),
    show(sum(factorization, codes)),
    ...more.map((spent) => show(sum(spent, codes, -1))),
    losses.map((loss) => loss.toFixed(3)).join(', '),
  ]);
}
await products.close();
console.log(
  table(
    ['layer', 'product', 'factorization', 'codes', 'GPTQ', '1 sweep', '4 sweeps', 'and refit', 'loss after each'],
    rows,
  ),
);
