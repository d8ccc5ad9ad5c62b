/** Formats by id, and schemes as text. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../base/errors.ts';
import { dtypes } from '../tensor/dtype.ts';
import { formatIds, formatOf, formats, intFormatOf } from './index.ts';
import { createCodes, parameterIndex, parameterLayout } from './quantized.ts';
import { checkScheme, formatScheme, needsWholeTensor, parseScheme, type ScaleType, type Scheme } from './scheme.ts';

describe('formats', () => {
  it('have unique ids, and the widths of the element types of the same name', () => {
    expect(new Set(formatIds).size).toBe(formats.length);
    for (const { id, bits } of formats) {
      if (id in dtypes) expect(bits).toBe(dtypes[id as keyof typeof dtypes].bits);
    }
  });

  it('know their codes', () => {
    expect(formatOf('int4')).toMatchObject({ kind: 'int', id: 'int4', bits: 4, signed: true, min: -8, max: 7 });
    expect(formatOf('uint16')).toMatchObject({ min: 0, max: 65535 });
    expect(formatOf('int1')).toMatchObject({ min: 0, max: 1 });
    for (const format of formats) {
      if (format.kind === 'int') expect(format.max - format.min + 1).toBe(2 ** format.bits);
    }
  });

  it('refuse unknown ids by listing the known ones', () => {
    expect(() => formatOf('int9')).toThrow(
      /^format: expected one of int1, int2, .*, quantile8, got "int9"; `halftone formats` tells/,
    );
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
    expect(of('ternary')).toBe('ternary:g32:sym');
    expect(of('nf4')).toBe('nf4:g32');
    expect(of('float8e4m3fn')).toBe('float8e4m3fn:channel');
    expect(of('kmeans4:tensor')).toBe('kmeans4:tensor');
    expect(of('binary2:g64:scale8')).toBe('binary2:g64:scale8');
    expect(parseScheme('kmeans4:tensor').scaleType).toBe('float32');
    expect(parseScheme('kmeans4:channel').scaleType).toBe('float16');
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
    ['nf4:asym', 'scheme nf4: expected no asym, which only integer formats have, got asym'],
    ['kmeans4:float-zero', 'expected no zero point'],
    ['ternary:asym', 'expected sym, since its levels are'],
    ['mxfp4:channel', 'expected at most a block size after mxfp4, got ":channel"; float4e2m1 takes more'],
    ['mxfp4:scale16', 'expected at most a block size'],
    ['nf4:channel:scale8', 'expected a block size with scale8, whose factor serves many scales, got channel'],
    ['int4:asym:scale-e8m0', 'expected sym with scales of few digits'],
    ['int4:asym:float-zero:scale8', 'expected scale32 or scale16 with a float zero point, got scale8'],
    ['kmeans4:channel:scale-e8m0', 'expected a codebook in float32 or float16'],
    ['int16:g32:scale8', 'expected scale32 or scale16 with 16 bits'],
  ])('refuses "%s"', (text, message) => {
    expect(() => parseScheme(text)).toThrow(message);
    expect(() => parseScheme(text)).toThrow(HalftoneError);
  });

  it('is undone by formatScheme, for every scheme', () => {
    const scheme = fc
      .record({
        format: fc.constantFrom(...formatIds.filter((id) => formatOf(id).kind !== 'float')),
        granularity: fc.oneof(
          fc.constant({ kind: 'tensor' } as const),
          fc.constant({ kind: 'channel' } as const),
          fc.record({ kind: fc.constant('block' as const), size: fc.integer({ min: 2, max: 65536 }) }),
        ),
        symmetric: fc.boolean(),
        scaleType: fc.constantFrom<ScaleType>('float16', 'float32', 'int8', 'float8e8m0', 'float8e4m3fn'),
        zeroPointType: fc.constantFrom('integer' as const, 'float' as const),
      })
      .map((drawn): Scheme => {
        const format = formatOf(drawn.format);
        if (format.kind !== 'int') return { ...drawn, symmetric: true, zeroPointType: 'integer' };
        if (format.bits === 1) return { ...drawn, zeroPointType: 'float' };
        return drawn.symmetric ? { ...drawn, zeroPointType: 'integer' } : drawn;
      });
    const isValid = (drawn: Scheme) => {
      try {
        checkScheme(drawn);
        return true;
      } catch {
        return false;
      }
    };
    fc.assert(
      fc.property(scheme.filter(isValid), (drawn) => {
        expect(parseScheme(formatScheme(drawn))).toEqual(drawn);
      }),
    );
  });

  it('knows schemes by their names', () => {
    expect(parseScheme('mxfp4')).toEqual(parseScheme('float4e2m1:g32:scale-e8m0'));
    expect(parseScheme('mxint8')).toEqual(parseScheme('int8:g32:sym:scale-e8m0'));
    expect(parseScheme('nvfp4')).toEqual(parseScheme('float4e2m1:g16:scale-e4m3'));
    expect(formatScheme(parseScheme('mxfp6e3m2:g64'))).toBe('mxfp6e3m2:g64');
  });

  it('says which need the whole tensor', () => {
    const whole = ['int4:tensor', 'nvfp4', 'kmeans4:g32', 'kmeans4:tensor'];
    const parts = ['int4:g32', 'mxfp4', 'kmeans4:channel', 'nf4:g64:scale8', 'binary2'];
    expect(whole.map((text) => needsWholeTensor(parseScheme(text)))).toEqual(whole.map(() => true));
    expect(parts.map((text) => needsWholeTensor(parseScheme(text)))).toEqual(parts.map(() => false));
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
