/** Writes what was measured as Markdown, and puts it between the markers of docs/benchmarks.md. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem, type } from 'node:os';
import { speedupOf } from './latency.ts';
import { dropOf, type Measured, natsOf } from './measure.ts';
import { type MemoryUse, memoryGoal, type Task } from './memory.ts';

const percent = (value: number) => `${value.toFixed(2)} %`;
const megabytes = (bytes: number) => (bytes / 1e6).toFixed(bytes < 1e6 ? 3 : 2);
const signed = (value: number, digits: number) =>
  `${value > 0 ? '+' : value < 0 ? '−' : ''}${Math.abs(value).toFixed(digits)}`;
const mark = (reached: boolean) => (reached ? 'yes' : '**no**');

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

export function accuracyTable(results: readonly Measured[]): string {
  const rows = results.map((measured) => {
    const { model, row, comparison, sqnr, checks } = measured;
    const [float, quantized, change] = metricOf(measured);
    const { agreement } = comparison;
    const missed = checks.filter((item) => !item.reached);
    return [
      model,
      row.recipe,
      float,
      quantized,
      change,
      agreement ? percent(100 * agreement.top1) : '–',
      sqnr === Number.POSITIVE_INFINITY ? 'equal' : signed(sqnr, 1).replace('+', ''),
      checks.map((item) => item.text).join('; ') || '–',
      checks.length === 0 ? '–' : mark(missed.length === 0),
      row.peer,
    ];
  });
  return table(
    [
      'model',
      'recipe',
      'float',
      'quantized',
      'change',
      'agreement',
      'SQNR, dB',
      'measured (goal)',
      'reached',
      "peer's tool ¹",
    ],
    rows,
  );
}

/** The float figure, the quantized one and how they differ, in the words of the task. */
function metricOf(measured: Measured): [string, string, string] {
  const { score, comparison } = measured;
  const nats = natsOf(measured);
  if (score && nats !== undefined && score.float !== undefined) {
    return [`${score.float.toFixed(4)} nats`, `${score.quantized.toFixed(4)} nats`, `${signed(nats, 3)} %`];
  }
  if (score?.name === 'CER' && score.float !== undefined) {
    const change = signed(score.quantized - score.float, 2);
    return [`${percent(score.float)} CER`, `${percent(score.quantized)} CER`, `${change} points`];
  }
  if (score) return ['–', `${score.quantized.toFixed(1)} dB with its own state`, '–'];
  const drop = dropOf(measured);
  const { floatAccuracy, quantizedAccuracy } = comparison.agreement ?? {};
  if (drop === undefined || floatAccuracy === undefined || quantizedAccuracy === undefined) return ['–', '–', '–'];
  return [percent(100 * floatAccuracy), percent(100 * quantizedAccuracy), `${signed(-drop, 2)} points`];
}

export function speedTable(results: readonly Measured[]): string {
  const rows = results.map(({ model, row, comparison, seconds }) => {
    const { floatBytes, quantizedBytes, latency } = comparison;
    return [
      model,
      row.recipe,
      megabytes(floatBytes),
      megabytes(quantizedBytes),
      `${(floatBytes / quantizedBytes).toFixed(2)}×`,
      latency ? latency.float.toFixed(2) : '–',
      latency ? latency.quantized.toFixed(2) : '–',
      latency ? `${latency.speedup.toFixed(2)}×` : '–',
      seconds.toFixed(1),
    ];
  });
  return table(
    [
      'model',
      'recipe',
      'float, MB',
      'quantized, MB',
      'smaller',
      'float, ms',
      'quantized, ms',
      'faster',
      'quantizing, s',
    ],
    rows,
  );
}

/** The runs of `latency.ts`. */
export function timingTable(results: readonly Measured[]): string {
  const rows = results.flatMap(({ model, timings = [] }) =>
    timings.map((timing) => {
      const { threads, fastest, median } = timing;
      return [
        model,
        String(threads),
        fastest.map((time) => time.toFixed(2)).join(' → '),
        `${speedupOf(timing).toFixed(2)}×`,
        median.map((time) => time.toFixed(2)).join(' → '),
        `${(median[0] / median[1]).toFixed(2)}×`,
      ];
    }),
  );
  return table(['model', 'threads', 'fastest run, ms', 'faster', 'median run, ms', 'faster'], rows);
}

const taskNames: Readonly<Record<Task, string>> = {
  calibrate: 'calibration alone, histograms of all tensors',
  quantize: 'quantize, percentile ranges, bias correction',
};

export function memoryTable(uses: ReadonlyMap<Task, MemoryUse>): string {
  const rows = [...uses].map(([task, { pictures, tensors, peakMiB, seconds }]) => [
    taskNames[task],
    String(pictures),
    String(tensors),
    `${peakMiB.toFixed(0)} MiB`,
    seconds.toFixed(1),
    `< ${memoryGoal} MiB`,
    mark(peakMiB < memoryGoal),
    '6.5 GB, 22 s',
  ]);
  return table(['task', 'pictures', 'tensors', 'peak memory', 'seconds', 'goal', 'reached', "peer's tool ¹"], rows);
}

export function collapseList(results: readonly Measured[]): string {
  const lines = results
    .filter(({ comparison }) => comparison.collapsed)
    .map(({ model, row, comparison }) => `- ${model}, ${row.recipe}: “${comparison.collapsed?.message}”`);
  return lines.length > 0 ? lines.join('\n') : 'None collapsed.';
}

/** Where, when and by what the figures came about. */
export function provenance(runtime: string, command: string, loadBefore: number): string {
  const [cpu] = cpus();
  const memory = `${(totalmem() / 2 ** 30).toFixed(0)} GiB`;
  return [
    `- Machine: ${cpu?.model.trim() ?? 'unknown processor'}, ${cpus().length} cores, ${memory}, ${type()} ${release()}`,
    `- Versions: halftone at ${revision()}, Node ${process.versions.node}, ${runtime}`,
    `- Load average: ${loadBefore.toFixed(1)} before, ${loadavg()[0].toFixed(1)} after; timings count only where the first is near 0 and the second near 2`,
    `- Date: ${new Date().toISOString().slice(0, 10)}`,
    `- Command: \`${command}\``,
  ].join('\n');
}

/** The commit measured, and whether the sources differ from it. */
function revision(): string {
  const git = (...args: string[]) => spawnSync('git', args, { encoding: 'utf8' }).stdout?.trim() ?? '';
  const commit = git('rev-parse', '--short', 'HEAD');
  if (commit === '') return 'an unknown commit';
  return git('status', '--porcelain', '--', 'src') === '' ? `commit ${commit}` : `commit ${commit} with changes`;
}

const begin = '<!-- bench:accuracy begin -->';
const end = '<!-- bench:accuracy end -->';

/** Replaces what stands between the markers; the text around them stays. */
export function writeBetweenMarkers(path: string, text: string): void {
  const before = existsSync(path) ? readFileSync(path, 'utf8') : `# Benchmarks\n\n${begin}\n${end}\n`;
  const from = before.indexOf(begin);
  const to = before.indexOf(end);
  if (from < 0 || to < from) throw new Error(`${path}: expected the markers ${begin} and ${end}, got none`);
  writeFileSync(path, `${before.slice(0, from + begin.length)}\n\n${text}\n\n${before.slice(to)}`);
}
