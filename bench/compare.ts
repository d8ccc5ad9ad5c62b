/**
 * `npm run bench:compare REV [-- --only NAME] [--gigabytes 2] [--rounds 3]`: builds another revision beside this one and
 * runs both in turns on the same model. Prints the ratios of this revision to that one; writes nothing.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { largeModel } from './large-models.ts';
import { type Contender, finish, takeTurns, temporaryFolder } from './processes.ts';
import { type Program, programIn, quantizer, weightRanges } from './program.ts';
import { table } from './report.ts';
import { repository } from './startup.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string', multiple: true },
    gigabytes: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
  },
});
const [revision] = positionals;
if (revision === undefined) throw new Error('REV: expected the revision to compare with, got none');

const folder = temporaryFolder();

function call(command: string, args: readonly string[], cwd: string): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: expected to end well, got: ${stderr}`);
  return stdout.trim();
}

/** A built checkout of the revision. Packages are shared where it asks for the same ones. */
function checkOut(): { readonly name: string; readonly program: Program } {
  const name = call('git', ['rev-parse', '--short', `${revision}^{commit}`], repository);
  const checkout = join(folder, 'checkout');
  call('git', ['worktree', 'add', '--detach', checkout, name], repository);
  process.on('exit', () => spawnSync('git', ['worktree', 'remove', '--force', checkout], { cwd: repository }));
  const lock = (root: string) => readFileSync(join(root, 'package-lock.json'), 'utf8');
  if (lock(checkout) === lock(repository)) {
    symlinkSync(join(repository, 'node_modules'), join(checkout, 'node_modules'));
    call('npm', ['run', 'build'], checkout);
  } else {
    call(process.execPath, ['scripts/setup.mjs', 'build'], checkout);
  }
  return { name, program: programIn(checkout) };
}

interface Case {
  readonly name: string;
  readonly contender: (name: string, program: Program) => Contender;
}

const here = programIn(repository);
const other = checkOut();
const model = await largeModel(folder, Number(values.gigabytes));
const output = join(folder, 'quantized.onnx');

function command(args: readonly string[]): Case['contender'] {
  return (name, { main }) => ({ name, reset() {}, run: () => finish(process.execPath, [main, ...args]) });
}

const cases: readonly Case[] = [
  { name: 'help', contender: command(['--help']) },
  { name: 'inspect', contender: command(['inspect', join(repository, 'examples/digits/digits-cnn.onnx')]) },
  ...weightRanges.map(
    (range): Case => ({
      name: range,
      contender: (name, program) => quantizer(name, program, model, output, ['--weight-range', range]),
    }),
  ),
];

const chosen = cases.filter(({ name }) => !values.only || values.only.some((part) => name.includes(part)));
const rows: string[][] = [];
for (const { name, contender } of chosen) {
  const pair = [contender(`${name}, ${other.name}`, other.program), contender(`${name}, here`, here)];
  const [before, now] = await takeTurns(pair, Number(values.rounds));
  const ratio = (a: number | undefined, b: number | undefined) =>
    a === undefined || b === undefined ? '–' : `${(a / b).toFixed(2)}×`;
  rows.push([
    name,
    before.best.toFixed(3),
    now.best.toFixed(3),
    ratio(now.best, before.best),
    ratio(now.median, before.median),
    ratio(now.peakMiB, before.peakMiB),
  ]);
}
const head = ['run', `${other.name}: best, s`, 'here: best, s', 'here / there, best', 'median', 'peak memory'];
process.stdout.write(`${table(head, rows)}\n`);
