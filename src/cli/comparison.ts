/** Prints a comparison of two models, and judges it against the gate that the user set. */
import { HalftoneError } from '../base/errors.ts';
import type { Comparison, LayerError } from '../pipeline/compare.ts';
import { decibels, measure, milliseconds, percent, plural } from './numbers.ts';
import { printable } from './style.ts';
import { type Column, table, wrap } from './table.ts';
import type { Terminal } from './terminal.ts';

/** Layers listed without `--verbose`. */
const shownLayers = 5;

/** The output with the most noise, in dB; NaN when of some output nothing is known, undefined when none holds floats. */
export function worstSqnr(comparison: Comparison): number | undefined {
  const values = comparison.outputs.map((output) => output.sqnr);
  return values.length === 0 ? undefined : Math.min(...values);
}

/** What a gate of `minSqnr` dB says. */
export interface Gate {
  readonly minSqnr: number;
  readonly sqnr: number | undefined;
  readonly passed: boolean;
  readonly because?: string;
}

/** Judges a comparison by `--min-sqnr`. */
export function judgeBy(minSqnr: number, comparison: Comparison): Gate {
  const sqnr = worstSqnr(comparison);
  const reason = () => {
    if (sqnr === undefined) return 'no output holds floats, so there is nothing to measure';
    if (Number.isNaN(sqnr)) {
      const output = comparison.outputs.find((candidate) => Number.isNaN(candidate.sqnr));
      return `the float model itself gave only NaN or infinite values in output "${output?.tensor}"`;
    }
    if (sqnr < minSqnr) {
      const output = comparison.outputs.find((candidate) => candidate.sqnr === sqnr);
      return `output "${output?.tensor}" has ${decibels(sqnr)}`;
    }
    return comparison.collapsed?.message;
  };
  const because = reason();
  return { minSqnr, sqnr, passed: because === undefined, ...(because === undefined ? {} : { because }) };
}

/** @throws HalftoneError `accuracy` when the gate is not passed. */
export function enforce(gate: Gate | undefined, consequence: string): void {
  if (!gate || gate.passed) return;
  throw new HalftoneError(
    'accuracy',
    `accuracy: expected outputs of at least ${gate.minSqnr} dB, got: ${gate.because}${consequence}`,
  );
}

/** Prints the comparison. `title` says on what it was made. */
export function printComparison(comparison: Comparison, title: string, verbose: boolean, terminal: Terminal): void {
  const { style, width, print } = terminal;
  print('', `${style.bold(title)} ${style.dim(`(${comparison.runtime})`)}`);
  type Output = Comparison['outputs'][number];
  const outputs: Column<Output>[] = [
    { title: 'output', value: ({ tensor }) => tensor, shrinks: 'middle' },
    { title: 'SQNR', value: ({ sqnr }) => decibels(sqnr), align: 'right' },
    { title: 'cosine', value: ({ cosine }) => cosine.toFixed(5), align: 'right' },
    { title: 'max error', value: ({ maxError }) => measure(maxError), align: 'right' },
  ];
  if (comparison.outputs.length > 0)
    print(...table(comparison.outputs, outputs, { width, indent: 2, title: style.dim }));
  for (const { tensor, nonFinite } of comparison.outputs) {
    if (nonFinite > 0) print(style.red(`  ${printable(tensor)}: ${plural(nonFinite, 'value')} became infinite or NaN`));
  }

  for (const note of comparison.notes) {
    const [first, ...rest] = wrap(printable(note), width === undefined ? undefined : width - 2);
    print(...[first, ...rest].map((line) => style.yellow(`  ${line}`)));
  }

  const { agreement, latency } = comparison;
  if (agreement) {
    const top5 = agreement.top5 === undefined ? '' : `, among the best five ${percent(agreement.top5)}`;
    print(`  same best class  ${percent(agreement.top1)}${top5}  ${style.dim(`(${plural(agreement.rows, 'row')})`)}`);
    if (agreement.floatAccuracy !== undefined && agreement.quantizedAccuracy !== undefined) {
      const change = (agreement.quantizedAccuracy - agreement.floatAccuracy) * 100;
      const points = `${change > 0 ? '+' : change < 0 ? '−' : ''}${Math.abs(change).toFixed(1)} points`;
      print(
        `  accuracy         float ${percent(agreement.floatAccuracy)}, quantized ${percent(agreement.quantizedAccuracy)} (${points})`,
      );
    }
  }
  if (latency) {
    const { float, quantized, speedup, runs, batch } = latency;
    const change =
      speedup >= 1 ? style.green(`${speedup.toFixed(2)}× faster`) : style.yellow(`${(1 / speedup).toFixed(2)}× slower`);
    print(
      `  latency          float ${milliseconds(float)}, quantized ${milliseconds(quantized)}: ${change}  ${style.dim(`(median of ${runs}, batch ${batch})`)}`,
    );
  }
  const layers = verbose ? comparison.layers : distinct(comparison.layers).slice(0, shownLayers);
  if (layers.length > 0) {
    print(
      '',
      style.bold(
        verbose ? 'Layers, worst first' : `Worst ${plural(layers.length, 'layer')} of ${comparison.layers.length}`,
      ),
    );
    print(...table(layers, layerColumns(terminal), { width, indent: 2, title: style.dim }));
  }
  if (comparison.collapsed) {
    print('', ...wrap(printable(comparison.collapsed.message), width).map(style.red));
  }
  if (comparison.synthetic) {
    print('', style.yellow('The samples were made up: how accurate the model is on real data is unknown.'));
  }
}

/** Without layers that only pass on or rearrange the values of another one: of those with equal errors the first stays. */
export function distinct(layers: readonly LayerError[]): LayerError[] {
  const same = (a: LayerError, b: LayerError) => a.maxError === b.maxError && Math.abs(a.sqnr - b.sqnr) < 1e-3;
  return layers.filter((layer) => !layers.some((other) => other.position < layer.position && same(other, layer)));
}

function layerColumns({ style }: Terminal): Column<LayerError>[] {
  return [
    { title: 'layer', value: ({ tensor }) => tensor, shrinks: 'middle' },
    { title: 'operator', value: ({ op }) => op },
    {
      title: 'SQNR',
      value: ({ sqnr }) => decibels(sqnr),
      align: 'right',
      paint: (text, { sqnr }) => (sqnr < 6 ? style.red(text) : sqnr < 12 ? style.yellow(text) : text),
    },
    { title: 'cosine', value: ({ cosine }) => cosine.toFixed(5), align: 'right' },
    { title: 'max error', value: ({ maxError }) => measure(maxError), align: 'right' },
  ];
}
