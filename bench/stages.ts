/**
 * `npm run bench:stages [-- --only NAME] [--bits W4] [--preset balanced] [--quick] [--resume]`: quantizes real models with the
 * preset `best` and writes to docs/accuracy.md what each stage brought on held-out samples, what it cost, and what is lost in
 * the end on data that was never touched. Rows are kept in bench/stages.jsonl: with `--resume` those that are there stay, and
 * the document is written once none is missing.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  isHalftoneError,
  openRuntime,
  type Quantized,
  type QuantizeOptions,
  type Report,
  readModel,
  type Session,
  writeOnnx,
} from '../src/node.ts';
import { noisySpectra, speechWindows, spokenDigits } from './audio.ts';
import { assets, cifar10, type Data, imagenet, missingAssets, shakespeare } from './data.ts';
import { dropOf, type Measured, measure, natsOf } from './measure.ts';
import { films, keyWords, stories, things } from './more-data.ts';
import { mark, provenance, revision, table, writeBetweenMarkers } from './report.ts';
import type { Goals } from './rows.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    bits: { type: 'string', multiple: true },
    preset: { type: 'string', default: 'best' },
    quick: { type: 'boolean', default: false },
    resume: { type: 'boolean', default: false },
  },
});

const path = fileURLToPath(new URL('../docs/accuracy.md', import.meta.url));
const note = (text: string) => process.stderr.write(`${text}\n`);

const absent = missingAssets();
if (absent) {
  note(`Skipped: ${absent}`);
  process.exit(0);
}

/** What is asked for, by the names of the table's columns in the project's issue 5. */
const settings = {
  W8A8: { activations: 'uint8' },
  'W8A8 per tensor': { activations: 'uint8', weights: 'int8:tensor' },
  W4A8: { activations: 'uint8', weights: 'int4' },
  W8: { activations: 'none', weights: 'int8' },
  W4: { activations: 'none', weights: 'int4:g32:asym' },
  'W4, blocks of 16': { activations: 'none', weights: 'int4:g16:asym' },
  'W4, blocks of 8': { activations: 'none', weights: 'int4:g8:asym' },
  W3: { activations: 'none', weights: 'int3:g32:asym' },
  'W3, blocks of 16': { activations: 'none', weights: 'int3:g16:asym' },
  'W3, blocks of 8': { activations: 'none', weights: 'int3:g8:asym' },
  W2: { activations: 'none', weights: 'int2:g16:asym' },
  'W2, blocks of 8': { activations: 'none', weights: 'int2:g8:asym' },
} satisfies Record<string, QuantizeOptions>;

type Bits = keyof typeof settings;

interface BenchModel {
  readonly name: string;
  readonly open: (float: Session) => Data | Promise<Data>;
  /** Few pictures calibrate: their mirror images are taken as well. */
  readonly mirror?: boolean;
  readonly goals: Partial<Record<Bits, Goals>>;
}

const { quick } = values;
const others: BenchModel['goals'] = { W8A8: { sqnr: 28 }, W4: { sqnr: 22 }, W3: { sqnr: 16 } };
const finer: BenchModel['goals'] = {
  ...others,
  'W4, blocks of 16': { sqnr: 22 },
  'W4, blocks of 8': { sqnr: 22 },
  'W3, blocks of 8': { sqnr: 16 },
};
const weightsOnly: BenchModel['goals'] = { W4: { sqnr: 22 }, W3: { sqnr: 16 } };

const models: readonly BenchModel[] = [
  {
    name: 'resnet20-cifar10',
    open: () => cifar10(quick, 1000),
    goals: {
      W8A8: { drop: 0, sqnr: 31 },
      'W8A8 per tensor': { drop: 0.2 },
      W4A8: { drop: 0.6 },
      W4: { drop: 0.3, sqnr: 25 },
      W3: { drop: 0.5, sqnr: 19.5 },
      W2: { drop: 1.3, sqnr: 14.5 },
    },
  },
  {
    name: 'squeezenet1.1',
    open: (float) => imagenet('mean and deviation', float.inputs, 0, quick),
    mirror: true,
    goals: {
      W8A8: { drop: 0.1, sqnr: 34 },
      'W8A8 per tensor': { drop: 0.5 },
      W4A8: { drop: 1 },
      W4: { drop: 0.2, sqnr: 28 },
      W3: { drop: 0.8, sqnr: 24 },
      W2: { drop: 4, sqnr: 18 },
    },
  },
  {
    name: 'mobilenet-v2',
    open: (float) => imagenet('-1 to 1', float.inputs, 1, quick),
    goals: {
      W8A8: { drop: 0.2, sqnr: 18 },
      'W8A8 per tensor': { drop: 2 },
      W4A8: { drop: 1.5 },
      W4: { drop: 0.8, sqnr: 14 },
      'W4, blocks of 16': { drop: 0.8, sqnr: 14 },
      W3: { drop: 4 },
      'W3, blocks of 16': { drop: 4 },
      'W3, blocks of 8': { drop: 4 },
      W2: { drop: 18 },
      'W2, blocks of 8': { drop: 18 },
    },
  },
  {
    name: 'shakespeare-gpt',
    open: () => shakespeare(quick, 256),
    goals: {
      W8A8: { nats: 0.1 },
      W4A8: { nats: 0.2 },
      W4: { nats: 0.05 },
      W3: { nats: 0.12 },
      'W3, blocks of 16': { nats: 0.12 },
      W2: { nats: 1.8 },
    },
  },
  { name: 'digits-ds2', open: () => spokenDigits(quick), goals: weightsOnly },
  { name: 'silero-vad', open: (float) => speechWindows(float, quick), goals: weightsOnly },
  { name: 'nsnet2-gru', open: () => noisySpectra(quick), goals: weightsOnly },
  { name: 'ncf-mlp', open: () => films(quick), goals: finer },
  { name: 'mlperf-kws', open: () => keyWords(quick), goals: others },
  // Without 8-bit activations, to tell what is left of the goal beside them.
  { name: 'nanodet', open: (float) => things(float, quick), goals: { ...finer, W8: { sqnr: 28 } } },
  { name: 'stories260K', open: () => stories(quick), goals: others },
];

/** A row of both tables. */
interface Result {
  readonly key: string;
  readonly revision: string;
  readonly summary: readonly string[];
  readonly stages: NonNullable<Report['stages']>;
}

const keptPath = fileURLToPath(new URL('stages.jsonl', import.meta.url));
const results = new Map<string, Result>();
if (existsSync(keptPath)) {
  for (const line of readFileSync(keptPath, 'utf8').split('\n').filter(Boolean)) {
    const result = JSON.parse(line) as Result;
    results.set(result.key, result);
  }
}
const keyOf = (model: string, bits: string) => [model, bits, values.preset, ...(quick ? ['quick'] : [])].join();

const runtime = await openRuntime();
const [loadBefore] = loadavg();
let failures = 0;
for (const bench of models.filter(({ name }) => !values.only || values.only.some((part) => name.includes(part)))) {
  const rows = (Object.entries(bench.goals) as [Bits, Goals][]).filter(
    ([bits]) =>
      (!values.bits || values.bits.includes(bits)) && !(values.resume && results.has(keyOf(bench.name, bits))),
  );
  if (rows.length === 0) continue;
  const float = readModel(join(assets, 'models', `${bench.name}.onnx`));
  const session = await runtime.open(writeOnnx(float), { threads: 2 });
  const data = await bench.open(session);
  for (const [bits, goals] of rows) {
    try {
      const options: QuantizeOptions = {
        ...settings[bits],
        preset: values.preset as QuantizeOptions['preset'],
        mirror: bench.mirror === true,
      };
      const row = { recipe: bits, options, goals, peer: '' };
      const measured = await measure({ ...bench, rows: [] }, row, float, data, runtime, { quick, outputsOnly: true });
      const { stages = [] } = measured.quantized.report;
      const summary = summaryOf(bits, measured);
      note(`${summary.join(' | ')}`);
      for (const { stage, kept, sqnr, gain, seconds = 0 } of stages) {
        note(
          `    ${stage.padEnd(14)} ${sqnr.toFixed(2)} dB, ${gain.toFixed(2)}, ${kept ? 'kept' : 'not kept'}, ${seconds.toFixed(1)} s`,
        );
      }
      const key = keyOf(bench.name, bits);
      results.set(key, { key, revision: revision(), summary, stages });
      writeFileSync(keptPath, [...results.values()].map((result) => `${JSON.stringify(result)}\n`).join(''));
    } catch (error) {
      failures++;
      note(`${bench.name}, ${bits}: failed: ${isHalftoneError(error) ? error.message : (error as Error).stack}`);
    }
  }
  await session.close();
}

function signed(value: number, digits: number): string {
  return `${value > 0 ? '+' : value < 0 ? '−' : ''}${Math.abs(value).toFixed(digits)}`;
}

function lossOf(measured: Measured): string {
  const nats = natsOf(measured);
  if (nats !== undefined) return `${signed(nats, 3)} %`;
  const drop = dropOf(measured);
  return drop === undefined ? '–' : signed(-drop, 2);
}

/** As they follow each other in a preset; no recipe has all. */
const stageOrder: readonly NonNullable<Report['stages']>[number]['stage'][] = [
  ...(['nearest', 'bias', 'pixels', 'cross-layer', 'smooth', 'awq', 'gptq', 'coupled', 'recurrent'] as const),
  ...(['reconstruction', 'normalization', 'ranges'] as const),
];

/** Of the quantized layers, with scales and zero points. */
function bitsPerWeight({ weights, plan }: Report): number {
  const done = weights.filter(({ bytes }) => bytes !== undefined);
  const sizes = new Map(plan.weights.map(({ tensor, shape }) => [tensor, shape.reduce((a, b) => a * b, 1)]));
  const total = (of: (weight: (typeof done)[number]) => number) => done.reduce((sum, weight) => sum + of(weight), 0);
  return (8 * total(({ bytes = 0 }) => bytes)) / total(({ tensor }) => sizes.get(tensor) ?? 0);
}

function summaryOf(bits: Bits, measured: Measured & { readonly quantized: Quantized }): string[] {
  return [
    measured.model,
    bits,
    bitsPerWeight(measured.quantized.report).toFixed(2),
    (measured.comparison.quantizedBytes / 1000).toFixed(0),
    lossOf(measured),
    measured.comparison.agreement ? `${(100 * measured.comparison.agreement.top1).toFixed(1)} %` : '–',
    measured.sqnr.toFixed(1),
    measured.checks.map(({ text }) => text).join('; '),
    mark(measured.checks.every(({ reached }) => reached)),
    measured.seconds.toFixed(0),
  ];
}

const keys = models.flatMap(({ name, goals }) => Object.keys(goals).map((bits) => keyOf(name, bits)));
const found = keys.flatMap((key) => results.get(key) ?? []);
const named = new Set<string>(found.flatMap(({ stages }) => stages.map(({ stage }) => stage)));
const ids = stageOrder.filter((id) => named.has(id));
const ablation = found.map(({ summary: [model, bits], stages }) => [
  model,
  bits,
  ...ids.map((id) => {
    const stage = stages.find((one) => one.stage === id);
    if (!stage || (stage.changed === 0 && id !== 'nearest')) return '–';
    if (id === 'nearest') return stage.sqnr.toFixed(1);
    const text = `${signed(stage.gain, 1)} (${(stage.seconds ?? 0).toFixed(0)} s)`;
    return stage.kept ? text : `~~${text}~~`;
  }),
]);
const command = ['npm run bench:stages --', ...process.argv.slice(2)].join(' ').replace(/ --$/, '');
const revisions = [...new Set(found.map((row) => row.revision))];
const text = [
  provenance(`${runtime.id} ${runtime.version}`, command, loadBefore, 2, revisions.join(', ')),
  `Preset \`${values.preset}\`. Change: points of accuracy, for shakespeare-gpt nats per character in per cent; agreement: test samples on which both models name the same class; bits: per weight of the quantized layers on disk, with scales and zero points.`,
  table(
    [
      'model',
      'bits',
      'bits per weight',
      'kB',
      'change',
      'agreement',
      'SQNR, dB',
      'measured (goal)',
      'reached',
      'seconds',
      'commit',
    ],
    found.map(({ summary, revision }) => [...summary, revision.replace('commit ', '')]),
  ),
  '### What each stage brings',
  'Decibels of the outputs of held-out calibration samples, by their relative error in the mean over samples: first those of the nearest codes, then what each stage adds to what was kept before. What is struck out was taken back. –: nothing to do, or not asked for.',
  table(['model', 'bits', ...ids], ablation),
].join('\n\n');
process.stdout.write(`${text}\n`);
if (failures > 0) {
  note(`${failures} failures`);
  process.exitCode = 1;
} else if (found.length === keys.length && !quick && values.preset === 'best') {
  writeBetweenMarkers(path, 'bench:stages', text);
  note(`Wrote ${path}`);
}
