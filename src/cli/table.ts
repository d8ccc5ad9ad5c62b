/** Tables in aligned columns that fit the terminal: long names lose their middle, numbers never lose digits. */
import { type Paint, printable, widthOf } from './style.ts';

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  /** Numbers are read from the right. Default `left`. */
  readonly align?: 'left' | 'right';
  /** May be shortened, there, when the table is too wide: names in the middle, sentences at the end. */
  readonly shrinks?: 'middle' | 'end';
  /** Left out, the rightmost first, where names would otherwise become unreadable. */
  readonly optional?: boolean;
  readonly paint?: (text: string, row: Row) => string;
}

export interface TableOptions {
  /** Columns of the terminal; without it nothing is shortened. */
  readonly width?: number | undefined;
  /** Spaces before each line. */
  readonly indent?: number;
  readonly title?: Paint;
}

const gap = '  ';
/** A column that shrinks keeps at least this, so that something of the name can be recognised. */
const minWidth = 10;
/** And this, as long as there are columns that may be left out instead. */
const readableWidth = 24;

/** The lines of the table, the titles first. */
export function table<Row>(rows: readonly Row[], all: readonly Column<Row>[], options: TableOptions = {}): string[] {
  const natural = (column: Column<Row>) =>
    Math.max(widthOf(column.title), ...rows.map((row) => widthOf(printable(column.value(row)))));
  const indent = ' '.repeat(options.indent ?? 0);
  const room = (options.width ?? Number.POSITIVE_INFINITY) - indent.length;
  const columns = fitting(all, all.map(natural), room);
  const widths = columns.map(natural);
  shrink(widths, columns, room - gap.length * (columns.length - 1));
  const cells = rows.map((row) => columns.map((column) => printable(column.value(row))));
  const pad = (text: string, index: number) => {
    const shortened = shorten(text, widths[index], columns[index].shrinks);
    const space = ' '.repeat(widths[index] - widthOf(shortened));
    if (columns[index].align === 'right') return space + shortened;
    return index === columns.length - 1 ? shortened : shortened + space;
  };
  const paintTitle = options.title ?? ((text) => text);
  const lines = [
    indent +
      paintTitle(
        columns
          .map((column, index) => pad(column.title, index))
          .join(gap)
          .trimEnd(),
      ),
  ];
  cells.forEach((line, at) => {
    const painted = line.map((text, index) => {
      const padded = pad(text, index);
      return columns[index].paint?.(padded, rows[at]) ?? padded;
    });
    lines.push((indent + painted.join(gap)).trimEnd());
  });
  return lines;
}

/** Without the optional columns that there is no room for. */
function fitting<Row>(all: readonly Column<Row>[], widths: readonly number[], room: number): readonly Column<Row>[] {
  const kept = all.map((column, index) => ({
    column,
    width: column.shrinks ? Math.min(widths[index], readableWidth) : widths[index],
  }));
  const needed = () => kept.reduce((sum, { width }) => sum + width, gap.length * (kept.length - 1));
  while (needed() > room) {
    const last = kept.findLastIndex(({ column }) => column.optional);
    if (last < 0) break;
    kept.splice(last, 1);
  }
  return kept.map(({ column }) => column);
}

/** Takes the excess from the widest columns that may shrink. */
function shrink(widths: number[], columns: readonly { readonly shrinks?: unknown }[], available: number): void {
  let excess = widths.reduce((sum, width) => sum + width, 0) - available;
  while (excess > 0) {
    let widest = -1;
    columns.forEach((column, index) => {
      if (!column.shrinks || widths[index] <= minWidth) return;
      if (widest < 0 || widths[index] > widths[widest]) widest = index;
    });
    if (widest < 0) return;
    widths[widest] -= 1;
    excess -= 1;
  }
}

/** `text` in at most `width` columns; its middle, or its end, gives way to `…`. */
export function shorten(text: string, width: number, where: 'middle' | 'end' = 'middle'): string {
  const characters = [...text];
  if (characters.length <= width) return text;
  if (width <= 1) return '…'.slice(0, width);
  const head = where === 'end' ? width - 1 : Math.ceil((width - 1) / 2);
  const tail = width - 1 - head;
  return `${characters.slice(0, head).join('')}…${tail > 0 ? characters.slice(-tail).join('') : ''}`;
}

/** Lines of at most `width` columns, broken at spaces. Without a width the text stays one line. */
export function wrap(text: string, width: number | undefined): string[] {
  if (width === undefined) return [text];
  const room = Math.max(width, 20);
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ').filter(Boolean)) {
    if (line !== '' && widthOf(line) + 1 + widthOf(word) > room) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
