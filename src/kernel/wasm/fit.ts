/** The search for scales and zero points. */
import type { Grid } from '../grid.ts';
import type { BlockLayout, Kernel } from '../kernel.ts';
import { checkLayout, eachBlock, windows } from '../layout.ts';
import { type Arena, windowLimit } from './arena.ts';
import { isLong } from './blocks.ts';
import { type Exports, flag } from './exports.ts';

const noImportance = new Float32Array(0);

/** Elements of a long block that are fitted at a time, with all their scratch in the second-level cache. */
const pieceLimit = 2 ** 14;

/** What assembly/fit.ts needs for a block beside its values. */
const scratchBytes = (length: number) => length * 22 + 192;

/** The importance of `count` columns from `column` on, or less where it starts over at the first of them. */
function rowOf(importance: Float32Array, column: number, count: number): Float32Array {
  const { length } = importance;
  if (length === 0) return importance;
  const start = column % length;
  if (start === 0 && length <= count) return importance;
  if (start + count <= length) return importance.subarray(start, start + count);
  return Float32Array.from({ length: count }, (_, i) => importance[(start + i) % length]);
}

/** `extent` is the kernel's. */
export function fitMethods(wasm: Exports, arena: Arena, extent: Kernel['extent']): Pick<Kernel, 'fit'> {
  /** Fits one block piece by piece, as often as the search wants to see it. Returns false if it is not finite. */
  function fitLong(values: Float32Array, importance: Float32Array, column: number): boolean {
    const { length } = values;
    const { min, max, finite } = extent(values);
    if (finite < length) return false;
    const weighted = rowOf(importance, column, length).some((weight) => weight > 0);
    if (!wasm.fitStart(min, max, flag(weighted))) return true;
    do {
      for (let start = 0; start < length; start += pieceLimit) {
        const count = Math.min(pieceLimit, length - start);
        const own = rowOf(importance, column + start, count);
        const address = arena.input(values, start, count);
        wasm.fitAdd(address, count, arena.input(own, 0, own.length), own.length, arena.reserve(scratchBytes(count)));
        arena.reset();
      }
    } while (wasm.fitNext());
    return true;
  }

  return {
    fit(
      values: Float32Array,
      layout: BlockLayout,
      grid: Grid,
      importance: Float32Array | undefined,
      scales: Float32Array,
      zeroPoints: Float32Array,
    ): void {
      checkLayout(values.length, layout, scales, zeroPoints);
      const { min, max, zeroPoint, symmetric, floatZeroPoint, scaleType, positiveScale } = grid;
      const flags = [
        flag(symmetric),
        flag(floatZeroPoint),
        flag(scaleType === 'float16'),
        flag(positiveScale),
      ] as const;
      wasm.fitConfigure(min, max, zeroPoint, ...flags);
      const weights = importance?.subarray(0, layout.columns) ?? noImportance;
      if (isLong(layout)) {
        eachBlock(layout, (start, end, parameter) => {
          const finite = fitLong(values.subarray(start, end), weights, start % layout.columns);
          scales[parameter] = finite ? wasm.fitScale() : Number.NaN;
          zeroPoints[parameter] = finite ? wasm.fitZeroPoint() : 0;
        });
        return;
      }
      for (const window of windows(layout, windowLimit)) {
        const { start, count, parameter, parameters, rows, columns, blockSize } = window;
        const address = arena.input(values, start, count);
        const own = rowOf(weights, start % layout.columns, columns);
        const weight = arena.input(own, 0, own.length);
        const scale = arena.output(scales, parameter, parameters);
        const zero = arena.output(zeroPoints, parameter, parameters);
        const scratch = arena.reserve(scratchBytes(Math.min(blockSize, columns)));
        wasm.fit(address, rows, columns, blockSize, weight, own.length, scratch, scale, zero);
        arena.deliver();
      }
    },
  };
}
