/** Formats by id, and schemes as text. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../base/errors.ts';
import { dtypes } from '../tensor/dtype.ts';
import { formatIds, formatOf, formats, intFormatOf } from './index.ts';
import { createCodes, parameterIndex, parameterLayout } from './quantized.ts';
import { checkScheme, formatScheme, parseScheme, type Scheme } from './scheme.ts';

describe('formats', () => {
  it('have unique ids, and the widths of the element types of the same name', () => {
    expect(new Set(formatIds).size).toBe(formats.length);
    for (const { id, bits } of formats) {
      if (id in dtypes) expect(bits).toBe(dtypes[id as keyof typeof dtypes].bits);
    }
  });

  it('know their codes', () => {
    expect(formatOf('int4')).toEqual({ kind: 'int', id: 'int4', bits: 4, signed: true, min: -8, max: 7 });
    expect(formatOf('uint16')).toMatchObject({ min: 0, max: 65535 });
    expect(formatOf('int1')).toMatchObject({ min: 0, max: 1 });
    for (const format of formats) {
      if (format.kind === 'int') expect(format.max - format.min + 1).toBe(2 ** format.bits);
    }
  });

  it('refuse unknown ids by listing the known ones', () => {
    expect(() => formatOf('int9')).toThrow(/^format: expected one of int1, int2, .*, bfloat16, got "int9"$/);
    expect(() => intFormatOf('float16')).toThrow('format: expected an integer format, got "float16"');
  });

  it('store codes in arrays that hold them', () => {
    for (const format of formats) {
      if (format.kind !== 'int') continue;
      const codes = createCodes(format, 2);
      codes[0] = format.min;
      codes[1] = format.max;
      expect(Array.from(codes)).toEqual([format.min, format.max]);
    }
  });
});

describe('parseScheme', () => {
  it('fills in what is not said', () => {
    const of = (text: string) => formatScheme(parseScheme(text));
    expect(of('int8')).toBe('int8:channel:sym');
    expect(of('uint8')).toBe('uint8:channel:asym');
    expect(of('int16')).toBe('int16:channel:sym');
    expect(of('int4')).toBe('int4:g32:asym');
    expect(of('uint4')).toBe('uint4:g32:asym');
    expect(of('int2:sym')).toBe('int2:g32:sym');
    expect(of('int1')).toBe('int1:g32:sym');
    expect(of('uint1')).toBe('uint1:g32:asym');
    expect(of('float16')).toBe('float16');
    expect(parseScheme('int4')).toMatchObject({ scaleType: 'float16', zeroPointType: 'integer' });
    expect(parseScheme('int4:channel').scaleType).toBe('float32');
    expect(parseScheme('int1').zeroPointType).toBe('float');
    expect(parseScheme('int3:asym:float-zero:scale32')).toMatchObject({ scaleType: 'float32', zeroPointType: 'float' });
  });

  it.each([
    ['int9', 'format: expected one of'],
    ['int4:g1', 'expected a block size g2 … g65536, got "g1"'],
    ['int4:g65537', 'got "g65537"'],
    ['int4:g3.5', 'got "g3.5"'],
    ['int4:g-8', 'got "g-8"'],
    ['int4:sym:asym', 'expected each option once'],
    ['int4:g32:tensor', 'expected each option once'],
    ['int4:fast', 'expected FORMAT[:tensor|:channel|:gN]'],
    ['int4:', 'got ":"'],
    ['int4:sym:float-zero', 'expected asym with a float zero point'],
    ['float16:g32', 'expected no options after float16'],
  ])('refuses "%s"', (text, message) => {
    expect(() => parseScheme(text)).toThrow(message);
    expect(() => parseScheme(text)).toThrow(HalftoneError);
  });

  it('is undone by formatScheme, for every scheme', () => {
    const scheme = fc
      .record({
        format: fc.constantFrom(...formatIds.filter((id) => !id.includes('float'))),
        granularity: fc.oneof(
          fc.constant({ kind: 'tensor' } as const),
          fc.constant({ kind: 'channel' } as const),
          fc.record({ kind: fc.constant('block' as const), size: fc.integer({ min: 2, max: 65536 }) }),
        ),
        symmetric: fc.boolean(),
        scaleType: fc.constantFrom('float16' as const, 'float32' as const),
        zeroPointType: fc.constantFrom('integer' as const, 'float' as const),
      })
      .map((drawn): Scheme => {
        if (formatOf(drawn.format).bits === 1) return { ...drawn, zeroPointType: 'float' };
        return drawn.symmetric ? { ...drawn, zeroPointType: 'integer' } : drawn;
      });
    fc.assert(
      fc.property(scheme, (drawn) => {
        expect(parseScheme(formatScheme(drawn))).toEqual(drawn);
      }),
    );
  });

  it('checks schemes that come from elsewhere', () => {
    const base = parseScheme('int4');
    expect(() => checkScheme({ ...base, granularity: { kind: 'block', size: 1.5 } })).toThrow('got 1.5');
    expect(() => checkScheme({ ...base, format: 'uint1' })).toThrow('expected a float zero point');
  });
});

describe('parameters', () => {
  it('lie row by row, the last block of a row short', () => {
    const scheme = parseScheme('int4:g32');
    expect(parameterLayout(scheme, 3, 70)).toEqual({ blockSize: 32, perRow: 3, count: 9 });
    expect(parameterLayout(parseScheme('int4:channel'), 3, 70)).toEqual({ blockSize: 70, perRow: 1, count: 3 });
    expect(parameterLayout(parseScheme('int4:tensor'), 3, 70)).toEqual({ blockSize: 70, perRow: 0, count: 1 });
    expect(() => parameterLayout(scheme, 0, 5)).toThrow('expected at least one row and one column, got 0×5');
    const matrix = {
      scheme,
      rows: 3,
      columns: 70,
      codes: new Int8Array(210),
      blockSize: 32,
      scales: new Float32Array(9),
      zeroPoints: new Float32Array(9),
    };
    expect([parameterIndex(matrix, 0, 31), parameterIndex(matrix, 0, 32), parameterIndex(matrix, 2, 69)]).toEqual([
      0, 1, 8,
    ]);
  });
});
