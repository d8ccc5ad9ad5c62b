/** Products on ONNX Runtime are the sums that plain loops give. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createRandom } from '../base/random.ts';
import { reference } from '../kernel/index.ts';
import { openRuntime } from './node.ts';
import { openProducts, type Products } from './products.ts';
import type { Runtime } from './runtime.ts';

let products: Products;
beforeAll(async () => {
  products = openProducts(await openRuntime(), { threads: 1 });
});
afterAll(() => products.close());

const random = createRandom(5);
const matrix = (size: number) => Float32Array.from({ length: size }, () => random() - 0.5);

it.each([
  [3, 5, 4],
  [1, 300, 1],
  [64, 33, 17],
])('multiplies %i×%i by %i columns', async (rows, inner, columns) => {
  const [a, b] = [matrix(rows * inner), matrix(inner * columns)];
  const product = await products.multiply(a, b, rows, inner, columns);
  expect(product.length).toBe(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (let i = 0; i < inner; i++) sum += a[row * inner + i] * b[i * columns + column];
      expect(Math.abs(product[row * columns + column] - sum)).toBeLessThan(1e-5);
    }
  }
});

it('gives the second moments that kernels give', async () => {
  const [rows, columns] = [500, 37];
  const values = matrix(rows * columns);
  const expected = new Float64Array(columns * columns);
  reference.secondMoment(values, rows, columns, expected);
  const found = await products.secondMoment(values, rows, columns);
  for (let i = 0; i < columns; i++) {
    for (let j = i; j < columns; j++) {
      expect(Math.abs(found[i * columns + j] - expected[i * columns + j])).toBeLessThan(1e-4);
      expect(found[j * columns + i]).toBeCloseTo(found[i * columns + j], 4);
    }
  }
});

it('tries again after a session that did not open, and closes the others', async () => {
  const runtime = await openRuntime();
  let isBroken = true;
  const moody: Runtime = {
    id: runtime.id,
    version: runtime.version,
    open: async (...parameters) => {
      if (isBroken) throw new Error('no room');
      return runtime.open(...parameters);
    },
  };
  const opened = openProducts(moody, { threads: 1 });
  const multiply = () => opened.multiply(Float32Array.of(2, 3), Float32Array.of(5, 7), 1, 2, 1);
  await expect(multiply()).rejects.toThrow('no room');
  isBroken = false;
  expect([...(await multiply())]).toEqual([31]);
  isBroken = true;
  const failing = opened.secondMoment(Float32Array.of(1), 1, 1);
  failing.catch(() => {});
  await opened.close();
  await expect(failing).rejects.toThrow('no room');
});
