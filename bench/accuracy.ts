/**
 * `npm run bench:accuracy [-- --only NAME] [--quick] [--set KEY=JSON]`: quantizes the shared models, measures what was
 * lost and gained, and writes docs/benchmarks.md. With an option it only prints: a part is not the whole table.
 */
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isHalftoneError, openRuntime, readModel, writeOnnx } from '../src/node.ts';
import { assets, missingAssets } from './data.ts';
import { type Measured, measure } from './measure.ts';
import { type MemoryUse, memoryOf, type Task } from './memory.ts';
import { benchmarksPath, provenance, writeBetweenMarkers } from './report.ts';
import { models } from './rows.ts';
import { accuracyTable, collapseList, memoryTable, speedTable, timingTable } from './tables.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    recipe: { type: 'string' },
    quick: { type: 'boolean', default: false },
    layers: { type: 'boolean', default: false },
    set: { type: 'string', multiple: true },
  },
});

const note = (text: string) => process.stderr.write(`${text}\n`);

/** `range="mse"` or `range=mse` as a setting. */
function settingsOf(assignments: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(
    assignments.map((assignment) => {
      const at = assignment.indexOf('=');
      const text = assignment.slice(at + 1);
      try {
        return [assignment.slice(0, at), JSON.parse(text)];
      } catch {
        return [assignment.slice(0, at), text];
      }
    }),
  );
}

const absent = missingAssets();
if (absent) {
  note(`Skipped: ${absent}`);
  process.exit(0);
}

const wanted = (name: string) => !values.only || values.only.some((part) => name.includes(part));
const settings = settingsOf(values.set ?? []);
const runtime = await openRuntime();
const [loadBefore] = loadavg();
const results: Measured[] = [];
let failures = 0;

for (const model of models.filter(({ name }) => wanted(name))) {
  const float = readModel(join(assets, 'models', `${model.name}.onnx`));
  const session = await runtime.open(writeOnnx(float), { threads: 2 });
  const data = await model.open(session, values.quick);
  for (const row of model.rows) {
    if (values.recipe && !row.recipe.includes(values.recipe)) continue;
    try {
      const measured = await measure(model, row, float, data, runtime, { quick: values.quick, settings });
      results.push(measured);
      note(
        `${model.name}, ${row.recipe}: ${measured.checks.map((item) => `${item.reached ? '✓' : '✗'} ${item.text}`).join('; ')}`,
      );
      if (values.layers) {
        const { comparison, quantized } = measured;
        for (const layer of comparison.layers.slice(0, 8)) {
          note(`  ${layer.sqnr.toFixed(1)} dB  #${layer.position} ${layer.op} ${layer.tensor}`);
        }
        for (const text of quantized.report.notes) note(`  ${text}`);
      }
    } catch (error) {
      failures++;
      note(`${model.name}, ${row.recipe}: failed: ${isHalftoneError(error) ? error.message : (error as Error).stack}`);
    }
  }
  await session.close();
}

const uses = new Map<Task, MemoryUse>();
if (wanted('memory')) {
  for (const task of ['calibrate', 'quantize'] as const) uses.set(task, memoryOf(task));
}

const partial = values.only !== undefined || values.quick || values.set !== undefined || values.recipe !== undefined;
const program =
  process.env.npm_lifecycle_event === 'bench:accuracy' ? 'npm run bench:accuracy --' : 'npx tsx bench/accuracy.ts';
const command = [program, ...process.argv.slice(2)].join(' ').replace(/ --$/, '');
const sections = [
  provenance(`${runtime.id} ${runtime.version}`, command, loadBefore),
  `### Accuracy\n\n${accuracyTable(results)}`,
  `### Size and speed\n\nOne sample at a time, 2 threads, medians of interleaved runs.\n\n${speedTable(results)}`,
  ...(results.some(({ timings }) => timings)
    ? [
        `### Speed of static CNNs\n\nFloat → quantized, one sample, in a process of its own with its threads bound to separate cores; the goals above judge two threads by their fastest run, because this kind of machine makes co-operating threads wait.\n\n${timingTable(results)}`,
      ]
    : []),
  ...(uses.size > 0
    ? [`### Memory\n\nmobilenet-v2 on its calibration pictures, each task in its own process.\n\n${memoryTable(uses)}`]
    : []),
  `### Collapsed\n\nWhat \`halftone compare\` says of results that are of no use:\n\n${collapseList(results)}`,
  `### Data\n\n${[...new Map(results.map((result) => [result.model, result.data]))].map(([name, says]) => `- ${name}: ${says}`).join('\n')}`,
  '¹ Figures of the Python quantization tool of onnxruntime 1.30, copied from the project’s issue 2; not measured by this run.',
];
const text = sections.join('\n\n');
process.stdout.write(`${text}\n`);
if (failures > 0) {
  note(`${failures} rows failed`);
  process.exitCode = 1;
}
if (!partial && failures === 0) {
  writeBetweenMarkers(benchmarksPath, 'bench:accuracy', text);
  note(`Wrote ${benchmarksPath}`);
}
