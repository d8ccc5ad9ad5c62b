/** Levels and bits of formats against closed forms. */
import { describe, expect, it } from 'vitest';
import { halfToFloat } from '../tensor/half.ts';
import { formatOf, formats } from './index.ts';
import { parseScheme } from './scheme.ts';
import { bitsPerWeight, levelCount, levelsIn } from './size.ts';

describe('levels', () => {
  it.each([
    ['int1', [-0.5, 0.5]],
    ['int2', [-2, -1, 0, 1]],
    ['uint2', [-2, -1, 0, 1]],
    ['ternary', [-1, 0, 1]],
    ['pot3', [-1, -0.5, -0.25, 0, 0.25, 0.5, 1]],
    ['float4e2m1', [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]],
  ])('of %s are %j', (id, levels) => {
    expect(Array.from(levelsIn(formatOf(id))!, (level) => level + 0)).toEqual(levels);
  });

  // Codes without NaN, infinities and minus zero: onnx, technical/float8.md; IEEE 754.
  it.each([
    ['float8e4m3fn', 253],
    ['float8e5m2', 247],
    ['float8e4m3fnuz', 255],
    ['float8e5m2fnuz', 255],
    ['float16', 2 ** 16 - 2 * 2 ** 10 - 1],
    ['bfloat16', 2 ** 16 - 2 * 2 ** 7 - 1],
    ['int16', 2 ** 16],
    ['kmeans3', 8],
    ['binary3', 8],
  ])('%s has %i', (id, count) => {
    expect(levelCount(formatOf(id))).toBe(count);
  });

  it('ascend, each once', () => {
    for (const format of formats) {
      const levels = levelsIn(format);
      if (!levels) continue;
      for (let i = 1; i < levels.length; i++) if (!(levels[i - 1] < levels[i])) expect.fail(`${format.id}: ${i}`);
    }
    expect(levelsIn(formatOf('float16'))).toContain(halfToFloat(0x3555));
  });
});

describe('bits of a weight', () => {
  it.each([
    ['int4:g32:asym', 4 + 16 / 32 + 4 / 32],
    ['int4:g32:sym', 4.5],
    ['int4:g32:asym:scale8', 4 + 8 / 32 + 4 / 32 + 32 / 1024],
    ['int3:g64:asym', 3 + 16 / 64 + 3 / 64],
    ['int4:g32:asym:float-zero', 5],
    ['int8', 8 + 32 / 1024],
    ['uint8', 8 + 40 / 1024],
    ['int8:tensor', 8],
    ['int1', 1.5],
    ['uint1', 2],
    ['ternary', 1.6 + 0.5],
    ['binary2', 2 + 32 / 32],
    ['binary3:g128', 3 + 48 / 128],
    ['kmeans4', 4.5],
    ['kmeans4:tensor', 4],
    ['kmeans4:channel', 4 + (16 * 16) / 1024],
    ['nvfp4', 4.5],
    ['mxfp4', 4.25],
    ['mxint8', 8.25],
    ['float16', 16],
  ])('%s: %d', (text, bits) => {
    expect(bitsPerWeight(parseScheme(text))).toBeCloseTo(bits, 10);
  });

  it('count a short row as one block', () => {
    expect(bitsPerWeight(parseScheme('int4:g64:sym'), 16)).toBe(5);
    expect(bitsPerWeight(parseScheme('int8'), 64)).toBe(8.5);
  });
});
