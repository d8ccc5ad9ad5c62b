/** The reference kernels: packing, rounding, quantizing there and back, extents and sums. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../base/errors.ts';
import { formats, type IntFormat } from '../formats/index.ts';
import { createCodes } from '../formats/quantized.ts';
import { parseScheme } from '../formats/scheme.ts';
import {
  dequantizeMatrix,
  dequantizeValue,
  matrixError,
  quantizeMatrix,
  quantizeValue,
  reference,
  signalToNoise,
} from './index.ts';

const integers: IntFormat[] = formats.filter((format) => format.kind === 'int');
const packable = integers.filter((format) => format.bits <= 8);

describe('packing', () => {
  it.each(packable)('gives $id codes back, in as few bytes as possible', (format) => {
    const code = fc.integer({ min: format.min, max: format.max });
    fc.assert(
      fc.property(fc.array(code, { maxLength: 70 }), (codes) => {
        const bytes = reference.pack(codes, format.bits);
        expect(bytes.length).toBe(Math.ceil((codes.length * format.bits) / 8));
        expect(Array.from(reference.unpack(bytes, format.bits, format.signed, codes.length))).toEqual(codes);
      }),
    );
  });

  it('puts the first code into the lowest bits, and pads with zeros', () => {
    expect(Array.from(reference.pack([1, -2, 7], 4))).toEqual([0xe1, 0x07]);
    expect(Array.from(reference.pack([0, 1, 2, 3, 1], 2))).toEqual([0b11100100, 1]);
    expect(Array.from(reference.pack([5, 3, 7], 3))).toEqual([0b11011101, 1]);
    expect(Array.from(reference.pack([1, 0, 0, 0, 0, 0, 0, 0, 1], 1))).toEqual([1, 1]);
  });

  it('refuses other widths and missing bytes', () => {
    expect(() => reference.pack([1], 9)).toThrow('packing: expected 1 to 8 bits, got 9');
    expect(() => reference.unpack(new Uint8Array(1), 4, true, 3)).toThrow('packed codes: expected 2 bytes, got 1');
    expect(() => reference.unpack(new Uint8Array(1), 0, true, 3)).toThrow(HalftoneError);
  });
});

describe('quantizing one value', () => {
  it('rounds halves to even before the zero point is added', () => {
    const codes = [-1.5, -0.5, 0.5, 1.5, 2.5].map((value) => quantizeValue(value, 1, 3, 0, 255));
    expect(codes).toEqual([1, 3, 3, 5, 5]);
  });

  it('divides in float32: a quotient that is a half there goes to even', () => {
    const scale = Math.fround(0.1);
    const value = Math.fround(scale * 2.5);
    expect(value / scale).not.toBe(2.5);
    expect(quantizeValue(value, scale, 0, -128, 127)).toBe(2);
  });

  it('saturates, and takes NaN for the smallest code as ONNX Runtime does', () => {
    expect(quantizeValue(1e30, 0.1, 0, -8, 7)).toBe(7);
    expect(quantizeValue(Number.NEGATIVE_INFINITY, 0.1, 0, -8, 7)).toBe(-8);
    expect(quantizeValue(Number.NaN, 0.1, 0, -8, 7)).toBe(-8);
  });

  it('accepts zero points between codes, and negative scales', () => {
    expect([-1, 0, 1].map((value) => quantizeValue(value, 2, 0.5, 0, 1))).toEqual([0, 0, 1]);
    expect([-8, 0, 7].map((value) => quantizeValue(value, -1, 0, -8, 7))).toEqual([7, 0, -7]);
    expect(dequantizeValue(-8, -0.5, 0)).toBe(4);
  });

  it('is undone by dequantizing: Q(DQ(q)) = q', () => {
    const cases = fc.constantFrom(...integers).chain((format) => {
      const code = fc.integer({ min: format.min, max: format.max });
      const scale = fc.tuple(fc.integer({ min: 2 ** 23, max: 2 ** 24 - 1 }), fc.integer({ min: -80, max: 40 }));
      return fc.record({ format: fc.constant(format), code, zeroPoint: code, scale, negative: fc.boolean() });
    });
    fc.assert(
      fc.property(cases, ({ format, code, zeroPoint, scale: [mantissa, exponent], negative }) => {
        const scale = (negative ? -1 : 1) * mantissa * 2 ** exponent;
        const value = dequantizeValue(code, scale, zeroPoint);
        expect(quantizeValue(value, scale, zeroPoint, format.min, format.max)).toBe(code);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('quantizing blocks', () => {
  it('uses each block’s own parameters, short last blocks too', () => {
    const layout = { rows: 2, columns: 5, blockSize: 2 };
    const values = Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    const scales = Float32Array.from([1, 0.5, 0.25, 2, 4, 5]);
    const zeroPoints = Float32Array.from([0, 1, 2, 3, 4, 5]);
    const codes = new Uint8Array(10);
    reference.quantize(values, layout, scales, zeroPoints, 0, 255, codes);
    expect(Array.from(codes)).toEqual([1, 2, 7, 9, 22, 6, 7, 6, 6, 7]);
    const back = new Float32Array(10);
    reference.dequantize(codes, layout, scales, zeroPoints, back);
    expect(Array.from(back)).toEqual([1, 2, 3, 4, 5, 6, 8, 8, 8, 10]);
  });

  it('refuses parameters that do not fit', () => {
    const layout = { rows: 1, columns: 4, blockSize: 2 };
    const quantize = (length: number, parameters: number) =>
      reference.quantize(
        new Float32Array(length),
        layout,
        new Float32Array(parameters).fill(1),
        new Float32Array(parameters),
        0,
        255,
        new Uint8Array(length),
      );
    expect(() => quantize(4, 3)).toThrow('block layout: expected 2 parameters, got 3');
    expect(() => quantize(5, 2)).toThrow('block layout: expected 4 elements, got 5');
  });

  it('serves matrices of every granularity', () => {
    const values = Float32Array.from([-1, 0, 1, 2, 3, 4]);
    for (const [text, count] of [
      ['int8:tensor:sym', 1],
      ['int8:channel:sym', 2],
      ['int8:g2:sym:scale32', 4],
    ] as const) {
      const scales = new Float32Array(count).fill(0.5);
      const matrix = quantizeMatrix(values, 2, 3, parseScheme(text), scales, new Float32Array(count));
      expect(Array.from(matrix.codes)).toEqual([-2, 0, 2, 4, 6, 8]);
      expect(dequantizeMatrix(matrix)).toEqual(values);
      expect(signalToNoise(values, matrix)).toBe(Number.POSITIVE_INFINITY);
      expect(matrixError(Float32Array.from([-1, 0, 1, 2, 3, 6]), matrix)).toBe(4);
    }
  });

  it('holds codes of every format', () => {
    for (const format of integers) {
      const values = Float32Array.from([format.min, format.max]);
      const codes = createCodes(format, 2);
      const one = Float32Array.from([1]);
      reference.quantize(
        values,
        { rows: 1, columns: 2, blockSize: 2 },
        one,
        new Float32Array(1),
        format.min,
        format.max,
        codes,
      );
      expect(Array.from(codes)).toEqual([format.min, format.max]);
    }
  });
});

describe('extent', () => {
  it('finds range, zeros and what is not finite', () => {
    const { POSITIVE_INFINITY: up, NEGATIVE_INFINITY: down, NaN: nan } = Number;
    expect(reference.extent(Float32Array.from([0, -0, 1, -2, up, down, down, nan]))).toEqual({
      min: -2,
      max: 1,
      finite: 4,
      zeros: 2,
      nan: 1,
      positiveInfinity: 1,
      negativeInfinity: 2,
    });
    expect(reference.extent(new Float32Array(0))).toMatchObject({ min: 0, max: 0, finite: 0 });
    expect(reference.extent(Float32Array.from([nan]))).toMatchObject({ min: 0, max: 0, finite: 0, nan: 1 });
    expect(Object.is(reference.extent(Float32Array.from([-0])).min, 0)).toBe(true);
  });

  it('agrees with comparing floats', () => {
    fc.assert(
      fc.property(fc.float32Array({ noNaN: true, noDefaultInfinity: true, minLength: 1 }), (values) => {
        const { min, max, zeros } = reference.extent(values);
        expect([min, max]).toEqual([Math.min(...values) + 0, Math.max(...values) + 0]);
        expect(zeros).toBe(values.filter((value) => value === 0).length);
      }),
    );
  });
});

describe('sums', () => {
  it('add squared differences in double precision', () => {
    expect(reference.squaredError(Float32Array.from([1, 2, 3]), Float32Array.from([1, 0, 6]))).toBe(13);
    expect(() => reference.squaredError(new Float32Array(2), new Float32Array(3))).toThrow(
      'expected 2 elements, got 3',
    );
  });

  it('count bins from −infinity down to the bin’s lower edge', () => {
    const counts = new Float64Array(4);
    reference.countBins(Float32Array.from([-2, -1.5, -1e-30, 0, 0.5, 1.999]), 1, -2, counts);
    expect(Array.from(counts)).toEqual([2, 1, 2, 1]);
  });

  it('sum channels in any layout', () => {
    const values = Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8]);
    const sums = (outer: number, channels: number, inner: number) => {
      const [sum, square] = [new Float64Array(channels), new Float64Array(channels)];
      reference.channelSums(values, { outer, channels, inner }, sum, square);
      return [Array.from(sum), Array.from(square)];
    };
    expect(sums(2, 2, 2)).toEqual([
      [14, 22],
      [66, 138],
    ]);
    expect(sums(4, 2, 1)).toEqual([
      [16, 20],
      [84, 120],
    ]);
    expect(() => sums(3, 2, 1)).toThrow('channel sums: expected 3×2×1 elements, got 8');
  });
});
