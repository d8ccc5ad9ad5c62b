/** Conversions between float32 and shorter floats. */
import { checkFloats } from '../floats.ts';
import type { FloatCodes, Kernel, ShortFloat } from '../kernel.ts';
import { type Arena, windowLimit } from './arena.ts';
import type { Exports } from './exports.ts';

/** In the order of the kinds of assembly/floats.ts. */
const kinds: readonly ShortFloat[] = ['float16', 'bfloat16', 'float8e4m3fn', 'float8e5m2'];

export function floatMethods(wasm: Exports, arena: Arena): Pick<Kernel, 'encodeFloats' | 'decodeFloats'> {
  return {
    encodeFloats(type: ShortFloat, values: Float32Array, codes: FloatCodes): void {
      checkFloats(type, values, codes);
      for (let start = 0; start < values.length; start += windowLimit) {
        const count = Math.min(windowLimit, values.length - start);
        // Eight values are converted at a time: behind the last ones there must be room.
        const whole = count % 8 === 0;
        const out = whole ? arena.output(codes, start, count) : arena.reserve(count * codes.BYTES_PER_ELEMENT);
        wasm.encodeFloats(kinds.indexOf(type), arena.input(values, start, count), count, out);
        if (!whole) arena.fetch(out, codes, start, count);
        arena.deliver();
      }
    },

    decodeFloats(type: ShortFloat, codes: FloatCodes, values: Float32Array): void {
      checkFloats(type, values, codes);
      for (let start = 0; start < values.length; start += windowLimit) {
        const count = Math.min(windowLimit, values.length - start);
        const whole = count % 4 === 0;
        const out = whole ? arena.output(values, start, count) : arena.reserve(count * 4);
        wasm.decodeFloats(kinds.indexOf(type), arena.input(codes, start, count), count, out);
        if (!whole) arena.fetch(out, values, start, count);
        arena.deliver();
      }
    },
  };
}
