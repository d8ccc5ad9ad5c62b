/** Codes of rows that are chosen one column after the other. */
import { checkCodeBlock } from '../compensation.ts';
import type { CodeBlock, Kernel, RowGrids } from '../kernel.ts';
import type { Arena } from './arena.ts';
import { kindOf } from './blocks.ts';
import type { Exports } from './exports.ts';

type Methods = Pick<Kernel, 'chooseCodes' | 'improveCodes'>;

/** Elements of a window, and parameters of its rows: three arrays of the one and two of the other fit the arena. */
const mostElements = 2 ** 15;
const mostParameters = 2 ** 17;

export function compensationMethods(wasm: Exports, arena: Arena): Methods {
  /** Copies some numbers of each row; those of rows that follow each other at once. */
  function ofRows(numbers: Float32Array | Float64Array, rows: Int32Array, perRow: number): number {
    if (perRow === 0) return arena.copy(numbers, 0, 1);
    const [first, last] = [rows[0], rows[rows.length - 1]];
    if (last - first === rows.length - 1) return arena.copy(numbers, first * perRow, rows.length * perRow);
    const step = perRow * numbers.BYTES_PER_ELEMENT;
    const address = arena.reserve(rows.length * step);
    for (const [place, row] of rows.entries()) arena.store(address + place * step, numbers, row * perRow, perRow);
    return address;
  }

  function backToRows(address: number, numbers: Float64Array, rows: Int32Array): void {
    const found = arena.doubles(address, rows.length);
    for (const [place, row] of rows.entries()) numbers[row] = found[place];
  }

  /** Calls `run` with some rows at a time, and their arrays' addresses. */
  function eachWindow(
    { rows, parameters, residuals, codes, losses }: CodeBlock,
    { perRow, scales, zeroPoints }: RowGrids,
    scratch: Float32Array,
    square: Float32Array,
    run: (at: {
      readonly count: number;
      readonly residuals: number;
      readonly scratch: number;
      readonly square: number;
      readonly parameters: number;
      readonly scales: number;
      readonly zeroPoints: number;
      readonly codes: number;
      readonly losses: number;
    }) => void,
  ): void {
    const columns = parameters.length;
    const shared = { square: arena.copy(square, 0, square.length), parameters: arena.copy(parameters, 0, columns) };
    const mark = arena.next;
    const step = Math.max(1, Math.min(Math.floor(mostElements / columns), Math.floor(mostParameters / (perRow || 1))));
    for (let first = 0; first < rows.length; first += step) {
      const some = rows.subarray(first, first + step);
      const [start, count] = [first * columns, some.length * columns];
      const at = {
        ...shared,
        count: some.length,
        residuals: arena.copy(residuals, start, count),
        scratch: arena.copy(scratch, start, count),
        scales: ofRows(scales, some, perRow),
        zeroPoints: ofRows(zeroPoints, some, perRow),
        codes: arena.copy(codes, start, count),
        losses: ofRows(losses, some, 1),
      };
      run(at);
      arena.fetch(at.residuals, residuals, start, count);
      arena.fetch(at.codes, codes, start, count);
      backToRows(at.losses, losses, some);
      arena.reset(mark);
    }
    arena.reset();
  }

  return {
    chooseCodes(
      block: CodeBlock,
      grids: RowGrids,
      feed: Float32Array,
      upper: Float32Array,
      pivots: Float64Array,
    ): void {
      checkCodeBlock(block, feed, upper);
      const { min, max, perRow } = grids;
      const columns = pivots.length;
      const kind = kindOf(block.codes);
      const pivot = arena.copy(pivots, 0, columns);
      eachWindow(block, grids, feed, upper, ({ count, residuals, scratch, square, parameters, ...at }) => {
        const own = [parameters, perRow, at.scales, at.zeroPoints, min, max, at.codes, kind, at.losses] as const;
        wasm.chooseCodes(residuals, scratch, count, columns, square, pivot, ...own);
      });
    },

    improveCodes(block: CodeBlock, grids: RowGrids, gradients: Float32Array, curvature: Float32Array): number {
      checkCodeBlock(block, gradients, curvature);
      const { min, max, perRow } = grids;
      const columns = block.parameters.length;
      const kind = kindOf(block.codes);
      let changes = 0;
      eachWindow(block, grids, gradients, curvature, ({ count, residuals, scratch, square, parameters, ...at }) => {
        const own = [parameters, perRow, at.scales, at.zeroPoints, min, max, at.codes, kind, at.losses] as const;
        changes += wasm.improveCodes(residuals, scratch, count, columns, square, ...own);
      });
      return changes;
    },
  };
}
