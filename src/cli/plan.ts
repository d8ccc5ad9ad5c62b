/** Prints a plan: what each weight becomes and why. */
import type { Plan, WeightPlan } from '../pipeline/plan.ts';
import type { WeightResult } from '../pipeline/report.ts';
import { bytes, count, decibels, plural } from './numbers.ts';
import { type Column, table } from './table.ts';
import type { Terminal } from './terminal.ts';

/** Prints every weight of the plan and, below, what happens to activations. */
export function printPlan(plan: Plan, terminal: Terminal): void {
  const { style, width, print } = terminal;
  print(...table(weightsOf(plan), planColumns(), { width, indent: 2, title: style.dim }));
  const small = plan.weights.length - weightsOf(plan).length;
  if (small > 0)
    print(style.dim(`  … and ${plural(small, 'other constant')} that ${small === 1 ? 'is' : 'are'} no layer's weight`));
  if (plan.activations.length > 0) print('', `  ${describeActivations(plan)}`);
}

/** Weights of layers; constants such as biases and tables are not listed unless they are quantized. */
export function weightsOf(plan: Plan): WeightPlan[] {
  return plan.weights.filter((weight) => weight.kind !== 'other' || weight.quantize);
}

/** One sentence on activations. */
export function describeActivations(plan: Plan): string {
  const { activations, integerNodes, recipe } = plan;
  const how = ['uint8', 'int8'].includes(recipe.activations) ? 'in integers' : 'simulated in float';
  return `${plural(activations.length, 'activation tensor')} as ${recipe.activations} (range ${recipe.range}); ${plural(integerNodes.length, 'operator')} ${how}`;
}

function planColumns(): Column<WeightPlan>[] {
  return [
    { title: 'weight', value: ({ tensor }) => tensor, shrinks: 'middle' },
    { title: 'kind', value: ({ kind }) => kind, optional: true },
    { title: 'becomes', value: ({ quantize }) => quantize?.scheme ?? '–' },
    { title: 'written as', value: ({ quantize }) => quantize?.lowering ?? 'float' },
    { title: 'bytes', value: ({ floatBytes }) => count(floatBytes), align: 'right', optional: true },
    { title: 'predicted', value: ({ predictedBytes }) => count(predictedBytes), align: 'right' },
    { title: 'because', value: ({ because }) => because, shrinks: 'end' },
  ];
}

/** Prints every weight with what became of it. */
export function printWeights(plan: Plan, results: readonly WeightResult[], terminal: Terminal): void {
  const { style, width, print } = terminal;
  const byName = new Map(results.map((result) => [result.tensor, result]));
  const done = (weight: WeightPlan) => byName.get(weight.tensor);
  const columns: Column<WeightPlan>[] = [
    { title: 'weight', value: ({ tensor }) => tensor, shrinks: 'middle' },
    { title: 'shape', value: ({ shape }) => `[${shape.join(',')}]`, optional: true },
    { title: 'became', value: (weight) => done(weight)?.scheme ?? '–' },
    {
      title: 'written as',
      value: (weight) =>
        done(weight)?.scheme ? (done(weight)?.instead?.lowering ?? weight.quantize?.lowering ?? '') : 'float',
    },
    {
      title: 'SQNR',
      value: (weight) => {
        const sqnr = done(weight)?.sqnr;
        return sqnr === undefined ? '' : decibels(sqnr);
      },
      align: 'right',
    },
    { title: 'bytes', value: ({ floatBytes }) => count(floatBytes), align: 'right', optional: true },
    {
      title: 'bits',
      value: (weight) => done(weight)?.bitsPerWeight?.toFixed(2) ?? '',
      align: 'right',
    },
    { title: 'runs as', value: (weight) => done(weight)?.executes ?? '', optional: true, shrinks: 'end' },
    {
      title: 'in memory',
      value: (weight) => {
        const loaded = done(weight)?.loadedBytes;
        return loaded === undefined ? '' : count(loaded);
      },
      align: 'right',
      optional: true,
    },
    {
      title: 'because',
      value: (weight) => done(weight)?.left ?? done(weight)?.instead?.because ?? weight.because,
      shrinks: 'end',
    },
  ];
  print('', style.bold(`Weights (${plural(plan.weights.length, 'tensor')}, ${bytes(plan.floatBytes)})`));
  print(...table(plan.weights, columns, { width, indent: 2, title: style.dim }));
}
