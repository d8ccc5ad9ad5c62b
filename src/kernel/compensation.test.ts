/** Codes chosen column after column: the kernels agree to the bit, and do what a matrix equation says. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import { type CodeBlock, createWasmKernel, quantizeValue, type RowGrids, reference } from './index.ts';

const wasm = createWasmKernel();

interface Case {
  readonly block: CodeBlock;
  readonly grids: RowGrids;
  readonly feed: Float32Array;
  readonly upper: Float32Array;
  readonly pivots: Float64Array;
  /** Symmetric, positive definite. */
  readonly curvature: Float32Array;
}

const copyOf = (block: CodeBlock): CodeBlock => ({
  ...block,
  residuals: block.residuals.slice(),
  codes: block.codes.slice(),
  losses: block.losses.slice(),
});

/** Some rows of a matrix, `gap` of which lie between one and the next. */
function caseOf(count: number, columns: number, perRow: number, gap: number, format: number, seed: number): Case {
  const random = createRandom(seed);
  const gaussian = createGaussian(random);
  const all = count * (gap + 1);
  const [Codes, min, max] = (
    [
      [Int8Array, -8, 7],
      [Uint8Array, 0, 255],
      [Int16Array, -32768, 32767],
      [Uint16Array, 0, 7],
    ] as const
  )[format];
  const floats = (length: number, size = 1) => Float32Array.from({ length }, () => gaussian() * size);
  const steps = Math.max(perRow, 1);
  const scales = floats(perRow === 0 ? 1 : all * perRow, 2 / (max - min)).map((scale) => scale || 1);
  const square = floats(columns * columns, 0.3);
  const curvature = square.map((_, index) => {
    const [i, j] = [Math.floor(index / columns), index % columns];
    let sum = i === j ? 1 : 0;
    for (let k = 0; k < columns; k++) sum += square[i * columns + k] * square[j * columns + k];
    return sum;
  });
  return {
    block: {
      rows: Int32Array.from({ length: count }, (_, row) => row * (gap + 1) + gap),
      parameters: Int32Array.from({ length: columns }, () => Math.floor(random() * steps)),
      residuals: floats(count * columns),
      codes: new Codes(count * columns),
      losses: Float64Array.from({ length: all }, () => 100 * columns),
    },
    grids: {
      perRow,
      scales,
      zeroPoints: scales.map(() => min + Math.floor(random() * (max - min + 1))),
      min,
      max,
    },
    feed: floats(count * columns + 5),
    upper: square,
    pivots: Float64Array.from({ length: columns }, () => random() + 0.1),
    curvature,
  };
}

const cases = fc
  .tuple(
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 70 }),
    fc.constantFrom(0, 1, 5),
    fc.constantFrom(0, 2),
    fc.integer({ min: 0, max: 3 }),
    fc.integer({ min: 0, max: 2 ** 30 }),
  )
  .map((numbers) => caseOf(...numbers));

/** Sets the residuals to what the codes leave of some weights. */
function settle({ rows, parameters, residuals, codes }: CodeBlock, { perRow, scales, zeroPoints }: RowGrids): void {
  const columns = parameters.length;
  for (let at = 0; at < codes.length; at++) {
    const index = rows[Math.floor(at / columns)] * perRow + parameters[at % columns];
    residuals[at] -= Math.fround((codes[at] - zeroPoints[index]) * scales[index]);
  }
}

function gradientsOf({ residuals }: CodeBlock, curvature: Float32Array, columns: number): Float32Array {
  return residuals.map((_, at) => {
    const row = at - (at % columns);
    let sum = 0;
    for (let k = 0; k < columns; k++) sum += residuals[row + k] * curvature[k * columns + (at % columns)];
    return sum;
  });
}

/** Δ·H·Δᵀ of each row. */
function lossesOf(block: CodeBlock, curvature: Float32Array, columns: number): number[] {
  const gradients = gradientsOf(block, curvature, columns);
  return Array.from(block.rows, (_, row) => {
    let sum = 0;
    for (let k = 0; k < columns; k++) sum += block.residuals[row * columns + k] * gradients[row * columns + k];
    return sum;
  });
}

describe('chooseCodes', () => {
  it('is the same in WebAssembly', () => {
    fc.assert(
      fc.property(cases, ({ block, grids, feed, upper, pivots }) => {
        const other = copyOf(block);
        wasm.chooseCodes(block, grids, feed.slice(), upper, pivots);
        reference.chooseCodes(other, grids, feed.slice(), upper, pivots);
        expect(block).toEqual(other);
      }),
    );
    const { block, grids, feed, upper, pivots } = caseOf(1500, 64, 5, 1, 0, 4);
    const other = copyOf(block);
    wasm.chooseCodes(block, grids, feed.slice(), upper, pivots);
    reference.chooseCodes(other, grids, feed.slice(), upper, pivots);
    expect(block).toEqual(other);
  });

  it('rounds weights to which all residuals before them are added', () => {
    const [count, columns] = [5, 23];
    const { block, grids, feed, upper, pivots } = caseOf(count, columns, 2, 0, 0, 1);
    const [weights, before] = [block.residuals.slice(), block.losses.slice()];
    wasm.chooseCodes(block, grids, feed.slice(), upper, pivots);
    for (let row = 0; row < count; row++) {
      let loss = before[row];
      for (let j = 0; j < columns; j++) {
        const at = row * columns + j;
        let wanted = weights[at] + feed[at];
        for (let k = 0; k < j; k++) wanted += block.residuals[row * columns + k] * upper[k * columns + j];
        const index = row * 2 + block.parameters[j];
        const value = (block.codes[at] - grids.zeroPoints[index]) * grids.scales[index];
        expect(block.residuals[at]).toBeCloseTo(weights[at] - value, 5);
        const nearest = quantizeValue(wanted, grids.scales[index], grids.zeroPoints[index], grids.min, grids.max);
        const best = (nearest - grids.zeroPoints[index]) * grids.scales[index];
        expect(Math.abs(wanted - value)).toBeLessThan(Math.abs(wanted - best) + 1e-4);
        loss += pivots[j] * (wanted - value) ** 2;
      }
      expect(Math.abs(block.losses[row] / loss - 1)).toBeLessThan(1e-4);
    }
  });
});

describe('improveCodes', () => {
  it('is the same in WebAssembly, and tells by how much the loss falls', () => {
    let changed = 0;
    fc.assert(
      fc.property(cases, ({ block, grids, feed, upper, pivots, curvature }) => {
        const columns = block.parameters.length;
        reference.chooseCodes(block, grids, feed, upper, pivots);
        const before = lossesOf(block, curvature, columns);
        const sums = block.losses.slice();
        const gradients = gradientsOf(block, curvature, columns);
        const other = copyOf(block);
        const changes = wasm.improveCodes(block, grids, gradients.slice(), curvature);
        changed += changes;
        expect(reference.improveCodes(other, grids, gradients.slice(), curvature)).toBe(changes);
        expect(block).toEqual(other);
        const after = lossesOf(block, curvature, columns);
        block.rows.forEach((row, own) => {
          const gain = sums[row] - block.losses[row];
          expect(gain).toBeGreaterThanOrEqual(0);
          expect(Math.abs(before[own] - after[own] - gain)).toBeLessThan(1e-4 * before[own]);
        });
      }),
    );
    expect(changed).toBeGreaterThan(1000);
  });

  it('ends where no code alone is better', () => {
    const columns = 16;
    const { block, grids, curvature } = caseOf(20, columns, 2, 0, 0, 3);
    settle(block, grids);
    for (let sweep = 0; sweep < 50; sweep++) {
      if (wasm.improveCodes(block, grids, gradientsOf(block, curvature, columns), curvature) === 0) break;
    }
    const best = lossesOf(block, curvature, columns);
    for (let at = 0; at < block.codes.length; at++) {
      for (const step of [-1, 1]) {
        const code = block.codes[at] + step;
        if (code < grids.min || code > grids.max) continue;
        const row = Math.floor(at / columns);
        const other = copyOf(block);
        other.residuals[at] -= step * grids.scales[row * 2 + block.parameters[at % columns]];
        expect(lossesOf(other, curvature, columns)[row]).toBeGreaterThan(best[row] * (1 - 1e-5));
      }
    }
  });
});

it('arrays must fit', () => {
  const { block, grids, feed, upper, pivots } = caseOf(2, 3, 1, 0, 0, 1);
  for (const kernel of [wasm, reference]) {
    expect(() => kernel.chooseCodes(block, grids, feed, upper.subarray(1), pivots)).toThrow(
      'codes: expected 2×3 of all',
    );
    expect(() => kernel.improveCodes(block, grids, feed.subarray(6), upper)).toThrow('codes: expected 2×3 of all');
  }
});
