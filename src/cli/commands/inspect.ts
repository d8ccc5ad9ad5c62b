/** `halftone inspect`: what a model is made of. */
import { readModel } from '../../files/onnx/node.ts';
import { type InspectedValue, type InspectedWeight, type Inspection, inspect } from '../../pipeline/inspect.ts';
import { bytes, count, jsonText, measure, plural } from '../numbers.ts';
import { widthOf } from '../style.ts';
import { type Column, table } from '../table.ts';
import type { Terminal } from '../terminal.ts';

export interface InspectOptions {
  readonly verbose?: boolean;
  readonly json?: boolean;
}

/** Weights listed without `--verbose`. */
const shownWeights = 20;

/** Runs the command. @throws HalftoneError as `readModel`. */
export async function inspectCommand(path: string, options: InspectOptions, terminal: Terminal): Promise<void> {
  const inspection = inspect(readModel(path));
  if (options.json) {
    terminal.print(jsonText({ model: path, ...inspection }));
    return;
  }
  printInspection(path, inspection, options.verbose === true, terminal);
}

function printInspection(path: string, inspection: Inspection, verbose: boolean, terminal: Terminal): void {
  const { style, width, print } = terminal;
  const domains = Object.entries(inspection.domains).map(([domain, version]) => `${domain} ${version}`);
  const facts: [string, string][] = [
    ['file', `${bytes(inspection.bytes)}, ONNX IR ${inspection.irVersion}, opset ${domains.join(', ')}`],
    ...(inspection.producer ? [['made by', inspection.producer] satisfies [string, string]] : []),
    ['parameters', `${count(inspection.parameters)} (${bytes(inspection.weightBytes)} of tensors)`],
    ...inspection.inputs.map((value) => ['input', describeValue(value)] satisfies [string, string]),
    ...inspection.outputs.map((value) => ['output', describeValue(value)] satisfies [string, string]),
  ];
  if (inspection.quantized.length > 0) {
    const list = inspection.quantized.map(([op, times]) => `${times} ${op}`).join(', ');
    facts.push(['quantized', `already: ${list}`]);
  }
  print(style.bold(path));
  print(
    ...table(
      facts,
      [
        { title: '', value: ([name]) => name, paint: (text) => style.dim(text) },
        { title: '', value: ([, text]) => text, shrinks: 'middle' },
      ],
      { width, indent: 2 },
    ).slice(1),
  );
  const operators = inspection.operators.map(([op, times]) => `${op} ${style.dim(`×${times}`)}`);
  print('', style.bold(`Operators (${plural(inspection.nodes, 'node')})`), ...columnsOf(operators, width));

  const { weights } = inspection;
  if (weights.length === 0) return;
  const shown = verbose ? weights : weights.slice(0, shownWeights);
  print('', style.bold(`Weights (${plural(weights.length, 'float tensor')})`));
  print(...table(shown, weightColumns(inspection.weightBytes), { width, indent: 2, title: style.dim }));
  if (shown.length < weights.length) {
    const rest = weights.slice(shown.length);
    const sum = rest.reduce((total, weight) => total + weight.bytes, 0);
    print(style.dim(`  … and ${plural(rest.length, 'smaller tensor')} (${bytes(sum)}); --verbose lists them`));
  }
  const broken = weights.filter((weight) => weight.nonFinite > 0);
  for (const weight of broken) {
    print(style.red(`  ${weight.tensor} holds ${plural(weight.nonFinite, 'value')} that are infinite or NaN`));
  }
}

function weightColumns(total: number): Column<InspectedWeight>[] {
  return [
    { title: 'tensor', value: (weight) => weight.tensor, shrinks: 'middle' },
    { title: 'shape', value: ({ shape }) => `[${shape.join(',')}]` },
    { title: 'type', value: ({ dtype }) => dtype, optional: true },
    { title: 'kind', value: ({ kind }) => kind, optional: true },
    { title: 'used by', value: ({ users }) => usersOf(users), shrinks: 'middle', optional: true },
    { title: 'bytes', value: (weight) => count(weight.bytes), align: 'right' },
    { title: 'share', value: (weight) => `${((weight.bytes / total) * 100).toFixed(1)} %`, align: 'right' },
    { title: 'min', value: ({ min }) => measure(min), align: 'right' },
    { title: 'max', value: ({ max }) => measure(max), align: 'right' },
  ];
}

function usersOf(users: readonly string[]): string {
  return users.length === 1 ? users[0] : `${users[0] ?? 'nothing'} +${users.length - 1}`;
}

function describeValue({ name, dtype, shape }: InspectedValue): string {
  const dimensions = shape === undefined ? '?' : shape.map((dimension) => dimension ?? '?').join(',');
  return `${name} ${dtype ?? '?'}[${dimensions}]`;
}

/** Texts side by side, as many as fit. */
function columnsOf(texts: readonly string[], width: number | undefined): string[] {
  const room = (width ?? 100) - 2;
  const lines: string[] = [];
  let line = '';
  for (const text of texts) {
    if (line !== '' && widthOf(line) + 3 + widthOf(text) > room) {
      lines.push(line);
      line = text;
    } else {
      line = line === '' ? text : `${line}   ${text}`;
    }
  }
  return [...lines, line].map((each) => `  ${each}`);
}
