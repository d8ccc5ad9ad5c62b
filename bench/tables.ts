/** Writes what `accuracy.ts` measured as Markdown. */
import { speedupOf } from './latency.ts';
import { dropOf, type Measured, natsOf } from './measure.ts';
import { type MemoryUse, memoryGoal, type Task } from './memory.ts';
import { mark, table } from './report.ts';

const percent = (value: number) => `${value.toFixed(2)} %`;
const megabytes = (bytes: number) => (bytes / 1e6).toFixed(bytes < 1e6 ? 3 : 2);
const signed = (value: number, digits: number) =>
  `${value > 0 ? '+' : value < 0 ? '−' : ''}${Math.abs(value).toFixed(digits)}`;

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
