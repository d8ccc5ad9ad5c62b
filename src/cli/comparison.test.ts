import { describe, expect, it } from 'vitest';
import { isHalftoneError } from '../base/errors.ts';
import type { Comparison } from '../pipeline/compare.ts';
import { distinct, enforce, judgeBy, printComparison } from './comparison.ts';
import { createTerminal } from './terminal.ts';

const errors = { cosine: 0.99, maxError: 0.5, meanError: 0.1, count: 10, nonFinite: 0, referenceNonFinite: 0 };
const comparison = (sqnr: readonly number[], collapsed?: Comparison['collapsed']): Comparison => ({
  samples: 4,
  data: 'data.npz',
  synthetic: false,
  floatBytes: 1000,
  quantizedBytes: 250,
  runtime: 'onnxruntime-node 1.30.0',
  outputs: sqnr.map((value, index) => ({ tensor: `out${index}`, sqnr: value, ...errors })),
  layers: [],
  notes: [],
  ...(collapsed ? { collapsed } : {}),
});

describe('a gate', () => {
  it('is judged by the worst output', () => {
    expect(judgeBy(20, comparison([30, 20]))).toMatchObject({ passed: true, sqnr: 20 });
    const failed = judgeBy(20, comparison([30, 19.9]));
    expect(failed).toMatchObject({ passed: false, sqnr: 19.9 });
    expect(failed.because).toContain('out1');
  });

  it('does not let a collapsed model pass, nor one that cannot be measured', () => {
    const collapsed = { message: 'The quantized model has collapsed: it begins at Conv "c".', layer: 'c' };
    expect(judgeBy(-5, comparison([1], collapsed))).toMatchObject({ passed: false, because: collapsed.message });
    expect(judgeBy(-5, comparison([]))).toMatchObject({ passed: false });
    expect(judgeBy(-5, comparison([30, Number.NaN])).because).toContain('the float model itself gave only NaN');
    expect(judgeBy(-5, comparison([Number.NEGATIVE_INFINITY]))).toMatchObject({ passed: false });
  });

  it('ends in an accuracy error', () => {
    const gate = judgeBy(20, comparison([10]));
    expect(() => enforce(gate, '; nothing was written')).toThrowError(
      expect.toSatisfy((error: unknown) => isHalftoneError(error, 'accuracy')),
    );
    expect(() => enforce(judgeBy(5, comparison([10])), '')).not.toThrow();
  });
});

describe('printComparison', () => {
  it('shouts when the model collapsed or made values that are not finite', () => {
    let text = '';
    const screen = { write: (part: string) => (text += part) };
    const terminal = createTerminal(screen, screen, { FORCE_COLOR: '1' }, new AbortController().signal);
    const base = comparison([Number.NEGATIVE_INFINITY], { message: 'The quantized model has collapsed: here.' });
    const broken = { ...base, outputs: base.outputs.map((output) => ({ ...output, nonFinite: 3 })) };
    printComparison(broken, 'Compared', false, terminal);
    expect(text).toContain('\u001b[31m  out0: 3 values became infinite or NaN');
    expect(text).toContain('\u001b[31mThe quantized model has collapsed: here.');
  });
});

describe('distinct', () => {
  it('keeps the first of layers that carry the same values', () => {
    const layer = (tensor: string, position: number, sqnr: number, maxError: number) => ({
      ...errors,
      tensor,
      op: 'Reshape',
      position,
      sqnr,
      maxError,
    });
    const layers = [layer('reshaped', 3, 10, 1), layer('made', 2, 10.0000001, 1), layer('other', 1, 10, 2)];
    expect(distinct(layers).map(({ tensor }) => tensor)).toEqual(['made', 'other']);
  });
});
