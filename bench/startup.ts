/**
 * `npx tsx bench/startup.ts`: how long the smallest commands of the built program take as whole processes, beside a
 * Node that does nothing. Needs `npm run build`.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bestAndMedian, mark, table } from './report.ts';

export const repository = fileURLToPath(new URL('..', import.meta.url));

/** Milliseconds of `halftone --help`, best of `rounds`. */
const helpGoal = 150;
const rounds = 10;

/** Runs each command ten times, in turns, and tells the times as a table. @param program the main file of a build */
export function startupTable(program = join(repository, 'dist/cli/main.js')): string {
  const model = join(repository, 'examples/digits/digits-cnn.onnx');
  const commands = [
    { name: 'node -e 0', args: ['-e', '0'] },
    { name: 'halftone --help', args: [program, '--help'], goal: helpGoal },
    { name: 'halftone --version', args: [program, '--version'] },
    { name: 'halftone inspect, 1.1 MB', args: [program, 'inspect', model] },
  ];
  const times = commands.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const [index, { name, args }] of commands.entries()) {
      const start = performance.now();
      const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
      times[index].push(performance.now() - start);
      if (status !== 0) throw new Error(`${name}: expected to end well, got: ${stderr}`);
    }
  }
  const idle = bestAndMedian(times[0]);
  const rows = commands.map(({ name, goal }, index) => {
    const { best, median } = bestAndMedian(times[index]);
    return [
      `\`${name}\``,
      best.toFixed(0),
      median.toFixed(0),
      index === 0 ? '–' : `+${(best - idle.best).toFixed(0)}`,
      goal === undefined ? '–' : `≤ ${goal}`,
      goal === undefined ? '–' : mark(best <= goal),
    ];
  });
  return table(['process', 'best of ten, ms', 'median, ms', 'over a bare Node, ms', 'goal, ms', 'reached'], rows);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.stdout.write(`${startupTable(process.argv[2])}\n`);
