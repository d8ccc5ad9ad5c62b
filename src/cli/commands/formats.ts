/** `halftone formats`: every number format, what it costs, how close it comes, and what executes it. */
import { type FormatRow, formatRows, kernelsOf, runsOn, shownBits } from '../format-rows.ts';
import { count, jsonText } from '../numbers.ts';
import { type Column, table } from '../table.ts';
import { printNotes, type Terminal } from '../terminal.ts';

export interface FormatsOptions {
  readonly json?: boolean;
}

/** Runs the command. */
export function formatsCommand(options: FormatsOptions, terminal: Terminal): void {
  const rows = formatRows();
  if (options.json) {
    terminal.print(jsonText({ formats: rows }));
    return;
  }
  const { style, width, print } = terminal;
  print(...table(rows, columns, { width, title: style.bold }));
  print('');
  printNotes(terminal, notes);
}

type Share = 'g32' | 'g128';

function ratio(share: Share, distribution: 'gaussian' | 'laplace', title: string): Column<FormatRow> {
  return {
    title,
    value: ({ sqnr }) => (sqnr[share] ?? (share === 'g32' ? sqnr.default : undefined))?.[distribution].toFixed(1) ?? '',
    align: 'right',
  };
}

const columns: readonly Column<FormatRow>[] = [
  { title: 'format', value: ({ id }) => id },
  { title: 'bits', value: ({ bitsPerWeight }) => shownBits(bitsPerWeight), align: 'right' },
  { title: 'levels', value: ({ levels }) => count(levels), align: 'right' },
  ratio('g32', 'gaussian', 'G g32'),
  ratio('g128', 'gaussian', 'g128'),
  ratio('g32', 'laplace', 'L g32'),
  ratio('g128', 'laplace', 'g128'),
  { title: 'runs natively on', value: runsOn, optional: true },
  { title: 'kernels', value: kernelsOf, optional: true },
  { title: 'what it is', value: ({ summary }) => summary, shrinks: 'end', optional: true },
];

const notes = [
  'bits: of a weight in the file, with its share of scales and zero points, when only the format is named (rows of 1024).',
  'G, L: signal to noise in dB, more is better, of numbers with a normal (Gaussian) and a Laplace distribution in blocks of 32 and of 128; formats without scales have one figure.',
  'runs natively on: where ONNX Runtime 1.30 has kernels that read the codes. n-bit and table: MatMul and Gemm, n-bit also Gather, in blocks of 16, 32 … 256; integer: also Conv and LSTM, a scale per channel or tensor. All else is turned into a float constant when the file is loaded: float speed, float memory.',
  'docs/formats.md tells how to choose, and shows the levels of each.',
];
