/** GGUF element types: against gguf-py's bytes and floats, and by hand from the layouts. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bytesIn, oracleFolder } from '../../../test/oracles.ts';
import { floatToHalf } from '../../tensor/half.ts';
import { iq1Grid, iq2sGrid, iq2xsGrid, iq2xxsGrid, iq3sGrid, iq3xxsGrid } from './grids.ts';
import { type GgufTypeId, ggufTypeIds, ggufTypeOf, ggufTypeOfNumber, ggufTypes } from './index.ts';

interface OracleIndex {
  readonly types: Record<
    string,
    { id: number; block: number; bytes: number; quantize: boolean; dequantize: boolean; randomBlocks?: number }
  >;
}

const folder = oracleFolder('gguf');
const oracles = folder ? (JSON.parse(readFileSync(join(folder, 'index.json'), 'utf8')) as OracleIndex).types : {};
const encoding = ggufTypes.filter((type) => type.encode !== undefined);
const scaled = encoding.filter((type) => type.blockSize > 1);

const bytesOf = (name: string) => new Uint8Array(bytesIn(join(folder!, name)));
const floatsOf = (name: string) => new Float32Array(bytesIn(join(folder!, name)));

function decode(id: GgufTypeId, bytes: Uint8Array): Float32Array {
  const type = ggufTypeOf(id);
  const values = new Float32Array((bytes.length / type.byteLength) * type.blockSize);
  type.decode(bytes, values);
  return values;
}

function encode(id: GgufTypeId, values: Float32Array): Uint8Array {
  const type = ggufTypeOf(id);
  const bytes = new Uint8Array((values.length / type.blockSize) * type.byteLength);
  type.encode!(values, bytes);
  return bytes;
}

/** The bits of floats, so that −0 and 0 differ; NaN has one pattern, whatever its payload. */
function bitsOf(values: Float32Array): Uint32Array {
  const bits = new Uint32Array(values.slice().buffer);
  values.forEach((value, i) => {
    if (Number.isNaN(value)) bits[i] = 0x7fc00000;
  });
  return bits;
}

/** Little-endian bytes of a float16. */
function half(value: number): number[] {
  const code = floatToHalf(value);
  return [code & 0xff, code >> 8];
}

const repeat = (count: number, ...bytes: number[]) => Array.from({ length: count }, () => bytes).flat();
const range = (count: number, of: (i: number) => number) => Array.from({ length: count }, (_, i) => of(i));

describe('against gguf-py', () => {
  it.skipIf(!folder)('covers everything that it decodes and encodes', () => {
    const known = Object.entries(oracles).filter(([, { dequantize }]) => dequantize);
    expect(
      Object.fromEntries(
        known.map(([id, { id: type, block, bytes, quantize }]) => [id, { type, block, bytes, quantize }]),
      ),
    ).toEqual(
      Object.fromEntries(
        ggufTypes.map((type) => [
          type.id,
          { type: type.ggmlType, block: type.blockSize, bytes: type.byteLength, quantize: 'encode' in type },
        ]),
      ),
    );
  });

  it.skipIf(!folder).each(ggufTypeIds)('%s decodes random blocks to the same bits', (id) => {
    const bytes = bytesOf(`${id}.random.bin`);
    expect(bytes.length).toBe(oracles[id].randomBlocks! * ggufTypeOf(id).byteLength);
    expect(bitsOf(decode(id, bytes))).toEqual(bitsOf(floatsOf(`${id}.random.f32`)));
  });

  it.skipIf(!folder).each(encoding.map(({ id }) => id))('%s encodes to the same bytes, and decodes them', (id) => {
    const bytes = encode(id, floatsOf('x.f32'));
    expect(bytes).toEqual(bytesOf(`${id}.quantized.bin`));
    expect(bitsOf(decode(id, bytes))).toEqual(bitsOf(floatsOf(`${id}.quantized.f32`)));
  });
});

describe('the list', () => {
  it('finds types by id and by number', () => {
    for (const type of ggufTypes) {
      expect(ggufTypeOf(type.id)).toBe(type);
      expect(ggufTypeOfNumber(type.ggmlType)).toBe(type);
    }
    expect(new Set(ggufTypes.map((type) => type.ggmlType)).size).toBe(ggufTypes.length);
    expect(() => ggufTypeOf('Q9_Z')).toThrow(/^GGUF type: expected one of F32, .*, NVFP4, got "Q9_Z"$/);
    expect(() => ggufTypeOfNumber(9)).toThrow(/^GGUF type: expected one of 0 \(F32\), .*, got 9$/);
  });
});

describe.each(ggufTypes)('$id', ({ id, blockSize, byteLength, decode: decodeInto }) => {
  it('takes no blocks for no values', () => {
    expect(decode(id, new Uint8Array(0))).toEqual(new Float32Array(0));
  });

  it('refuses parts of blocks and the wrong room', () => {
    if (byteLength > 1) {
      expect(() => decodeInto(new Uint8Array(byteLength + 1), new Float32Array(blockSize))).toThrow(
        `${id}: expected blocks of ${byteLength} bytes, got ${byteLength + 1} bytes`,
      );
    }
    expect(() => decodeInto(new Uint8Array(byteLength), new Float32Array(blockSize + 1))).toThrow(
      `${id}: expected room for ${blockSize} values, got ${blockSize + 1}`,
    );
  });

  it('reads blocks wherever they lie, each by itself', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: byteLength, maxLength: byteLength }),
        fc.uint8Array({ minLength: byteLength, maxLength: byteLength }),
        (one, other) => {
          const outer = Uint8Array.of(7, ...one, ...other);
          const both = bitsOf(decode(id, outer.subarray(1)));
          expect([...both]).toEqual([...bitsOf(decode(id, one)), ...bitsOf(decode(id, other))]);
        },
      ),
      { numRuns: 20, seed: 1 },
    );
  });

  it('has zeros where all bytes are', () => {
    const values = decode(id, new Uint8Array(byteLength));
    expect(values.every((value) => value === 0)).toBe(true);
  });
});

describe.each(encoding)('$id, encoding', ({ id, blockSize, byteLength }) => {
  it('refuses parts of blocks and the wrong room', () => {
    const { encode: encodeInto } = ggufTypeOf(id);
    if (blockSize > 1) {
      expect(() => encodeInto!(new Float32Array(blockSize - 1), new Uint8Array(byteLength))).toThrow(
        `${id}: expected a multiple of ${blockSize} values, got ${blockSize - 1}`,
      );
    }
    expect(() => encodeInto!(new Float32Array(blockSize), new Uint8Array(byteLength + 1))).toThrow(
      `${id}: expected room for ${byteLength} bytes, got ${byteLength + 1}`,
    );
  });

  it('gives zeros back', () => {
    expect(decode(id, encode(id, new Float32Array(2 * blockSize))).every((value) => value === 0)).toBe(true);
  });

  it('sets every byte', () => {
    const values = Float32Array.from({ length: blockSize }, (_, i) => Math.sin(i + 1));
    const used = new Uint8Array(byteLength).fill(0xff);
    ggufTypeOf(id).encode!(values, used);
    expect(used).toEqual(encode(id, values));
  });

  it('keeps values of a part of an array', () => {
    const values = Float32Array.from({ length: blockSize + 3 }, (_, i) => Math.cos(i)).subarray(3);
    expect(encode(id, values)).toEqual(encode(id, values.slice()));
  });

  it('comes back to the same values from what it wrote, where its scale is exact', () => {
    const exact = Float32Array.from({ length: blockSize }, (_, i) => [-1, 0, 1][i % 3]);
    const once = decode(id, encode(id, exact));
    expect(decode(id, encode(id, once))).toEqual(once);
  });
});

describe.each(scaled)('$id, encoding with a scale', ({ id, blockSize }) => {
  it('refuses what is no number', () => {
    const values = new Float32Array(2 * blockSize);
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      values[blockSize + 3] = wrong;
      expect(() => encode(id, values)).toThrow(
        `${id}: expected finite numbers, got ${wrong} at ${blockSize + 3}; keep the tensor in F32, F16 or BF16`,
      );
    }
  });

  it('does not depend on the blocks beside it', () => {
    const one = Float32Array.from({ length: blockSize }, (_, i) => Math.sin(3 * i));
    const other = Float32Array.from({ length: blockSize }, (_, i) => 100 * Math.cos(5 * i));
    expect([...encode(id, Float32Array.of(...one, ...other))]).toEqual([...encode(id, one), ...encode(id, other)]);
  });
});

describe('floats without scales', () => {
  const values = Float32Array.of(0, -0, 1, -2.5, 65504, 1e9, 2 ** -24, Number.POSITIVE_INFINITY, Number.NaN);

  it('F32 keeps every bit, also where bytes are not aligned', () => {
    const bytes = encode('F32', values);
    const moved = new Uint8Array(bytes.length + 1);
    moved.set(bytes, 1);
    expect(new Uint32Array(decode('F32', moved.subarray(1)).buffer)).toEqual(new Uint32Array(values.buffer));
  });

  it('F16 and BF16 round to even', () => {
    expect([...decode('F16', encode('F16', values))]).toEqual([
      0,
      -0,
      1,
      -2.5,
      65504,
      Number.POSITIVE_INFINITY,
      2 ** -24,
      Number.POSITIVE_INFINITY,
      Number.NaN,
    ]);
    expect([...encode('BF16', Float32Array.of(1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, Number.NaN))]).toEqual([
      0x80, 0x3f, 0x80, 0x3f, 0x82, 0x3f, 0xc0, 0x7f,
    ]);
  });
});

describe('blocks of 32 with a scale', () => {
  const nibbles = range(16, (j) => j | ((15 - j) << 4));

  it('Q4_0 and Q4_1 have the first half in low nibbles', () => {
    expect([...decode('Q4_0', Uint8Array.of(...half(0.5), ...nibbles))]).toEqual([
      ...range(16, (j) => (j - 8) / 2),
      ...range(16, (j) => (7 - j) / 2),
    ]);
    expect([...decode('Q4_1', Uint8Array.of(...half(0.5), ...half(3), ...nibbles))]).toEqual([
      ...range(16, (j) => j / 2 + 3),
      ...range(16, (j) => (15 - j) / 2 + 3),
    ]);
  });

  it('Q5_0 and Q5_1 have the fifth bits of all in order', () => {
    const fifth = [0x01, 0x80, 0x00, 0x80];
    const high = (i: number) => (i === 0 || i === 15 || i === 31 ? 16 : 0);
    const codes = range(32, (i) => (i < 16 ? i : 31 - i) + high(i));
    expect([...decode('Q5_0', Uint8Array.of(...half(0.25), ...fifth, ...nibbles))]).toEqual(
      codes.map((code) => (code - 16) / 4),
    );
    expect([...decode('Q5_1', Uint8Array.of(...half(0.25), ...half(-1), ...fifth, ...nibbles))]).toEqual(
      codes.map((code) => code / 4 - 1),
    );
  });

  it('Q8_0 has signed bytes', () => {
    const bytes = Uint8Array.of(...half(2), ...range(32, (i) => 8 * i));
    expect([...decode('Q8_0', bytes)]).toEqual(range(32, (i) => 2 * (i < 16 ? 8 * i : 8 * i - 256)));
  });

  it('Q4_0 and Q5_0 give the largest magnitude the lowest code, so that the scale may be negative', () => {
    const values = Float32Array.from({ length: 32 }, (_, i) => (i === 5 ? 8 : -i / 8));
    expect([...encode('Q4_0', values).subarray(0, 2)]).toEqual(half(-1));
    expect(encode('Q4_0', values)[2 + 5] & 15).toBe(0);
    expect([...encode('Q5_0', values).subarray(0, 2)]).toEqual(half(-0.5));
    expect(decode('Q5_0', encode('Q5_0', values))[5]).toBe(8);
  });

  it.each([
    ['Q4_0', 1 / 8, -8],
    ['Q5_0', 1 / 8, -16],
    ['Q4_1', 1 / 8, 0],
    ['Q5_1', 1 / 8, 0],
    ['Q8_0', 1 / 128, -127],
  ] as const)('%s keeps its own levels', (id, scale, lowest) => {
    const count = id.startsWith('Q4') ? 16 : id.startsWith('Q5') ? 32 : 255;
    const values = Float32Array.from({ length: 32 }, (_, i) => scale * (lowest + ((i * (count - 1)) % count)));
    values[0] = scale * lowest;
    values[1] = scale * (lowest + count - 1);
    expect(decode(id, encode(id, values))).toEqual(values);
  });

  it('Q8_0 rounds halves away from zero', () => {
    const values = new Float32Array(32);
    values.set([127, 0.5, -0.5, 1.5, -2.5, 0.49]);
    expect([...encode('Q8_0', values).subarray(0, 8)]).toEqual([...half(1), 127, 1, 255, 2, 253, 0]);
  });

  it('Q4_0 adds the half in float32, where 9.9999995 is 10', () => {
    const scale = Math.fround(3.329455284983851e-5);
    const values = new Float32Array(32);
    values.set([-8 * scale, 4.994181290385313e-5]);
    expect(encode('Q4_0', values)[2 + 1]).toBe(0x8a);
  });

  it('constants come back', () => {
    for (const id of ['Q4_0', 'Q4_1', 'Q5_0', 'Q5_1'] as const) {
      const values = new Float32Array(32).fill(-0.75);
      expect(decode(id, encode(id, values))).toEqual(values);
    }
  });

  it('blocks too small for a float16 scale become zeros', () => {
    for (const { id, blockSize } of scaled) {
      if (id === 'MXFP4' || id === 'NVFP4') continue;
      const values = Float32Array.from({ length: blockSize }, (_, i) => (i - 20) * 2 ** -149);
      expect(decode(id, encode(id, values)).every((value) => value === 0)).toBe(true);
    }
  });
});

describe('super-blocks of 256', () => {
  const place = (id: GgufTypeId, parts: [at: number, bytes: number[]][]) => {
    const bytes = new Uint8Array(ggufTypeOf(id).byteLength);
    for (const [at, part] of parts) bytes.set(part, at);
    return decode(id, bytes);
  };

  it('Q2_K: scale and minimum of 16 elements in a byte, four elements 32 apart in another', () => {
    const values = place('Q2_K', [
      [0, range(16, (sub) => sub | ((15 - sub) << 4))],
      [16, repeat(64, 0b11_10_01_00)],
      [80, [...half(0.5), ...half(0.25)]],
    ]);
    expect([...values]).toEqual(range(256, (i) => 0.5 * (i >> 4) * ((i >> 5) & 3) - 0.25 * (15 - (i >> 4))));
  });

  it('Q3_K: third bits by 32 elements, 6-bit scales less 32', () => {
    // The scale of sub-block s is 3s: low nibbles in 8 bytes, high pairs in 4.
    const scale = (sub: number) => 3 * sub;
    const values = place('Q3_K', [
      [0, repeat(32, 0b10101010)],
      [32, repeat(64, 0b11_10_01_00)],
      [96, range(8, (sub) => (scale(sub) & 15) | ((scale(sub + 8) & 15) << 4))],
      [104, range(4, (j) => range(4, (k) => (scale(j + 4 * k) >> 4) << (2 * k)).reduce((sum, bits) => sum | bits))],
      [108, half(2)],
    ]);
    const code = (i: number) => ((i >> 5) & 3) - ((i >> 5) & 1 ? 0 : 4);
    expect([...values]).toEqual(range(256, (i) => 2 * (scale(i >> 4) - 32) * code(i)));
  });

  /** The 12 bytes of scales and minimums of Q4_K and Q5_K. */
  const packed = (scale: (sub: number) => number, minimum: (sub: number) => number) => [
    ...range(4, (j) => scale(j) | ((scale(j + 4) >> 4) << 6)),
    ...range(4, (j) => minimum(j) | ((minimum(j + 4) >> 4) << 6)),
    ...range(4, (j) => (scale(j + 4) & 15) | ((minimum(j + 4) & 15) << 4)),
  ];
  const scale = (sub: number) => 7 * sub + 5;
  const minimum = (sub: number) => 63 - 8 * sub;

  it('Q4_K: 6-bit scales and minimums, nibbles by 64 elements', () => {
    const values = place('Q4_K', [
      [0, [...half(0.5), ...half(0.25)]],
      [4, packed(scale, minimum)],
      [16, range(128, (j) => (j & 15) | ((15 - (j & 15)) << 4))],
    ]);
    const code = (i: number) => (i & 32 ? 15 - (i & 15) : i & 15);
    expect([...values]).toEqual(range(256, (i) => 0.5 * scale(i >> 5) * code(i) - 0.25 * minimum(i >> 5)));
  });

  it('Q5_K: the same with fifth bits by 32 elements', () => {
    const values = place('Q5_K', [
      [0, [...half(0.5), ...half(0.25)]],
      [4, packed(scale, minimum)],
      [16, repeat(32, 0b11001010)],
      [48, range(128, (j) => (j & 15) | ((15 - (j & 15)) << 4))],
    ]);
    const code = (i: number) => (i & 32 ? 15 - (i & 15) : i & 15) + 16 * ((0b11001010 >> (i >> 5)) & 1);
    expect([...values]).toEqual(range(256, (i) => 0.5 * scale(i >> 5) * code(i) - 0.25 * minimum(i >> 5)));
  });

  it('Q6_K: signed scales, 6-bit codes less 32', () => {
    const code = (i: number) => (7 * i + (i >> 3)) & 63;
    const low = range(128, (j) => {
      const first = 128 * (j >> 6) + (j & 63);
      return (code(first) & 15) | ((code(first + 64) & 15) << 4);
    });
    const high = range(64, (j) => {
      const first = 128 * (j >> 5) + (j & 31);
      return range(4, (row) => (code(first + 32 * row) >> 4) << (2 * row)).reduce((sum, bits) => sum | bits);
    });
    const values = place('Q6_K', [
      [0, low],
      [128, high],
      [192, range(16, (sub) => (9 * sub - 70) & 0xff)],
      [208, half(0.5)],
    ]);
    expect([...values]).toEqual(range(256, (i) => 0.5 * (9 * (i >> 4) - 70) * (code(i) - 32)));
  });

  it('IQ4_XS: levels of IQ4_NL with 6-bit scales', () => {
    const nibbles = range(16, (j) => j | ((15 - j) << 4));
    const levels = decode('IQ4_NL', Uint8Array.of(...half(1), ...nibbles));
    expect([...levels.subarray(0, 16)]).toEqual([...levels.subarray(16)].reverse());
    expect([levels[0], levels[8], levels[15]]).toEqual([-127, 1, 113]);
    const values = place('IQ4_XS', [
      [0, half(0.5)],
      [2, [0b11100100, 0b11100100]],
      [4, repeat(4, 0x52)],
      [8, repeat(8, ...nibbles)],
    ]);
    const sub = (i: number) => (i >> 5) & 1;
    const factor = (i: number) => 0.5 * ((sub(i) ? 5 : 2) + 16 * ((i >> 5) & 3) - 32);
    expect([...values]).toEqual(range(256, (i) => factor(i) * levels[i & 31]));
  });
});

describe('ternary blocks', () => {
  const values = Float32Array.from({ length: 256 }, (_, i) => 0.5 * (((i * i + (i >> 3)) % 3) - 1));

  it.each(['TQ1_0', 'TQ2_0'] as const)('%s keeps ternary values', (id) => {
    expect(decode(id, encode(id, values))).toEqual(values);
  });

  it('TQ1_0 has five digits a byte, TQ2_0 two bits an element', () => {
    const ones = new Float32Array(256).fill(1);
    expect([...encode('TQ1_0', ones)]).toEqual([...repeat(48, 255), ...repeat(4, 253), ...half(1)]);
    expect([...encode('TQ2_0', ones)]).toEqual([...repeat(64, 0b10101010), ...half(1)]);
    const last = new Float32Array(256);
    last[255] = -1;
    // 1111 in base 3 less the last digit: 117 of 243, so ceil(256 · 117 / 243).
    expect(encode('TQ1_0', last)[51]).toBe(124);
    expect(encode('TQ2_0', last)[63]).toBe(0b00010101);
  });

  it('rounds to the nearest of three', () => {
    const some = new Float32Array(256);
    some.set([1, 0.5, 0.49, -0.5, -0.49]);
    for (const id of ['TQ1_0', 'TQ2_0'] as const) {
      expect([...decode(id, encode(id, some)).subarray(0, 5)]).toEqual([1, 1, 0, -1, 0]);
    }
  });
});

describe('blocks of 4-bit floats', () => {
  const positive = [0, 0.5, 1, 1.5, 2, 3, 4, 6];
  const all = [...positive, ...positive.map((value) => -value)];
  const nibbles = range(16, (j) => j | (j << 4));

  it('MXFP4 has a power of two for a scale', () => {
    expect([...decode('MXFP4', Uint8Array.of(128, ...nibbles))].map((value) => value + 0)).toEqual(
      [...all, ...all].map((value) => 2 * value + 0),
    );
    expect(decode('MXFP4', Uint8Array.of(0, ...repeat(16, 1)))[0]).toBe(2 ** -128);
    expect(decode('MXFP4', Uint8Array.of(255, ...repeat(16, 1)))[0]).toBe(2 ** 127);
  });

  it('MXFP4 keeps its own values, prefers the smaller of two and clips beyond 6', () => {
    const values = Float32Array.from([...all, ...all], (value) => value / 4 + 0);
    expect(decode('MXFP4', encode('MXFP4', values))).toEqual(values);
    const others = new Float32Array(32);
    others.set([7.9, 0.25, -0.25, 2.5, -2.5, 5, -5, 0.26]);
    expect([...decode('MXFP4', encode('MXFP4', others)).subarray(0, 8)]).toEqual([6, 0, 0, 2, -2, 4, -4, 0.5]);
  });

  it('MXFP4 takes the smallest scale for values below it', () => {
    const values = new Float32Array(32).fill(2 ** -130);
    expect(encode('MXFP4', values)[0]).toBe(0);
    expect([...decode('MXFP4', encode('MXFP4', values.fill(-(2 ** -127))))]).toEqual(repeat(32, -(2 ** -127)));
  });

  it('NVFP4 has four e4m3 scales of 16 elements', () => {
    const bytes = Uint8Array.of(0x38, 0x01, 0x7e, 0x7f, ...repeat(4, ...range(8, (j) => j | ((j + 8) << 4))));
    const scales = [1, 2 ** -9, 448, 0];
    expect([...decode('NVFP4', bytes)].map((value) => value + 0)).toEqual(
      scales.flatMap((scale) => all.map((value) => scale * value + 0)),
    );
  });
});

describe('types with grids', () => {
  it.each([
    ['iq2xxs', iq2xxsGrid(), 256, 8, [8, 25, 43]],
    ['iq2xs', iq2xsGrid(), 512, 8, [8, 25, 43]],
    ['iq2s', iq2sGrid(), 1024, 8, [8, 25, 43]],
    ['iq3xxs', iq3xxsGrid(), 256, 4, [4, 12, 20, 28, 36, 44, 52, 62]],
    ['iq3s', iq3sGrid(), 512, 4, [1, 3, 5, 7, 9, 11, 13, 15]],
    ['iq1', iq1Grid(), 2048, 8, [-1, 0, 1]],
  ] as const)('%s has as many different points as an index can name', (_, grid, points, dimensions, levels) => {
    expect(grid.length).toBe(points * dimensions);
    const rows = new Set(
      range(points, (i) => i).map((i) => grid.subarray(i * dimensions, (i + 1) * dimensions).join()),
    );
    expect(rows.size).toBe(points);
    expect([...new Set(grid)].sort((a, b) => a - b)).toEqual([...levels]);
    expect([...grid.subarray(0, dimensions)]).toEqual(repeat(dimensions, levels[0]));
  });

  it('IQ2_XXS and IQ3_XXS complete seven signs to an even number', () => {
    const bytes = new Uint8Array(66);
    bytes.set([...half(1), 0, 0, 0, 0, 1, 0, 0, 0x10]);
    // Scale 1: (0.5 + 1) / 4 times the first point, all 8; signs 0000001 become 10000001.
    expect([...decode('IQ2_XXS', bytes).subarray(0, 16)]).toEqual([-3, 3, 3, 3, 3, 3, 3, -3, ...repeat(8, 3)]);
    const third = new Uint8Array(98);
    third.set(half(1));
    third.set([1, 0, 0, 0x10], 66);
    expect([...decode('IQ3_XXS', third).subarray(0, 16)]).toEqual([-3, 3, 3, 3, 3, 3, 3, -3, ...repeat(8, 3)]);
  });

  it('IQ2_XS, IQ2_S and IQ3_S have a scale in a nibble', () => {
    const xs = new Uint8Array(74);
    xs.set(half(1));
    xs.set([0x00, 0x06], 2);
    xs[66] = 0x21;
    expect([...decode('IQ2_XS', xs).subarray(0, 24)]).toEqual([-3, -3, ...repeat(14, 3), ...repeat(8, 5)]);
    const s = new Uint8Array(82);
    s.set(half(1));
    s[34] = 3;
    s[74] = 0x21;
    expect([...decode('IQ2_S', s).subarray(0, 24)]).toEqual([-3, -3, ...repeat(14, 3), ...repeat(8, 5)]);
    const third = new Uint8Array(110);
    third.set(half(1));
    third[74] = 0x81;
    third[106] = 0x21;
    expect([...decode('IQ3_S', third).subarray(0, 40)]).toEqual([
      -3,
      ...repeat(6, 3),
      -3,
      ...repeat(24, 3),
      ...repeat(8, 5),
    ]);
  });

  it('IQ2_S and IQ3_S have the high bits of indexes apart', () => {
    const s = new Uint8Array(82).fill(0xff);
    s.set(half(1));
    s.fill(0, 34, 66);
    expect([...decode('IQ2_S', s)]).toEqual(repeat(256, (15.5 / 4) * 43));
    const third = new Uint8Array(110).fill(0xff);
    third.set(half(1));
    third.fill(0, 74, 106);
    expect([...decode('IQ3_S', third).subarray(0, 4)]).toEqual(
      Array.from(iq3sGrid().subarray(-4), (level) => 31 * level),
    );
  });

  it('IQ1_S and IQ1_M move the grid by an eighth', () => {
    const s = new Uint8Array(50);
    s.set(half(1));
    s.set([0x00, 0x90], 34);
    expect([...decode('IQ1_S', s).subarray(0, 33)]).toEqual([...repeat(32, 3 * -1.125), -0.875]);
    const m = new Uint8Array(56);
    // The scale 1 is 0x3c00: nibbles 0, 0, c, 3 on top of the four words.
    m.set([0x01, 0x00, 0x00, 0x00, 0x00, 0xc0, 0x00, 0x30], 48);
    m[32] = 0x80;
    expect([...decode('IQ1_M', m).subarray(0, 17)]).toEqual([
      ...repeat(8, 3 * -0.875),
      ...repeat(8, 3 * -1.125),
      -0.875,
    ]);
  });
});
