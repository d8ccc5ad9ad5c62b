/** `halftone quantize`: a float model in, a smaller one out, with what was done and what it cost. */
import { readFileSync } from 'node:fs';
import { HalftoneError, messageOf } from '../../base/errors.ts';
import { openResources, type Resources } from '../../executors/resources.ts';
import { readModel } from '../../files/onnx/node.ts';
import { externalDataPath } from '../../files/onnx/write-files.ts';
import { refuseInputs, samePlace } from '../../files/paths.ts';
import type { Model } from '../../graph/model.ts';
import type { Plan } from '../../pipeline/plan.ts';
import { correctionIds } from '../../pipeline/presets.ts';
import { planQuantization, type Quantized, type QuantizeOptions, quantizeModel } from '../../pipeline/quantize.ts';
import {
  hasStaticActivations,
  makeRecipe,
  matches,
  parseRecipe,
  type Recipe,
  type RecipeInput,
} from '../../pipeline/recipe.ts';
import { enforce, type Gate, judgeBy, printComparison } from '../comparison.ts';
import { usage } from '../failure.ts';
import { checkOutput, inputPaths, writeText } from '../files.ts';
import { bytes, jsonText, plural } from '../numbers.ts';
import { type Dimensions, explainingMadeUp, openData, runtimeFor } from '../open.ts';
import { printPlan } from '../plan.ts';
import { printReport } from '../report.ts';
import { printNotes, type Terminal } from '../terminal.ts';

/** The options as commander hands them over. */
export interface QuantizeCommandOptions {
  readonly output?: string;
  readonly weights?: string;
  readonly activations?: Recipe['activations'];
  readonly calibrate?: string;
  readonly samples?: number;
  readonly mirror?: boolean;
  readonly preprocess?: string;
  readonly dimensions?: Dimensions;
  readonly labels?: string;
  readonly range?: Recipe['range'];
  readonly weightRange?: Recipe['weightRange'];
  readonly solver?: Recipe['solver'];
  readonly percentile?: number;
  readonly lowering?: Recipe['lowering'];
  readonly reduceRange?: boolean;
  readonly accuracyLevel?: '0' | '4';
  readonly preset?: Recipe['preset'];
  readonly corrections?: string;
  readonly opTypes?: readonly string[];
  readonly exclude?: readonly string[];
  readonly uniform?: boolean;
  readonly recipe?: string;
  readonly allowQuantized?: boolean;
  readonly dryRun?: boolean;
  readonly minSqnr?: number;
  readonly compare?: boolean;
  readonly externalData?: boolean;
  readonly report?: string;
  readonly json?: boolean;
  readonly verbose?: boolean;
  readonly workers?: number;
  readonly maxMemory?: number;
  readonly resume?: boolean;
  readonly threads?: number;
  readonly runtime?: string;
}

/**
 * Runs the command.
 * @param given the options that stand on the command line, as opposed to defaults
 * @throws HalftoneError as the pipeline; `usage` for options that contradict each other; `accuracy` for the gate.
 */
export async function quantizeCommand(
  path: string,
  options: QuantizeCommandOptions,
  given: ReadonlySet<string>,
  terminal: Terminal,
): Promise<void> {
  checkOptions(path, options);
  const input = recipeInput(options, given);
  const recipe = makeRecipe(input, options.calibrate !== undefined);
  const external: string[] = [];
  const model = readModel(path, (file) => external.push(file));
  checkOutputs(options, external);
  const notes = unusedOptions(model, recipe, options, given);
  const data =
    options.calibrate === undefined ? undefined : await openData(model, options.calibrate, options, terminal);
  if (options.minSqnr !== undefined && data?.samples.synthetic) {
    throw usage(
      '--min-sqnr: expected real samples, got made-up ones, which say nothing about accuracy; give --calibrate DATA',
    );
  }
  const runtime = runtimeFor(options.runtime, terminal);
  const settings: QuantizeOptions = {
    ...input,
    ...(data ? { calibration: data.samples } : {}),
    ...(data?.labels ? { labels: data.labels } : {}),
    ...(options.samples === undefined ? {} : { samples: options.samples }),
    ...(options.threads === undefined ? {} : { threads: options.threads }),
    mirror: options.mirror === true,
    allowQuantized: options.allowQuantized === true,
    compare: options.compare !== false,
    clock: terminal.clock,
    signal: terminal.signal,
    onProgress: terminal.progress.show,
  };
  if (options.dryRun) {
    const plan = await planQuantization(model, settings, runtime);
    showPlan(path, plan, notes, options, terminal);
    return;
  }
  const { workers, maxMemory, resume } = options;
  const resources = openResources(model, options.output, {
    ...(workers === undefined ? {} : { workers }),
    ...(maxMemory === undefined ? {} : { maxMemory }),
    resume: resume === true,
    calibrates: data !== undefined,
    hasExternalData: external.length > 0,
  });
  const { executor, memory, openStore } = resources;
  let finished = false;
  try {
    const quantized = await explainingMadeUp(model, data?.samples, () =>
      quantizeModel(model, { ...settings, executor, memory, openStore }, runtime),
    );
    const all = resources.leftover ? [...notes, resources.leftover] : notes;
    const gate = writeResult(path, quantized, resources, all, options, terminal);
    finished = true;
    enforce(gate, '; nothing was written');
  } finally {
    await resources.close({ keep: !finished && resume === true });
  }
}

/** Writes the model and its report unless the gate is shut, and prints what was done. */
function writeResult(
  path: string,
  { model, report }: Quantized,
  resources: Resources,
  notes: readonly string[],
  options: QuantizeCommandOptions,
  terminal: Terminal,
): Gate | undefined {
  const gate =
    options.minSqnr !== undefined && report.comparison ? judgeBy(options.minSqnr, report.comparison) : undefined;
  terminal.signal.throwIfAborted();
  const writes = gate?.passed !== false;
  const written = writes
    ? resources.write(model, options.output ?? '', { external: options.externalData === true })
    : undefined;
  const document = jsonText({
    ...report,
    notes: [...report.notes, ...notes],
    model: path,
    output: written ? { paths: written.paths, bytes: written.bytes } : null,
    ...(gate ? { gate } : {}),
  });
  if (writes && options.report !== undefined) writeText(options.report, `${document}\n`);
  if (options.json) terminal.print(document);
  else {
    printReport({ path, report, written, notes, verbose: options.verbose === true }, terminal);
    if (report.comparison) {
      const title = comparedOn(report.comparison.samples, report.comparison.data, report.notes);
      printComparison(report.comparison, title, options.verbose === true, terminal);
    }
  }
  return gate;
}

function comparedOn(samples: number, data: string, notes: readonly string[]): string {
  const own = notes.some((note) => note.startsWith('There were too few samples'));
  return `Compared on ${plural(samples, own ? 'sample' : 'held-out sample')} of ${data}`;
}

/** What can be refused before anything is read. @throws HalftoneError `usage`. */
function checkOptions(path: string, options: QuantizeCommandOptions): void {
  if (!options.dryRun) {
    if (options.output === undefined)
      throw usage('-o: expected a file to write the result to, got none; add -o OUT, or --dry-run');
  }
  const { recipe, calibrate, labels, preprocess } = options;
  checkOutputs(options, [path, ...inputPaths(recipe, calibrate, labels, preprocess)]);
  if (options.calibrate === undefined) {
    const needing = (['samples', 'mirror', 'preprocess', 'dimensions', 'labels', 'minSqnr'] as const).find(
      (key) => options[key] !== undefined,
    );
    if (needing) {
      const flag = needing === 'minSqnr' ? 'min-sqnr' : needing;
      throw usage(`--${flag}: expected samples beside it, got none; add --calibrate DATA`);
    }
  }
  if (options.minSqnr !== undefined && options.compare === false) {
    throw usage('--min-sqnr: expected a comparison to judge, got --no-compare; leave one of them out');
  }
}

/** Makes sure that nothing that is read is overwritten. @throws HalftoneError `usage`. */
function checkOutputs(options: QuantizeCommandOptions, inputs: readonly string[]): void {
  const { output, report } = options;
  const outputs: string[] = [];
  if (output !== undefined && !options.dryRun) {
    checkOutput('-o', output, inputs);
    outputs.push(output, externalDataPath(output));
    // Tensors also go there when they are too many for one file, which only the result tells.
    if (options.externalData) checkOutput('-o with --external-data', externalDataPath(output), inputs);
    else refuseInputs(`-o ${output}, tensors in ${externalDataPath(output)}`, externalDataPath(output), inputs);
  }
  if (report === undefined) return;
  checkOutput('--report', report, inputs);
  if (outputs.some((path) => samePlace(path, report))) {
    throw usage(`--report ${report}: expected another file than -o, got the same; choose a new name`);
  }
}

const recipeOptions = [
  'weights',
  'activations',
  'range',
  'weightRange',
  'solver',
  'percentile',
  'lowering',
  'reduceRange',
  'uniform',
  'opTypes',
  'exclude',
  'preset',
] as const;

/** The recipe file, and over it what stands on the command line. @throws HalftoneError `usage`, `missing-data`. */
function recipeInput(options: QuantizeCommandOptions, given: ReadonlySet<string>): RecipeInput {
  const base = options.recipe === undefined ? {} : parseRecipe(readText(options.recipe), options.recipe);
  const chosen: Record<string, unknown> = {};
  for (const key of recipeOptions) if (given.has(key)) chosen[key] = options[key];
  if (options.opTypes) chosen.opTypes = options.opTypes.flatMap((list) => list.split(',')).filter(Boolean);
  if (options.corrections !== undefined) chosen.corrections = correctionsOf(options.corrections);
  if (options.accuracyLevel !== undefined) chosen.accuracyLevel = Number(options.accuracyLevel);
  return { ...base, ...chosen };
}

/** `none`, or ids with commas between them. @throws HalftoneError `usage`. */
function correctionsOf(text: string): Recipe['corrections'] {
  if (text === 'none') return [];
  return text.split(',').map((part) => {
    const found = correctionIds.find((id) => id === part.trim());
    if (!found)
      throw usage(`--corrections: expected none or some of ${correctionIds.join(', ')}, got "${part.trim()}"`);
    return found;
  });
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new HalftoneError(
      'missing-data',
      `recipe "${path}": expected a readable file, got none (${messageOf(error)})`,
      {
        cause: error,
      },
    );
  }
}

/** Notes on options that stand on the command line and change nothing for this model and recipe. */
function unusedOptions(
  model: Model,
  recipe: Recipe,
  options: QuantizeCommandOptions,
  given: ReadonlySet<string>,
): string[] {
  const notes: string[] = [];
  const isStatic = hasStaticActivations(recipe);
  if (given.has('range') && !isStatic) {
    notes.push(`--range has no effect: activations are ${recipe.activations}, so no ranges are fixed.`);
  }
  const usesPercentile = (isStatic && recipe.range === 'percentile') || recipe.weightRange === 'percentile';
  if (given.has('percentile') && !usesPercentile) {
    notes.push('--percentile has no effect without --range percentile or --weight-range percentile.');
  }
  if (given.has('reduceRange') && !isStatic && recipe.activations !== 'dynamic') {
    notes.push('--reduce-range has no effect: weights are computed with in float.');
  }
  const names = new Set<string>();
  const operators = new Set<string>();
  for (const node of model.nodes()) {
    operators.add(node.op);
    names.add(node.name);
    for (const value of [...node.inputs, ...node.outputs]) if (value) names.add(value.name);
  }
  for (const pattern of options.exclude ?? []) {
    if (![...names].some((name) => matches(pattern, name))) {
      notes.push(`--exclude "${pattern}" matches no node and no weight.`);
    }
  }
  for (const op of given.has('opTypes') ? recipe.opTypes : []) {
    if (!operators.has(op)) notes.push(`--op-types ${op}: the model has no such operator.`);
  }
  return notes;
}

function showPlan(
  path: string,
  plan: Plan,
  notes: readonly string[],
  options: QuantizeCommandOptions,
  terminal: Terminal,
): void {
  const document = jsonText({ dryRun: true, model: path, plan: { ...plan, notes: [...plan.notes, ...notes] } });
  if (options.report !== undefined) writeText(options.report, `${document}\n`);
  if (options.json) {
    terminal.print(document);
    return;
  }
  terminal.print(terminal.style.bold(`${path}: what would be done`));
  printPlan(plan, terminal);
  if (plan.notes.length + notes.length > 0) {
    terminal.print('');
    printNotes(terminal, [...plan.notes, ...notes]);
  }
  const written =
    options.report === undefined ? 'Nothing was written' : `Only this plan was written, to ${options.report}`;
  terminal.print('', `Weights ${bytes(plan.floatBytes)} → about ${bytes(plan.predictedBytes)}. ${written}.`);
}
