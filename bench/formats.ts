/**
 * `npm run bench:formats [-- --only NAME] [--model NAME]`: every number format on three real models. Weights of
 * all layers get the format; what was lost, bytes and speed are written to docs/benchmarks.md. Each result is run, its
 * size held against the bits per weight that the report states, and its outputs against the float model whose weights are
 * the dequantized ones.
 */
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formats } from '../src/formats/index.ts';
import { namedSchemes } from '../src/formats/named.ts';
import { findWeights } from '../src/lowerings/weight.ts';
import {
  isHalftoneError,
  type Model,
  openRuntime,
  type Runtime,
  readModel,
  type Samples,
  writeOnnx,
} from '../src/node.ts';
import { lowerModel, tidy } from '../src/pipeline/apply.ts';
import { inlineExecutor } from '../src/pipeline/executor.ts';
import { makePlan } from '../src/pipeline/plan.ts';
import { cloneModel, prepare } from '../src/pipeline/prepare.ts';
import { makeRecipe } from '../src/pipeline/recipe.ts';
import { simulate } from '../src/pipeline/simulate.ts';
import { solveWeights } from '../src/pipeline/solve.ts';
import { memoryStore } from '../src/pipeline/store.ts';
import { assets, missingAssets } from './data.ts';
import { dropOf, type Measured, measure, natsOf } from './measure.ts';
import { benchmarksPath, provenance, table, writeBetweenMarkers } from './report.ts';
import { models, type Row } from './rows.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    model: { type: 'string', multiple: true },
  },
});

const note = (text: string) => process.stderr.write(`${text}\n`);

const absent = missingAssets();
if (absent) {
  note(`Skipped: ${absent}`);
  process.exit(0);
}

/** Beside the default schemes: what a user would compare at about equal bits. */
const more: Readonly<Record<string, readonly string[]>> = {
  int4: ['int4:sym', 'int4:scale8'],
  nf4: ['nf4:g64', 'nf4:g64:scale8'],
  kmeans4: ['kmeans4:channel', 'kmeans4:tensor'],
};

const schemes = [...formats, ...namedSchemes].flatMap(({ id }) => [id as string, ...(more[id] ?? [])]);

const names = ['mnist-cnn', 'resnet20-cifar10', 'shakespeare-gpt'];

interface Cell {
  readonly measured: Measured;
  /** Bits per weight as stored, of the quantized layers, and as the report states them. */
  readonly bits: number;
  readonly stated: number;
  /** Largest difference of outputs from float with dequantized weights, relative to the largest output. */
  readonly difference: number;
}

/** Quantizes weights alone with kernels that keep activations float, and runs both that and its dequantized float model. */
async function differenceOf(float: Model, scheme: string, samples: Samples, runtime: Runtime): Promise<number> {
  const recipe = makeRecipe({ weights: scheme, uniform: true, accuracyLevel: 0, activations: 'none' }, false);
  const first = await prepare(float, runtime);
  const { opset } = makePlan(first.model, recipe).plan;
  const { model } = opset > first.model.opset ? await prepare(first.model, runtime, opset) : first;
  const planning = makePlan(cloneModel(model), recipe);
  const { matrices } = await solveWeights(planning, { executor: inlineExecutor(), store: memoryStore() });
  const plain = simulate(makePlan(cloneModel(model), recipe), matrices).model;
  for (const weight of findWeights(plain)) {
    const stored = planning.plan.weights.find(({ tensor }) => tensor === weight.value.name)?.quantize?.scheme;
    if (stored === 'float16' || stored === 'bfloat16') {
      weight.value.tensor = weight.tensor.converted(stored).converted('float32');
    }
  }
  lowerModel(planning, matrices);
  tidy(planning.model);
  const [a, b] = [await runtime.open(writeOnnx(plain)), await runtime.open(writeOnnx(planning.model))];
  try {
    let most = 0;
    let count = 0;
    for await (const feeds of samples) {
      if (count++ >= 4) break;
      const [x, y] = [await a.run(feeds), await b.run(feeds)];
      for (const name of Object.keys(x)) {
        const [expected, got] = [x[name].floats(), y[name].floats()];
        const largest = expected.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
        expected.forEach((value, i) => {
          most = Math.max(most, Math.abs(value - got[i]) / largest);
        });
      }
    }
    return most;
  } finally {
    await a.close();
    await b.close();
  }
}

/** Bits per weight: of the initializers that the file holds for quantized layers, and as the report states them. */
function bitsOf(quantized: Awaited<ReturnType<typeof measure>>['quantized']): { bits: number; stated: number } {
  const { model, report } = quantized;
  const done = new Map(report.weights.filter(({ scheme }) => scheme).map((weight) => [weight.tensor, weight]));
  let weights = 0;
  let bytes = 0;
  let stated = 0;
  for (const plan of report.plan.weights) {
    const result = done.get(plan.tensor);
    if (!result) continue;
    const size = plan.shape.reduce((product, dimension) => product * dimension, 1);
    weights += size;
    stated += size * (result.bitsPerWeight ?? Number.NaN);
    for (const graph of model.graphs()) {
      for (const value of graph.initializers) {
        if (value.name.startsWith(`${plan.tensor}/`)) bytes += value.tensor?.byteLength ?? 0;
      }
    }
  }
  return { bits: (bytes * 8) / weights, stated: stated / weights };
}

const says: string[] = [];
const runtime = await openRuntime();
const [loadBefore] = loadavg();
const cells = new Map<string, Map<string, Cell>>();
let failures = 0;
for (const bench of models.filter(
  ({ name }) => names.includes(name) && (!values.model || values.model.includes(name)),
)) {
  const float = readModel(join(assets, 'models', `${bench.name}.onnx`));
  const session = await runtime.open(writeOnnx(float), { threads: 2 });
  // Some seventy formats: the small part of the test data, which `bench:accuracy` has whole.
  const data = await bench.open(session, true);
  says.push(`${bench.name}: ${data.says}`);
  for (const scheme of schemes.filter((text) => !values.only || values.only.includes(text))) {
    try {
      const row: Row = {
        recipe: scheme,
        options: { weights: scheme, activations: 'none', uniform: true },
        goals: {},
        peer: '',
      };
      const measured = await measure(bench, row, float, data, runtime, { quick: true, outputsOnly: true });
      const { bits, stated } = bitsOf(measured.quantized);
      const difference = await differenceOf(float, scheme, data.evaluation, runtime);
      const cell: Cell = { measured, bits, stated, difference };
      if (!cells.has(scheme)) cells.set(scheme, new Map());
      cells.get(scheme)?.set(bench.name, cell);
      const wrong = [
        ...(Math.abs(bits / stated - 1) > 0.02
          ? [`${bits.toFixed(3)} bits per weight, stated ${stated.toFixed(3)}`]
          : []),
        ...(difference > 1e-5 ? [`outputs differ by ${difference.toExponential(1)}`] : []),
      ];
      if (wrong.length > 0) failures++;
      note(
        `${bench.name}, ${scheme}: ${changeOf(cell)}, ${measured.sqnr.toFixed(1)} dB, ${stated.toFixed(2)} bits, ${difference.toExponential(1)}, ` +
          `${measured.seconds.toFixed(1)} s${wrong.length > 0 ? `  ✗ ${wrong.join('; ')}` : ''}`,
      );
    } catch (error) {
      failures++;
      note(`${bench.name}, ${scheme}: failed: ${isHalftoneError(error) ? error.message : (error as Error).stack}`);
    }
  }
  await session.close();
}

function changeOf({ measured }: Cell): string {
  const sign = (value: number, digits: number, unit: string) =>
    `${value > 0 ? '+' : value < 0 ? '−' : ''}${Math.abs(value).toFixed(digits)}${unit}`;
  const nats = natsOf(measured);
  if (nats !== undefined) return sign(nats, nats < 10 ? 2 : 0, ' %');
  const drop = dropOf(measured);
  return drop === undefined ? '–' : sign(-drop, 2, '');
}

const rows = [...cells].map(([scheme, byModel]) => [
  scheme,
  ...names.flatMap((name) => {
    const cell = byModel.get(name);
    if (!cell) return ['–', '–', '–', '–', '–'];
    const { comparison, sqnr } = cell.measured;
    return [
      cell.stated.toFixed(2),
      (comparison.quantizedBytes / 1000).toFixed(0),
      changeOf(cell),
      sqnr.toFixed(1),
      comparison.latency ? `${comparison.latency.speedup.toFixed(2)}×` : '–',
    ];
  }),
]);
const largest = Math.max(
  ...[...cells.values()].flatMap((byModel) => [...byModel.values()].map(({ difference }) => difference)),
);
const head = ['format', ...names.flatMap((name) => [`${name}: bits`, 'kB', 'change', 'dB', 'speed'])];
const command = ['npm run bench:formats --', ...process.argv.slice(2)].join(' ').replace(/ --$/, '');
const text = [
  provenance(`${runtime.id} ${runtime.version}`, command, loadBefore),
  'Weights alone, the same format in every layer (`--uniform`), with bias correction on calibration samples. bits: per weight in the file, with scales, zero points and codebooks; kB: the whole file; change: points of accuracy, for shakespeare-gpt nats per character in per cent; dB: signal to noise of the outputs; speed: of a run on two threads, float = 1.',
  `Data: ${says.join('; ')}.`,
  table(head, rows),
  `Every file was loaded and run by ${runtime.id}. What it holds for each weight agrees with the bits that the report states to 2 %; with activations kept float (\`--accuracy-level 0\`) outputs differ from those of the float model with dequantized weights by at most ${largest.toExponential(1)} of the largest output.`,
].join('\n\n');
process.stdout.write(`${text}\n`);
if (failures > 0) {
  note(`${failures} failures`);
  process.exitCode = 1;
} else if (!values.only && !values.model) {
  writeBetweenMarkers(benchmarksPath, 'bench:formats', text);
  note(`Wrote ${benchmarksPath}`);
}
