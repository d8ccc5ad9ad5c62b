/**
 * The kernels of assembly/ behind the interface. Arrays are copied into the module's memory window by window, unless they
 * lie there already. What SIMD brings nothing for is the reference's.
 */
import { HalftoneError } from '../base/errors.ts';
import type { Codes } from '../formats/quantized.ts';
import { Arena, windowLimit } from './arena.ts';
import { kernels } from './generated/kernels.ts';
import { coverInterval, type Grid, type Parameters } from './grid.ts';
import type { BlockLayout, Elements, Extent, Kernel } from './kernel.ts';
import { checkLayout, checkMatrix, eachBlock, windows } from './layout.ts';
import { checkBits, reference } from './reference.ts';

type Flag = 0 | 1;

/** The exports of assembly/index.ts. Arrays are addresses. */
interface Exports {
  readonly memory: WebAssembly.Memory;
  extent(values: number, length: number, result: number): number;
  blockExtents(values: number, rows: number, columns: number, blockSize: number, minima: number, maxima: number): void;
  cover(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    lowest: number,
    highest: number,
    zeroPoint: number,
    symmetric: Flag,
    floatZeroPoint: Flag,
    half: Flag,
    scales: number,
    zeroPoints: number,
  ): void;
  fitConfigure(
    lowest: number,
    highest: number,
    zeroPoint: number,
    symmetric: Flag,
    floatZeroPoint: Flag,
    half: Flag,
    positiveScale: Flag,
  ): void;
  fit(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    importance: number,
    importanceLength: number,
    scratch: number,
    scales: number,
    zeroPoints: number,
  ): void;
  fitStart(low: number, high: number, weighted: Flag): Flag;
  fitAdd(values: number, length: number, importance: number, importanceLength: number, scratch: number): void;
  fitNext(): Flag;
  fitScale(): number;
  fitZeroPoint(): number;
  quantize(
    values: number,
    rows: number,
    columns: number,
    blockSize: number,
    scales: number,
    zeroPoints: number,
    lowest: number,
    highest: number,
    codes: number,
    kind: number,
  ): void;
  dequantize(
    codes: number,
    rows: number,
    columns: number,
    blockSize: number,
    scales: number,
    zeroPoints: number,
    values: number,
    kind: number,
  ): void;
  pack(codes: number, count: number, bits: number, bytes: number): void;
  unpack(bytes: number, count: number, bits: number, signed: Flag, codes: number): void;
  transpose1(values: number, rows: number, columns: number, stride: number, out: number, outStride: number): void;
  transpose4(values: number, rows: number, columns: number, stride: number, out: number, outStride: number): void;
}

/** How assembly/quantize.ts calls the type of codes. */
function kindOf(codes: Codes): number {
  if (codes instanceof Int8Array) return 0;
  if (codes instanceof Uint8Array) return 1;
  return codes instanceof Int16Array ? 2 : 3;
}

const flag = (value: boolean): Flag => (value ? 1 : 0);

const noImportance = new Float32Array(0);

/** Elements of a long block that are fitted at a time, with all their scratch in the second-level cache. */
const pieceLimit = 2 ** 14;

/** What assembly/fit.ts needs for a block beside its values. */
const scratchBytes = (length: number) => length * 18 + 160;

/** The importance of `count` columns from `column` on, or less where it starts over at the first of them. */
function rowOf(importance: Float32Array, column: number, count: number): Float32Array {
  const { length } = importance;
  if (length === 0) return importance;
  const start = column % length;
  if (start === 0 && length <= count) return importance;
  if (start + count <= length) return importance.subarray(start, start + count);
  return Float32Array.from({ length: count }, (_, i) => importance[(start + i) % length]);
}

/** Elements of a tile that is turned over, per byte of an element. */
const tileBytes = 2 ** 20;

/**
 * A kernel on a memory of its own of 24 MiB, of which only what is used is ever touched.
 * @throws where WebAssembly with SIMD is missing, or forbidden.
 */
export function createWasmKernel(): Kernel {
  const binary = Uint8Array.from(atob(kernels), (character) => character.charCodeAt(0));
  const module = new WebAssembly.Module(binary);
  const wasm = new WebAssembly.Instance(module).exports as unknown as Exports;
  const arena = new Arena(wasm.memory);
  const pair = new Float32Array(2);

  const kernel: Kernel = {
    ...reference,
    id: 'wasm',

    room: (bytes: number) => arena.room(bytes),

    extent(values: Float32Array): Extent {
      let min = Number.POSITIVE_INFINITY;
      let max = Number.NEGATIVE_INFINITY;
      let zeros = 0;
      const { length } = values;
      for (let start = 0; start < length; start += windowLimit) {
        const count = Math.min(windowLimit, length - start);
        const address = arena.input(values, start, count);
        const result = arena.output(pair, 0, 2);
        const found = wasm.extent(address, count, result);
        arena.deliver();
        if (found < 0) return reference.extent(values);
        zeros += found;
        min = Math.min(min, pair[0]);
        max = Math.max(max, pair[1]);
      }
      if (length === 0) return reference.extent(values);
      return { min, max, finite: length, zeros, nan: 0, positiveInfinity: 0, negativeInfinity: 0 };
    },

    blockExtents(values: Float32Array, layout: BlockLayout, minima: Float32Array, maxima: Float32Array): void {
      checkLayout(values.length, layout, minima, maxima);
      if (isLong(layout)) {
        eachBlock(layout, (start, end, parameter) => {
          const { min, max } = kernel.extent(values.subarray(start, end));
          minima[parameter] = min;
          maxima[parameter] = max;
        });
        return;
      }
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const lows = arena.output(minima, parameter, parameters);
        const highs = arena.output(maxima, parameter, parameters);
        wasm.blockExtents(arena.input(values, start, count), rows, columns, blockSize, lows, highs);
        arena.deliver();
      }
    },

    cover(values: Float32Array, layout: BlockLayout, grid: Grid, scales: Float32Array, zeroPoints: Float32Array): void {
      checkLayout(values.length, layout, scales, zeroPoints);
      if (isLong(layout)) {
        const found: Parameters = { scale: 1, zeroPoint: 0 };
        eachBlock(layout, (start, end, parameter) => {
          const { min, max, finite } = kernel.extent(values.subarray(start, end));
          coverInterval(min, max, grid, found);
          scales[parameter] = finite === end - start ? found.scale : Number.NaN;
          zeroPoints[parameter] = finite === end - start ? found.zeroPoint : 0;
        });
        return;
      }
      const { min, max, zeroPoint, symmetric, floatZeroPoint, scaleType } = grid;
      const flags = [flag(symmetric), flag(floatZeroPoint), flag(scaleType === 'float16')] as const;
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const scale = arena.output(scales, parameter, parameters);
        const zero = arena.output(zeroPoints, parameter, parameters);
        const address = arena.input(values, start, count);
        wasm.cover(address, rows, columns, blockSize, min, max, zeroPoint, ...flags, scale, zero);
        arena.deliver();
      }
    },

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

    quantize(
      values: Float32Array,
      layout: BlockLayout,
      scales: Float32Array,
      zeroPoints: Float32Array,
      min: number,
      max: number,
      codes: Codes,
    ): void {
      checkLayout(values.length, layout, scales, zeroPoints);
      checkMatrix(layout.rows, layout.columns, codes);
      const kind = kindOf(codes);
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const address = arena.input(values, start, count);
        const scale = arena.input(scales, parameter, parameters);
        const zero = arena.input(zeroPoints, parameter, parameters);
        const out = arena.output(codes, start, count);
        wasm.quantize(address, rows, columns, blockSize, scale, zero, min, max, out, kind);
        arena.deliver();
      }
    },

    dequantize(
      codes: Codes,
      layout: BlockLayout,
      scales: Float32Array,
      zeroPoints: Float32Array,
      values: Float32Array,
    ): void {
      checkLayout(codes.length, layout, scales, zeroPoints);
      checkMatrix(layout.rows, layout.columns, values);
      const kind = kindOf(codes);
      for (const { start, count, parameter, parameters, rows, columns, blockSize } of windows(layout, windowLimit)) {
        const address = arena.input(codes, start, count);
        const scale = arena.input(scales, parameter, parameters);
        const zero = arena.input(zeroPoints, parameter, parameters);
        const out = arena.output(values, start, count);
        wasm.dequantize(address, rows, columns, blockSize, scale, zero, out, kind);
        arena.deliver();
      }
    },

    pack(codes: ArrayLike<number>, bits: number): Uint8Array {
      checkBits(bits);
      if (!(codes instanceof Int8Array || codes instanceof Uint8Array)) return reference.pack(codes, bits);
      const { length } = codes;
      const bytes = new Uint8Array(Math.ceil((length * bits) / 8));
      for (let start = 0; start < length; start += windowLimit) {
        const count = Math.min(windowLimit, length - start);
        const out = arena.output(bytes, (start / 8) * bits, Math.ceil((count * bits) / 8));
        // The codes behind the last must be zeros.
        const address = count % 8 === 0 ? arena.input(codes, start, count) : arena.copy(codes, start, count);
        wasm.pack(address, count, bits, out);
        arena.deliver();
      }
      return bytes;
    },

    unpack(bytes: Uint8Array, bits: number, signed: boolean, count: number): Int8Array | Uint8Array {
      checkBits(bits);
      const needed = Math.ceil((count * bits) / 8);
      if (bytes.length < needed) {
        throw new HalftoneError('invalid-file', `packed codes: expected ${needed} bytes, got ${bytes.length}`);
      }
      const codes = signed ? new Int8Array(count) : new Uint8Array(count);
      for (let start = 0; start < count; start += windowLimit) {
        const own = Math.min(windowLimit, count - start);
        const address = arena.input(bytes, (start / 8) * bits, Math.ceil((own * bits) / 8));
        const out = arena.output(codes, start, own);
        wasm.unpack(address, own, bits, flag(signed), out);
        arena.deliver();
      }
      return codes;
    },

    transpose<T extends Elements>(values: T, rows: number, columns: number, out: T): void {
      checkMatrix(rows, columns, values, out);
      const width = values.BYTES_PER_ELEMENT;
      if (width === 2) {
        reference.transpose(values, rows, columns, out);
        return;
      }
      const turn = width === 1 ? wasm.transpose1 : wasm.transpose4;
      if (arena.holds(values) && arena.holds(out)) {
        turn(values.byteOffset, rows, columns, columns, out.byteOffset, rows);
        return;
      }
      const side = width === 1 ? 1024 : 512;
      const wide = Math.min(columns, side);
      const tall = Math.min(rows, Math.floor(tileBytes / width / wide));
      for (let top = 0; top < rows; top += tall) {
        const height = Math.min(tall, rows - top);
        for (let left = 0; left < columns; left += wide) {
          const across = Math.min(wide, columns - left);
          turnTile(turn, values, rows, columns, out, top, left, height, across);
        }
      }
    },
  };

  /** Fits one block piece by piece, as often as the search wants to see it. Returns false if it is not finite. */
  function fitLong(values: Float32Array, importance: Float32Array, column: number): boolean {
    const { length } = values;
    const { min, max, finite } = kernel.extent(values);
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

  /** Turns a tile over: rows in, whole runs where rows or columns are not cut; columns out. */
  function turnTile<T extends Elements>(
    turn: Exports['transpose4'],
    values: T,
    rows: number,
    columns: number,
    out: T,
    top: number,
    left: number,
    height: number,
    width: number,
  ): void {
    const bytes = values.BYTES_PER_ELEMENT;
    let from: number;
    let stride = columns;
    if (arena.holds(values) || width === columns) {
      from = arena.input(values, top * columns + left, width === columns ? height * columns : 0);
    } else {
      from = arena.reserve(height * width * bytes);
      for (let row = 0; row < height; row++) {
        arena.store(from + row * width * bytes, values, (top + row) * columns + left, width);
      }
      stride = width;
    }
    if (arena.holds(out) || height === rows) {
      const to = arena.output(out, left * rows + top, height === rows ? width * rows : 0);
      turn(from, height, width, stride, to, rows);
    } else {
      const to = arena.reserve(height * width * bytes);
      turn(from, height, width, stride, to, height);
      for (let column = 0; column < width; column++) {
        arena.fetch(to + column * height * bytes, out, (left + column) * rows + top, height);
      }
    }
    arena.deliver();
  }

  return kernel;
}

/** Whether blocks are longer than a window, so that they are looked at piece by piece. */
function isLong({ columns, blockSize }: BlockLayout): boolean {
  return Math.min(columns, blockSize) > windowLimit;
}
