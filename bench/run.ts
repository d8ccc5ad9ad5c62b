/**
 * `npm run bench [-- --only NAME] [--large]`: how fast halftone is, each figure beside its yardstick in the same run,
 * and how much memory it needs. A full run writes docs/benchmarks.md; with `--only`, or with other sizes than
 * `--gigabytes 2 --rounds 3 --kills 20`, it only prints. `--folder DIR` holds the models, `--python PATH` runs the peer.
 */
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { killsTable } from './kills.ts';
import { type LargeModelOptions, memoryTable, timeTable, workersTable } from './large-models.ts';
import { temporaryFolder } from './processes.ts';
import { programIn } from './program.ts';
import { benchmarksPath, mark, provenance, table, writeBetweenMarkers } from './report.ts';
import { repository, startupTable } from './startup.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    large: { type: 'boolean', default: false },
    gigabytes: { type: 'string' },
    rounds: { type: 'string' },
    kills: { type: 'string' },
    folder: { type: 'string', default: tmpdir() },
    python: { type: 'string', default: 'python3' },
  },
});

const note = (text: string) => process.stderr.write(`${text}\n`);

/** Bytes that must be free for the large model beside everything else. */
const roomForLarge = 30e9;

interface Part {
  readonly name: string;
  readonly title: string;
  readonly run: () => Promise<string>;
}

const options: LargeModelOptions = {
  program: programIn(repository),
  folder: temporaryFolder(values.folder),
  gigabytes: Number(values.gigabytes ?? 2),
  rounds: Number(values.rounds ?? 3),
  python: values.python,
};

const parts: readonly Part[] = [
  { name: 'kernels', title: 'Kernels', run: kernels },
  { name: 'startup', title: 'Starting', run: async () => startupTable(options.program.main) },
  { name: 'time', title: 'Large models: time', run: () => timeTable(options) },
  { name: 'workers', title: 'Large models: workers', run: () => workersTable(options) },
  { name: 'memory', title: 'Large models: memory', run: memory },
  { name: 'calibration', title: 'Calibration', run: calibration },
  { name: 'cnn', title: 'Static CNNs', run: staticCnns },
  { name: 'kills', title: 'Killed runs', run: kills },
];

/** The micro-benchmarks of the loops over numbers, which write their own table. */
async function kernels(): Promise<string> {
  const file = new URL('kernels.ts', import.meta.url);
  if (!existsSync(file)) return 'Skipped: there is no bench/kernels.ts.';
  const module = (await import(file.href)) as { kernelTable: () => string | Promise<string> };
  return module.kernelTable();
}

async function memory(): Promise<string> {
  const { bavail, bsize } = statfsSync(options.folder);
  if (values.large || bavail * bsize > roomForLarge) return memoryTable(options);
  return 'Skipped: less than 30 GB are free; `--large` measures anyway.';
}

/** Seconds of the percentile calibration of onnxruntime 1.30's tool on the same pictures. */
const peerCalibration = 23;
const calibrationGoal = { times: 4, peakMiB: 400 };

async function calibration(): Promise<string> {
  const [{ missingAssets }, { memoryOf }] = await Promise.all([import('./data.ts'), import('./memory.ts')]);
  const absent = missingAssets();
  if (absent) return `Skipped: ${absent}.`;
  const { pictures, tensors, peakMiB, seconds } = memoryOf('calibrate');
  const faster = peerCalibration / seconds;
  const reached = faster >= calibrationGoal.times && peakMiB <= calibrationGoal.peakMiB;
  const row = [
    `mobilenet-v2, ${pictures} pictures, ${tensors} histograms`,
    seconds.toFixed(1),
    `${peerCalibration} ¹`,
    `${faster.toFixed(1)}×`,
    `${peakMiB.toFixed(0)} MiB`,
    `≥ ${calibrationGoal.times}×, ≤ ${calibrationGoal.peakMiB} MiB`,
    mark(reached),
  ];
  const head = ['calibration', 'seconds', "peer's tool, s", 'faster', 'peak memory', 'goal', 'reached'];
  return `${table(head, [row])}\n\n¹ Percentile calibration of onnxruntime 1.30's Python tool, copied from the project's issue; not measured by this run.`;
}

async function staticCnns(): Promise<string> {
  const { missingAssets } = await import('./data.ts');
  const absent = missingAssets();
  if (absent) return `Skipped: ${absent}.`;
  const { staticCnnTable } = await import('./static-cnns.ts');
  return staticCnnTable(options.program, options.folder, options.python);
}

async function kills(): Promise<string> {
  return killsTable({ ...options, gigabytes: options.gigabytes / 2, kills: Number(values.kills ?? 20), seed: 1 });
}

const chosen = parts.filter(({ name }) => !values.only || values.only.some((part) => name.includes(part)));
if (chosen.length === 0) {
  throw new Error(`--only: expected one of ${parts.map(({ name }) => name).join(', ')}, got ${values.only}`);
}
const [loadBefore] = loadavg();
const sections: string[] = [];
for (const { name, title, run } of chosen) {
  note(`${name} …`);
  const section = `### ${title}\n\n${await run()}`;
  process.stdout.write(`${section}\n\n`);
  sections.push(section);
}

const runtime = JSON.parse(readFileSync(join(repository, 'node_modules/onnxruntime-node/package.json'), 'utf8'));
const script = process.env.npm_lifecycle_event === 'bench' ? 'npm run bench --' : 'npx tsx bench/run.ts';
const command = [script, ...process.argv.slice(2)].join(' ').replace(/ --$/, '');
const made = provenance(`${runtime.name} ${runtime.version}`, command, loadBefore, cpus().length);
process.stdout.write(`${made}\n`);
const partial = [values.only, values.gigabytes, values.rounds, values.kills].some((value) => value !== undefined);
if (!partial) {
  writeBetweenMarkers(benchmarksPath, 'bench', [made, ...sections].join('\n\n'));
  note(`Wrote ${benchmarksPath}`);
}
