/** What every benchmark writes: Markdown tables, where and when they came about, and their place in a document. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem, type } from 'node:os';
import { fileURLToPath } from 'node:url';

export const benchmarksPath = fileURLToPath(new URL('../docs/benchmarks.md', import.meta.url));

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

/** Whether a goal was reached. */
export const mark = (reached: boolean) => (reached ? 'yes' : '**no**');

/** The smallest and the middle value. */
export function bestAndMedian(values: readonly number[]): { readonly best: number; readonly median: number } {
  const sorted = [...values].sort((a, b) => a - b);
  return { best: sorted[0] ?? Number.NaN, median: sorted[sorted.length >> 1] ?? Number.NaN };
}

/**
 * Where, when and by what the figures came about.
 * @param busy the load average that the benchmark itself makes
 * @param measured the commits, where figures were kept from earlier runs
 */
export function provenance(
  runtime: string,
  command: string,
  loadBefore: number,
  busy = 2,
  measured = revision(),
): string {
  const [cpu] = cpus();
  const memory = `${(totalmem() / 2 ** 30).toFixed(0)} GiB`;
  return [
    `- Machine: ${cpu?.model.trim() ?? 'unknown processor'}, ${cpus().length} cores, ${memory}, ${type()} ${release()}`,
    `- Versions: halftone at ${measured}, Node ${process.versions.node}, ${runtime}`,
    `- Load average: ${loadBefore.toFixed(1)} before, ${loadavg()[0].toFixed(1)} after; timings count only where the first is near 0 and the second near ${busy}`,
    `- Date: ${new Date().toISOString().slice(0, 10)}`,
    `- Command: \`${command}\``,
  ].join('\n');
}

/** The commit measured, and whether the sources differ from it. */
export function revision(): string {
  const git = (...args: string[]) => spawnSync('git', args, { encoding: 'utf8' }).stdout?.trim() ?? '';
  const commit = git('rev-parse', '--short', 'HEAD');
  if (commit === '') return 'an unknown commit';
  return git('status', '--porcelain', '--', 'src') === '' ? `commit ${commit}` : `commit ${commit} with changes`;
}

/** Replaces what stands between `<!-- NAME begin -->` and `<!-- NAME end -->`; the text around them stays. */
export function writeBetweenMarkers(path: string, name: string, text: string): void {
  const begin = `<!-- ${name} begin -->`;
  const end = `<!-- ${name} end -->`;
  const before = existsSync(path) ? readFileSync(path, 'utf8') : `# Benchmarks\n\n${begin}\n${end}\n`;
  const from = before.indexOf(begin);
  const to = before.indexOf(end);
  if (from < 0 || to < from) throw new Error(`${path}: expected the markers ${begin} and ${end}, got none`);
  writeFileSync(path, `${before.slice(0, from + begin.length)}\n\n${text}\n\n${before.slice(to)}`);
}
