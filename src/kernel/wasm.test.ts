/** The WebAssembly kernels give what the reference gives: bit for bit, or within stated bounds. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGaussian, createRandom } from '../base/random.ts';
import type { Codes } from '../formats/quantized.ts';
import {
  bestKernel,
  createWasmKernel,
  type Elements,
  type FloatCodes,
  type Grid,
  reference,
  type ShortFloat,
} from './index.ts';

const wasm = createWasmKernel();
const seed = 20_25;

/** Floats of every kind: ordinary ones, and those that have caused trouble. */
const special = [
  0,
  -0,
  Number.NaN,
  Infinity,
  -Infinity,
  1e-45,
  -1e-45,
  2 ** -126,
  3.4028234663852886e38,
  -1e38,
  0.5,
  2.5,
];

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly blockSize: number;
  readonly values: Float32Array;
}

/** An array that does not begin where its buffer does. */
function shifted<T extends Elements>(values: T, offset: number): T {
  const type = values.constructor as new (length: number) => T;
  const room = new type(values.length + offset + 3);
  const view = room.subarray(offset, offset + values.length) as T;
  view.set(values);
  return view;
}

/** Matrices whose values are Gaussian, with a share of special ones. */
function matrices(finite: boolean, largest = 70): fc.Arbitrary<Matrix> {
  const side = fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: 1, max: largest }) },
    fc.constantFrom(16, 32, 64, 128),
  );
  return fc
    .record({
      rows: fc.integer({ min: 1, max: 9 }),
      columns: side,
      blockSize: fc.oneof(side, fc.constantFrom(1, 2, 3, 32, 1000)),
      offset: fc.integer({ min: 0, max: 3 }),
      share: fc.constantFrom(0, 0, 0.02, 0.5),
      exponent: fc.constantFrom(0, 0, 0, -6, 6, -30, 30, -130, 120),
      seed: fc.integer({ min: 0, max: 2 ** 30 }),
    })
    .map(({ rows, columns, blockSize, offset, share, exponent, seed: own }): Matrix => {
      const random = createRandom(own);
      const gaussian = createGaussian(random);
      const values = Float32Array.from({ length: rows * columns }, () => {
        const drawn = gaussian() * 2 ** exponent;
        if (random() >= share) return drawn;
        const odd = special[Math.floor(random() * special.length)];
        return finite && !Number.isFinite(odd) ? 0 : odd;
      });
      return { rows, columns, blockSize, values: shifted(values, offset) };
    });
}

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** Bit for bit, except that every NaN is the same. */
function expectSame(actual: Float32Array, expected: Float32Array): void {
  const [a, b] = [bits(actual), bits(expected)];
  const wrong = a.findIndex((word, i) => word !== b[i] && !(Number.isNaN(actual[i]) && Number.isNaN(expected[i])));
  if (wrong >= 0) throw new Error(`element ${wrong}: expected ${expected[wrong]}, got ${actual[wrong]}`);
}

function expectEqual(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  if (actual.length !== expected.length) throw new Error(`expected ${expected.length} elements, got ${actual.length}`);
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] !== expected[i]) throw new Error(`element ${i}: expected ${expected[i]}, got ${actual[i]}`);
  }
}

const parametersOf = ({ rows, columns, blockSize }: Matrix) => rows * Math.ceil(columns / blockSize);

/** The grids of all integer formats. */
const grids: Grid[] = [2, 3, 4, 8, 16].flatMap((width) =>
  [true, false].flatMap((signed) =>
    (['sym', 'asym', 'float'] as const).flatMap((kind) =>
      (['float16', 'float32'] as const).map((scaleType): Grid => {
        const min = signed ? -(2 ** (width - 1)) : 0;
        const max = min + 2 ** width - 1;
        const symmetric = kind === 'sym';
        return {
          min: symmetric && width >= 8 ? min + 1 : min,
          max,
          symmetric,
          zeroPoint: signed ? 0 : 2 ** (width - 1),
          floatZeroPoint: kind === 'float',
          scaleType,
          positiveScale: width >= 8,
        };
      }),
    ),
  ),
);
const grid = fc.constantFrom(...grids);

const codesFor = ({ min, max }: { min: number; max: number }, count: number): Codes => {
  if (max - min > 255) return min < 0 ? new Int16Array(count) : new Uint16Array(count);
  return min < 0 ? new Int8Array(count) : new Uint8Array(count);
};

describe('extents and covering grids', () => {
  it('are those of the reference', () => {
    fc.assert(
      fc.property(matrices(false), grid, (matrix, drawn) => {
        expect(wasm.extent(matrix.values)).toEqual(reference.extent(matrix.values));
        const count = parametersOf(matrix);
        const [a, b, c, d] = Array.from({ length: 4 }, () => new Float32Array(count));
        wasm.blockExtents(matrix.values, matrix, a, b);
        reference.blockExtents(matrix.values, matrix, c, d);
        expectSame(a, c);
        expectSame(b, d);
        wasm.cover(matrix.values, matrix, drawn, a, b);
        reference.cover(matrix.values, matrix, drawn, c, d);
        expectSame(a, c);
        expectSame(b, d);
        const { min, max } = drawn;
        const bits = Math.ceil(Math.log2(max - min + 1));
        if (bits > 8) return;
        const codes = { min, max, bits, lowest: min < 0 ? -(2 ** (bits - 1)) : 0 };
        const packed = new Uint8Array(Math.ceil((matrix.values.length * bits) / 8));
        const expected = packed.slice();
        const own = wasm.encode(matrix.values, matrix, a, b, codes, packed);
        const noise = reference.encode(matrix.values, matrix, c, d, codes, expected);
        expectEqual(packed, expected);
        // Squares that float32 cannot hold are lost where they are added in single precision.
        const isMild = noise.signal > 1e-30 && noise.signal < 1e30 && Number.isFinite(noise.error);
        if (isMild) expect(Math.abs(own.error - noise.error)).toBeLessThanOrEqual(1e-4 * noise.signal);
      }),
      { seed, numRuns: 3000 },
    );
  });
});

describe('codes', () => {
  const zeroPoints = fc.constantFrom(0, 3, -8, 0.5, 7.25, -1e-3, 300, 1e9, 2 ** 21, Number.NaN);

  it('are those of the reference, there and back', () => {
    fc.assert(
      fc.property(
        matrices(false),
        grid,
        zeroPoints,
        fc.constantFrom(1, 0.1, -0.37, 0, 1e-40),
        (matrix, drawn, zero, scale) => {
          const count = parametersOf(matrix);
          const scales = shifted(
            Float32Array.from({ length: count }, (_, i) => scale * (1 + i)),
            1,
          );
          const zeros = Float32Array.from({ length: count }, (_, i) => zero + (i % 3));
          const [own, expected] = [codesFor(drawn, matrix.values.length), codesFor(drawn, matrix.values.length)];
          wasm.quantize(matrix.values, matrix, scales, zeros, drawn.min, drawn.max, own);
          reference.quantize(matrix.values, matrix, scales, zeros, drawn.min, drawn.max, expected);
          expectEqual(own, expected);
          const [back, expectedBack] = [new Float32Array(own.length), new Float32Array(own.length)];
          wasm.dequantize(own, matrix, scales, zeros, back);
          reference.dequantize(own, matrix, scales, zeros, expectedBack);
          expectSame(back, expectedBack);
        },
      ),
      { seed, numRuns: 3000 },
    );
  });

  it('are packed and unpacked alike', () => {
    const widths = fc.integer({ min: 1, max: 8 });
    fc.assert(
      fc.property(
        widths,
        fc.boolean(),
        fc.integer({ min: 0, max: 200 }),
        fc.nat(3),
        (width, signed, length, offset) => {
          const random = createRandom(length * 8 + width);
          const codes = shifted(signed ? new Int8Array(length) : new Uint8Array(length), offset);
          for (let i = 0; i < length; i++) codes[i] = random() * 256 - (signed ? 128 : 0);
          const bytes = wasm.pack(codes, width);
          expectEqual(bytes, reference.pack(codes, width));
          expectEqual(
            wasm.unpack(shifted(bytes, offset), width, signed, length),
            reference.unpack(bytes, width, signed, length),
          );
        },
      ),
      { seed, numRuns: 3000 },
    );
  });
});

describe('short floats', () => {
  const types = ['float16', 'bfloat16', 'float8e4m3fn', 'float8e5m2'] as const;
  const codesOf = (type: ShortFloat, count: number) =>
    type === 'float16' || type === 'bfloat16' ? new Uint16Array(count) : new Uint8Array(count);

  it.each(types)('%s: every code has its value', (type) => {
    const codes = codesOf(type, codesOf(type, 0).BYTES_PER_ELEMENT === 2 ? 65_536 : 256).map((_, code) => code);
    const [own, expected] = [new Float32Array(codes.length), new Float32Array(codes.length)];
    wasm.decodeFloats(type, codes, own);
    reference.decodeFloats(type, codes, expected);
    expectSame(own, expected);
    // Neighbours of every value and of the middles between values.
    const near = Float32Array.from(
      Array.from(expected).flatMap((value, i) => {
        const middle = (value + (expected[i + 1] ?? value)) / 2;
        return [value, middle, middle * (1 + 2 ** -23), middle * (1 - 2 ** -23)];
      }),
    );
    const [code, expectedCode] = [codesOf(type, near.length), codesOf(type, near.length)];
    wasm.encodeFloats(type, near, code);
    reference.encodeFloats(type, near, expectedCode);
    expectEqual(code, expectedCode);
  });

  it('are those of the reference for all bit patterns and lengths', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...types),
        fc.integer({ min: 0, max: 70 }),
        fc.nat(3),
        fc.nat(),
        (type, length, at, own) => {
          const random = createRandom(own);
          const words = Uint32Array.from({ length }, () => Math.floor(random() * 2 ** 32));
          const patterns = shifted(new Float32Array(words.buffer), at);
          const ordinary = shifted(
            patterns.map(() => (random() - 0.5) * 2 ** (random() * 60 - 40)),
            at,
          );
          for (const values of [patterns, ordinary]) {
            const [codes, expected] = [shifted<FloatCodes>(codesOf(type, length), at), codesOf(type, length)];
            wasm.encodeFloats(type, values, codes);
            reference.encodeFloats(type, values, expected);
            expectEqual(codes, expected);
            const [back, expectedBack] = [shifted(new Float32Array(length), at), new Float32Array(length)];
            wasm.decodeFloats(type, codes, back);
            reference.decodeFloats(type, codes, expectedBack);
            expectSame(back, expectedBack);
          }
        },
      ),
      { seed, numRuns: 2000 },
    );
  });
});

describe('sums', () => {
  it('are those of the reference', () => {
    fc.assert(
      fc.property(matrices(true), fc.boolean(), ({ rows, columns, values }, across) => {
        const other = values.map((value, i) => value * (1 + ((i * 7) % 13) / 100));
        expect(wasm.squaredError(values, other)).toBe(reference.squaredError(values, other));
        const layout = across
          ? { outer: 1, channels: rows, inner: columns }
          : { outer: rows, channels: columns, inner: 1 };
        const [a, b, c, d] = Array.from({ length: 4 }, () =>
          Float64Array.from({ length: layout.channels }, (_, i) => i),
        );
        wasm.channelSums(values, layout, a, b);
        reference.channelSums(values, layout, c, d);
        expectEqual(a, c);
        expectEqual(b, d);
      }),
      { seed, numRuns: 2000 },
    );
  });

  it.each([
    [2, 3, 100_001],
    [1, 2, 70_000],
    [3, 70_000, 1],
    [2, 70_000, 2],
    [40_001, 5, 1],
    [1001, 10, 13],
    [5, 30_000, 2],
  ])('of channels add up in windows: %i×%i×%i', (outer, channels, inner) => {
    const gaussian = createGaussian(createRandom(5));
    const values = Float32Array.from({ length: outer * channels * inner }, gaussian);
    const [a, b, c, d] = Array.from({ length: 4 }, () => new Float64Array(channels));
    wasm.channelSums(values, { outer, channels, inner }, a, b);
    reference.channelSums(values, { outer, channels, inner }, c, d);
    expectEqual(a, c);
    expectEqual(b, d);
    expect(wasm.squaredError(values, values.map(Math.fround))).toBe(0);
    const zeros = new Float32Array(values.length);
    expect(wasm.squaredError(values, zeros)).toBe(reference.squaredError(values, zeros));
  });

  it('count the same bins', () => {
    const random = createRandom(6);
    for (const [length, bins, exponent] of [
      [1000, 10, 3],
      [200_001, 8192, 10],
      [70_003, 100, -20],
      [500, 8192, 4],
    ] as const) {
      const first = -Math.floor(bins / 3);
      const values = Float32Array.from(
        { length },
        (_, i) => (first + Math.min(random() * bins, bins - 0.001)) * 2 ** -exponent * (i % 5 === 0 ? 0 : 1),
      );
      values.set([-1e-45, 1e-45, -0, 2 ** -126, -(2 ** -126)]);
      const [own, expected] = [new Float64Array(bins).fill(1), new Float64Array(bins).fill(1)];
      wasm.countBins(values, 2 ** exponent, first, own);
      reference.countBins(values, 2 ** exponent, first, expected);
      expectEqual(own, expected);
    }
  });

  it('of products of columns are as exact as single precision', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 300 }),
        fc.integer({ min: 1, max: 140 }),
        fc.nat(),
        (rows, columns, own) => {
          const gaussian = createGaussian(createRandom(own));
          const values = shifted(Float32Array.from({ length: rows * columns }, gaussian), own % 4);
          const [a, b] = [new Float64Array(columns * columns).fill(1), new Float64Array(columns * columns).fill(1)];
          wasm.secondMoment(values, rows, columns, a);
          reference.secondMoment(values, rows, columns, b);
          for (let i = 0; i < columns; i++) {
            for (let j = 0; j < columns; j++) {
              // Of n products added in single precision the error is below n·2^−24 times the sum of their magnitudes.
              const bound = 129 * 2 ** -24 * Math.sqrt(b[i * columns + i] * b[j * columns + j]);
              const difference = Math.abs(a[i * columns + j] - b[i * columns + j]);
              if (!(difference <= bound)) throw new Error(`${i}, ${j}: expected ${b[i * columns + j]}`);
              if (j < i && a[i * columns + j] !== 1) throw new Error('below the diagonal');
            }
          }
        },
      ),
      { seed, numRuns: 60 },
    );
  });
});

describe('fit', () => {
  const importances = fc.constantFrom('none', 'some', 'zeros', 'short');

  function importanceOf(kind: string, columns: number): Float32Array | undefined {
    const random = createRandom(columns);
    const draw = () => (random() < 0.2 ? 0 : random() ** 8 * 100);
    if (kind === 'none') return undefined;
    if (kind === 'zeros') return new Float32Array(columns);
    return Float32Array.from({ length: kind === 'some' ? columns : Math.ceil(columns / 3) }, draw);
  }

  it('finds what the reference finds', () => {
    fc.assert(
      fc.property(matrices(false), grid, fc.boolean(), importances, (matrix, drawn, positive, kind) => {
        const importance = importanceOf(kind, matrix.columns);
        const own = positive ? { ...drawn, positiveScale: true } : drawn;
        const [a, b, c, d] = Array.from({ length: 4 }, () => new Float32Array(parametersOf(matrix)));
        wasm.fit(matrix.values, matrix, own, importance, a, b);
        reference.fit(matrix.values, matrix, own, importance, c, d);
        expectSame(a, c);
        expectSame(b, d);
      }),
      { seed, numRuns: 3000 },
    );
  });

  it.each([
    [1, 90_003, 90_003],
    [1, 140_000, 70_001],
    [2, 70_000, 32],
    [3, 30_000, 700],
  ])('finds it in windows: %i×%i in blocks of %i', (rows, columns, blockSize) => {
    const gaussian = createGaussian(createRandom(9));
    const values = Float32Array.from({ length: rows * columns }, () => gaussian() + 0.3);
    for (const kind of ['none', 'some', 'short']) {
      for (const drawn of [grids[24], grids[28], grids[38], grids[18]].slice(0, kind === 'some' ? 4 : 2)) {
        const matrix = { rows, columns, blockSize, values };
        const importance = importanceOf(kind, columns);
        const [a, b, c, d] = Array.from({ length: 4 }, () => new Float32Array(parametersOf(matrix)));
        wasm.fit(values, matrix, drawn, importance, a, b);
        reference.fit(values, matrix, drawn, importance, c, d);
        expectSame(a, c);
        expectSame(b, d);
      }
    }
  });
});

describe('noise', () => {
  it.each([
    [7, 33, 32],
    [3, 70_001, 70_001],
    [1, 5, 2],
    [64, 4096, 32],
  ])('of %i×%i in blocks of %i is the sum of squared errors', (rows, columns, blockSize) => {
    const random = createRandom(rows * columns);
    const values = Float32Array.from({ length: rows * columns }, () => random() - 0.5);
    const layout = { rows, columns, blockSize };
    const count = rows * Math.ceil(columns / blockSize);
    const scales = Float32Array.from({ length: count }, () => 0.05 + random() / 10);
    const zeroPoints = Float32Array.from({ length: count }, () => Math.floor(random() * 4) / 2);
    const codes = new Int8Array(values.length);
    reference.quantize(values, layout, scales, zeroPoints, -8, 7, codes);
    const own = wasm.noise(values, codes, layout, scales, zeroPoints);
    const expected = reference.noise(values, codes, layout, scales, zeroPoints);
    expect(own.signal / expected.signal).toBeCloseTo(1, 5);
    expect(own.error / expected.error).toBeCloseTo(1, 5);
    const quantized = new Float32Array(values.length);
    reference.dequantize(codes, layout, scales, zeroPoints, quantized);
    expect(expected).toEqual({
      signal: reference.squaredError(values, new Float32Array(values.length)),
      error: reference.squaredError(values, quantized),
    });
  });
});

describe('transpose', () => {
  it('turns elements of one, two and four bytes over', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 70 }),
        fc.integer({ min: 1, max: 70 }),
        fc.nat(2),
        (rows, columns, offset) => {
          const random = createRandom(rows * 100 + columns);
          for (const make of [Uint8Array, Uint16Array, Float32Array]) {
            const values = shifted<Elements>(new make(rows * columns), offset);
            for (let i = 0; i < values.length; i++) values[i] = random() * 65536;
            const [own, expected] = [shifted<Elements>(new make(values.length), offset), new make(values.length)];
            wasm.transpose<Elements>(values, rows, columns, own);
            reference.transpose<Elements>(values, rows, columns, expected);
            expectEqual(own, expected);
            const first = Math.floor(random() * columns);
            const some = (Math.floor(random() * (columns - first)) + 1) * rows;
            const part = shifted<Elements>(new make(some), offset);
            wasm.transpose<Elements>(values, rows, columns, part, first);
            expectEqual(part, expected.slice(first * rows, first * rows + some));
          }
        },
      ),
      { seed, numRuns: 500 },
    );
  });
});

describe('arrays larger than the arena', () => {
  const gaussian = createGaussian(createRandom(4));
  const count = 26 * 15_201;
  const values = Float32Array.from({ length: count }, gaussian);

  it.each([
    [1, count, count],
    [1, count, 32],
    [1, count, 100_000],
    [2, count / 2, 99_999],
    [count / 2, 2, 2],
    [count / 26, 26, 7],
  ])('are worked on in windows: %i×%i in blocks of %i', (rows, columns, blockSize) => {
    const matrix = { rows, columns, blockSize, values };
    const parameters = parametersOf(matrix);
    for (const drawn of [grids[24], grids[26], grids[28]]) {
      const [a, b, c, d] = Array.from({ length: 4 }, () => new Float32Array(parameters));
      wasm.cover(values, matrix, drawn, a, b);
      reference.cover(values, matrix, drawn, c, d);
      expectSame(a, c);
      expectSame(b, d);
      const [own, expected] = [codesFor(drawn, count), codesFor(drawn, count)];
      wasm.quantize(values, matrix, a, b, drawn.min, drawn.max, own);
      reference.quantize(values, matrix, a, b, drawn.min, drawn.max, expected);
      expectEqual(own, expected);
      const [back, expectedBack] = [new Float32Array(count), new Float32Array(count)];
      wasm.dequantize(own, matrix, a, b, back);
      reference.dequantize(own, matrix, a, b, expectedBack);
      expectSame(back, expectedBack);
      wasm.blockExtents(values, matrix, a, b);
      reference.blockExtents(values, matrix, c, d);
      expectSame(a, c);
      expectSame(b, d);
    }
  });

  it('are packed, unpacked, turned over and looked through', () => {
    const codes = Int8Array.from(values, (value) => value * 4);
    const packed = reference.pack(codes, 5);
    expectEqual(wasm.pack(codes, 5), packed);
    expectEqual(wasm.unpack(packed, 5, true, count), reference.unpack(packed, 5, true, count));
    expect(wasm.extent(values)).toEqual(reference.extent(values));
    for (const [rows, columns] of [
      [3, 131_072],
      [131_072, 3],
      [600, 655],
      [1100, 357],
    ]) {
      const part = values.subarray(0, rows * columns);
      for (const matrix of [part, new Uint8Array(part.buffer, 1, part.length)]) {
        const [own, expected] = [matrix.slice(), matrix.slice()];
        wasm.transpose<Elements>(matrix, rows, columns, own);
        reference.transpose<Elements>(matrix, rows, columns, expected);
        expectEqual(own, expected);
      }
    }
  });
});

describe('room', () => {
  it('is aligned memory that kernels work on in place', () => {
    for (const kernel of [wasm, reference]) {
      const bytes = kernel.room(4096);
      expect([bytes.length, bytes.byteOffset % 16]).toEqual([4096, 0]);
      const values = new Float32Array(bytes.buffer, bytes.byteOffset, 1024);
      for (let i = 0; i < values.length; i++) values[i] = Math.sin(i);
      const layout = { rows: 8, columns: 128, blockSize: 32 };
      const [scales, zeroPoints] = [new Float32Array(32), new Float32Array(32)];
      kernel.cover(values, layout, grids[24], scales, zeroPoints);
      const codes = new Int8Array(1024);
      kernel.quantize(values, layout, scales, zeroPoints, -8, 7, codes);
      const expected = new Int8Array(1024);
      reference.quantize(values.slice(), layout, scales, zeroPoints, -8, 7, expected);
      expectEqual(codes, expected);
      kernel.transpose(values.subarray(0, 512), 16, 32, values.subarray(512));
      expect(values[512 + 16]).toBe(values[1]);
    }
    expect(wasm.room(16).buffer).toBe(wasm.room(16 * 2 ** 20).buffer);
    expect(wasm.room(16 * 2 ** 20 + 1).length).toBe(16 * 2 ** 20 + 1);
    expect(wasm.room(16).buffer.byteLength).toBeLessThanOrEqual(26 * 2 ** 20);
  });

  it('has a desk beside it', () => {
    for (const kernel of [wasm, reference]) {
      const [room, desk] = [kernel.room(16 * 2 ** 20), kernel.desk(2 ** 21)];
      const values = new Float32Array(room.buffer, room.byteOffset, 1024 * 3000);
      for (let i = 0; i < values.length; i++) values[i] = i;
      const turned = new Float32Array(desk.buffer, desk.byteOffset, 1024 * 33);
      kernel.transpose(values, 1024, 3000, turned, 2967);
      for (const [column, row] of [
        [0, 0],
        [32, 1023],
        [7, 500],
      ]) {
        expect(turned[column * 1024 + row]).toBe(row * 3000 + 2967 + column);
      }
    }
    expect(wasm.desk(2 ** 21 + 1).length).toBe(2 ** 21 + 1);
  });
});

it('bestKernel is one, and WebAssembly here', () => {
  expect(bestKernel().id).toBe('wasm');
  expect(bestKernel()).toBe(bestKernel());
});
