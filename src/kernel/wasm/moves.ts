/** Codes packed and unpacked, and matrices turned over. */
import { HalftoneError } from '../../base/errors.ts';
import type { Elements, Kernel } from '../kernel.ts';
import { checkTurned } from '../layout.ts';
import { checkBits, reference } from '../reference.ts';
import { type Arena, windowLimit } from './arena.ts';
import { type Exports, flag } from './exports.ts';

/** Bytes of a tile that is turned over. */
const tileBytes = 2 ** 21;

/** Rows or columns of a tile from which on it may be as long as the other side of the matrix. */
const least = 128;

/** Rows and columns of tiles: one side whole where the other need not be short for it, so that one copy moves them all. */
function tileOf(rows: number, columns: number, whole: number, limit: number): [tall: number, wide: number] {
  if (rows * Math.min(columns, least) <= limit) return [rows, Math.min(columns, Math.floor(limit / rows))];
  if (columns === whole && columns * Math.min(rows, least) <= limit) return [Math.floor(limit / columns), columns];
  const side = Math.floor(Math.sqrt(limit) / 16) * 16;
  const wide = Math.min(columns, side);
  return [Math.min(rows, Math.floor(limit / wide)), wide];
}

export function moveMethods(wasm: Exports, arena: Arena): Pick<Kernel, 'pack' | 'unpack' | 'transpose'> {
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
    first: number,
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
      const to = arena.output(out, (left - first) * rows + top, height === rows ? width * rows : 0);
      turn(from, height, width, stride, to, rows);
    } else {
      const to = arena.reserve(height * width * bytes);
      turn(from, height, width, stride, to, height);
      for (let column = 0; column < width; column++) {
        arena.fetch(to + column * height * bytes, out, (left - first + column) * rows + top, height);
      }
    }
    arena.deliver();
  }

  return {
    pack(codes: ArrayLike<number>, bits: number, lowest = 0): Uint8Array {
      checkBits(bits);
      if (!(codes instanceof Int8Array || codes instanceof Uint8Array)) return reference.pack(codes, bits, lowest);
      const { length } = codes;
      const bytes = new Uint8Array(Math.ceil((length * bits) / 8));
      for (let start = 0; start < length; start += windowLimit) {
        const count = Math.min(windowLimit, length - start);
        const out = arena.output(bytes, (start / 8) * bits, Math.ceil((count * bits) / 8));
        // What lies behind the last codes must become zeros.
        const whole = count % 8 === 0;
        const address = whole ? arena.input(codes, start, count) : arena.copy(codes, start, count);
        if (!whole) arena.fill(address + count, 8 - (count % 8), lowest);
        wasm.pack(address, count, bits, lowest, out);
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

    transpose<T extends Elements>(values: T, rows: number, columns: number, out: T, first = 0): void {
      const count = checkTurned(values, rows, columns, out, first);
      const width = values.BYTES_PER_ELEMENT;
      if (width === 2) {
        reference.transpose(values, rows, columns, out, first);
        return;
      }
      const turn = width === 1 ? wasm.transpose1 : wasm.transpose4;
      if (arena.holds(values) && arena.holds(out)) {
        turn(values.byteOffset + first * width, rows, count, columns, out.byteOffset, rows);
        return;
      }
      if (count === 0) return;
      const [tall, wide] = tileOf(rows, count, columns, tileBytes / width);
      for (let top = 0; top < rows; top += tall) {
        const height = Math.min(tall, rows - top);
        for (let left = first; left < first + count; left += wide) {
          const across = Math.min(wide, first + count - left);
          turnTile(turn, values, rows, columns, out, top, left, height, across, first);
        }
      }
    },
  };
}
