import { describe, expect, it } from 'vitest';
import { widthOf } from './style.ts';
import { type Column, shorten, table, wrap } from './table.ts';

interface Row {
  readonly name: string;
  readonly size: number;
}
const columns: Column<Row>[] = [
  { title: 'name', value: ({ name }) => name, shrinks: 'middle' },
  { title: 'size', value: ({ size }) => String(size), align: 'right' },
];
const rows: Row[] = [
  { name: 'a', size: 12345 },
  { name: 'encoder/layer.0/attention/self/query/MatMul', size: 7 },
];

describe('table', () => {
  it('aligns text left and numbers right', () => {
    expect(table([rows[0], { name: 'long', size: 1 }], columns, { indent: 2 })).toEqual([
      '  name   size',
      '  a     12345',
      '  long      1',
    ]);
  });

  it('fits the width by taking the middle out of names, never digits', () => {
    for (const width of [20, 30, 47]) {
      const lines = table(rows, columns, { width, indent: 2 });
      for (const line of lines) expect(widthOf(line)).toBeLessThanOrEqual(width);
      expect(lines[1]).toMatch(/12345$/);
      expect(lines[2]).toMatch(/^ {2}enc.*….*Mul +7$/);
    }
    expect(table(rows, columns)[2]).toContain(rows[1].name);
  });

  it('leaves optional columns out before names become unreadable', () => {
    const optional = columns.map((column) => (column.title === 'size' ? { ...column, optional: true } : column));
    expect(table(rows, optional, { width: 40 })[0]).toMatch(/size$/);
    expect(table(rows, optional, { width: 26 })[0]).toBe('name');
    expect(table(rows, columns, { width: 26 })[0]).toMatch(/size$/);
  });

  it('lets no control character of a name through', () => {
    const lines = table([{ name: 'red\u001b[31m\r', size: 1 }], columns);
    expect(lines[1]).toBe('red\\x1b[31m\\x0d     1');
  });

  it('pads by what is seen, not by the codes of colours', () => {
    const painted = table(rows.slice(0, 1), [
      { ...columns[0], paint: (text) => `\u001b[31m${text}\u001b[39m` },
      columns[1],
    ]);
    expect(painted[1]).toBe('\u001b[31ma   \u001b[39m  12345');
  });
});

describe('shorten', () => {
  it.each([
    ['abcdefgh', 8, 'abcdefgh'],
    ['abcdefgh', 7, 'abc…fgh'],
    ['abcdefgh', 4, 'ab…h'],
    ['abcdefgh', 2, 'a…'],
    ['abcdefgh', 1, '…'],
    ['abcdefgh', 0, ''],
  ])('%s to %i', (text, width, short) => {
    expect(shorten(text, width)).toBe(short);
  });
});

it('shorten may cut at the end', () => {
  expect(shorten('abcdefgh', 4, 'end')).toBe('abc…');
});

describe('wrap', () => {
  it('breaks at spaces and keeps every word', () => {
    const text = 'First, last and depthwise layers keep 8 bits because low widths do most damage there';
    const lines = wrap(text, 30);
    expect(lines.length).toBeGreaterThan(2);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(30);
    expect(lines.join(' ')).toBe(text);
    expect(wrap(text, undefined)).toEqual([text]);
  });
});
