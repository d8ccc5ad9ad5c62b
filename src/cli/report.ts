/** Prints what a quantization did: the short account, and with `--verbose` every weight. */
import type { WrittenFiles } from '../files/onnx/write-files.ts';
import type { LoweringId } from '../lowerings/index.ts';
import { correctionIds, solverSettings } from '../pipeline/presets.ts';
import type { Report, StageResult } from '../pipeline/report.ts';
import { bytes, plural, ratio } from './numbers.ts';
import { describeActivations, printWeights, weightsOf } from './plan.ts';
import { printable } from './style.ts';
import { wrap } from './table.ts';
import { printNotes, type Terminal } from './terminal.ts';

export interface Account {
  /** The model that was read. */
  readonly path: string;
  readonly report: Report;
  /** Undefined when the gate kept the result from being written. */
  readonly written: WrittenFiles | undefined;
  /** Notes beside those of the report. */
  readonly notes: readonly string[];
  readonly verbose: boolean;
}

const stageWidth = Math.max(...[...solverSettings, ...correctionIds].map(({ length }) => length));

/** Prints the account. */
export function printReport({ path, report, written, notes, verbose }: Account, terminal: Terminal): void {
  const { style, print, width } = terminal;
  print(style.bold(`${path} → ${written ? written.paths.join(' + ') : 'nothing written'}`));
  const fact = (name: string, text: string) => {
    const [first, ...rest] = wrap(printable(text), width === undefined ? undefined : width - 15);
    print(`  ${style.dim(name.padEnd(12))} ${first}`, ...rest.map((line) => `${' '.repeat(15)}${line}`));
  };
  const { done, left } = summarizeWeights(report);
  fact('weights', done);
  for (const line of left) fact('', line);
  if (report.plan.activations.length > 0) fact('activations', describeActivations(report.plan));
  else if (report.plan.recipe.activations === 'dynamic') fact('activations', 'quantized while the model runs');
  else if (report.plan.recipe.activations === 'float16') fact('activations', 'float16');
  if (report.calibration) {
    const { data, samples, synthetic } = report.calibration;
    fact('samples', `${samples} of ${data}${synthetic ? ' (made up: accuracy is unknown)' : ''}`);
  }
  // What found nothing to do is in the report.
  const stages = (report.stages ?? []).filter(({ changed, left }) => changed > 0 || left.length > 0);
  for (const [index, line] of stages.map(stageLine).entries()) fact(index === 0 ? 'stages' : '', line);
  const after = written?.bytes ?? report.quantizedBytes;
  fact('bytes', `${bytes(report.floatBytes)} → ${bytes(after)} (${ratio(report.floatBytes, after)} smaller)`);
  const all = [...report.notes, ...notes, ...operatorNotes(report)];
  if (all.length > 0) {
    print('');
    printNotes(terminal, all);
  }
  if (verbose) printWeights(report.plan, report.weights, terminal);
}

/** What a stage brought, on one line. */
function stageLine({ stage, kept, sqnr, gain, changed, left, seconds }: StageResult, index: number): string {
  const name = stage.padEnd(stageWidth);
  const level = `${sqnr.toFixed(1)} dB`.padStart(8);
  const time = seconds === undefined ? '' : `, ${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const without = left.length > 0 ? `; ${left.length} left (${left[0].because.split('\n')[0]})` : '';
  if (index === 0) return `${name} ${level}  outputs of held-out samples, before anything else is done`;
  if (changed === 0) return `${name} ${'–'.padStart(8)}  nothing to do${without}${time}`;
  const change = `${gain < 0 ? '−' : '+'}${Math.abs(gain).toFixed(1)} dB`;
  return `${name} ${level}  ${change}${kept ? '' : ', taken back'}${without}${time}`;
}

/** How many weights became what, and how many were left for which reason. */
export function summarizeWeights(report: Report): { done: string; left: string[] } {
  const results = new Map(report.weights.map((result) => [result.tensor, result]));
  const groups = new Map<string, number>();
  const reasons = new Map<string, number>();
  const add = (map: Map<string, number>, key: string) => map.set(key, (map.get(key) ?? 0) + 1);
  const weights = weightsOf(report.plan);
  for (const weight of weights) {
    const result = results.get(weight.tensor);
    if (weight.quantize && result?.scheme)
      add(groups, `${result.scheme} ${result.instead?.lowering ?? weight.quantize.lowering}`);
    else add(reasons, result?.left ?? weight.because);
  }
  const byCount = (map: Map<string, number>) => [...map].sort((a, b) => b[1] - a[1]);
  const list = byCount(groups).map(([what, times]) => `${times} ${what}`);
  const done = `${plural(weights.length, 'weight')}${list.length > 0 ? `: ${list.join(', ')}` : ', none quantized'}`;
  return { done, left: byCount(reasons).map(([why, times]) => `${times} left: ${why}`) };
}

/** What the operators that compute with packed weights do beside that: MatMulNBits may round, MatMulBnb4 takes longer. */
function operatorNotes({ plan }: Report): string[] {
  const has = (id: LoweringId) => plan.weights.some(({ quantize }) => quantize?.lowering === id);
  const notes: string[] = [];
  if (has('matmul-bnb4')) {
    notes.push(
      'MatMulBnb4 keeps weights packed in memory and unpacks them in every run, which is slower than float; ' +
        '--lowering fold-at-load runs at float speed and in float memory.',
    );
  }
  if (!has('matmul-nbits')) return notes;
  notes.push(
    plan.recipe.accuracyLevel === 4
      ? 'MatMulNBits has accuracy level 4: it may round activations to 8 bits to be faster; --accuracy-level 0 keeps them float.'
      : 'MatMulNBits has accuracy level 0: activations stay float, which is slower than level 4.',
  );
  return notes;
}
