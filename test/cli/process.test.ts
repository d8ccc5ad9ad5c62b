/** How the command line behaves as a process: stopped, read halfway, on a terminal that wants no colours. */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { builtProgram, digit, finish, halftone, removeBuild, repository, scratch, spawnHalftone } from './run.ts';

const folder = scratch();
beforeAll(() => void builtProgram());
afterAll(() => {
  folder.remove();
  removeBuild();
});
const model = digit('digits-cnn.onnx');

/** A module that makes imports fail for which the expression over `name` holds. */
function without(expression: string): string {
  const data = (code: string) => `data:text/javascript,${encodeURIComponent(code)}`;
  const hooks = `export async function resolve(name, context, next) {
    if (${expression}) throw new Error('absent');
    return next(name, context);
  }`;
  return data(`import { register } from 'node:module'; register(${JSON.stringify(data(hooks))});`);
}

/** Yields the calibration images for ever, slowly, and says when it has begun. */
const slow = folder.path('slow.mjs');
writeFileSync(
  slow,
  `import { images } from ${JSON.stringify(pathToFileURL(digit('read.mjs')).href)};
  const all = [...images('calibration')];
  export default async function* () {
    for (let i = 0; i < 1000; i++) {
      if (i === 20) process.stderr.write('reading\\n');
      yield all[i % all.length];
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }`,
);

it.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s during calibration ends it at once and leaves no files', async (signal, code) => {
  const before = folder.files();
  let sent = 0;
  const result = await spawnHalftone(
    ['quantize', model, '-o', folder.path('out.onnx'), '--calibrate', slow, '--samples', '900'],
    {
      onError(text, child) {
        if (sent > 0 || !text.includes('reading')) return;
        sent = Date.now();
        child.kill(signal);
      },
    },
  );
  expect(sent).toBeGreaterThan(0);
  expect(result.stderr).toMatch(/halftone: (interrupted|terminated)\n$/);
  expect(result.code).toBe(code);
  expect(result.signal).toBeNull();
  expect(folder.files()).toEqual(before);
});

it('a reader that goes away ends it quietly', async () => {
  const child = spawn(process.execPath, [builtProgram(), 'inspect', model, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.destroy();
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  expect(stderr).toBe('');
  expect(code).toBe(0);
});

it('exit codes reach the shell', async () => {
  const out = folder.path('no.onnx');
  const gate = [
    '-w',
    'int2:tensor',
    '--uniform',
    '--calibrate',
    digit('calibration.mjs'),
    '--samples',
    '16',
    '--min-sqnr',
    '60',
  ];
  const codes = await Promise.all(
    [
      ['--help'],
      ['inspect', folder.path('absent.onnx')],
      ['inspect', '--wat'],
      ['quantize', model, '-o', out, ...gate],
    ].map(async (args) => (await spawnHalftone(args)).code),
  );
  expect(codes).toEqual([0, 1, 2, 3]);
});

it('help and version load nothing but the command line itself', async () => {
  const light = String.raw`^(file:|node:|commander$|\./[\w-]+\.js$|\.\./base/)`;
  const node = ['--import', without(`!/${light.replaceAll('/', '\\/')}/.test(name)`)];
  const [version, help, heavier] = await Promise.all([
    spawnHalftone(['--version'], { node }),
    spawnHalftone(['--help'], { node }),
    spawnHalftone(['inspect', model], { node }),
  ]);
  expect(version.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  expect(help.stdout).toMatch(/^Usage: halftone[\s\S]*quantize \[options\] <model>/);
  expect([version.code, help.code, heavier.code]).toEqual([0, 0, 1]);
});

it('inspect loads no runtime, samples or solvers; help of a command no runtime', async () => {
  const runtime = "name.includes('onnxruntime')";
  const [inspected, help, demo] = await Promise.all([
    spawnHalftone(['inspect', model], {
      node: ['--import', without(`${runtime} || /\\/(runtime|samples|solvers|ranges|lowerings.index)[/.]/.test(name)`)],
    }),
    spawnHalftone(['quantize', '--help'], { node: ['--import', without("name.startsWith('onnxruntime')")] }),
    spawnHalftone(['demo'], { node: ['--import', without("name.startsWith('onnxruntime')")] }),
  ]);
  expect(inspected.stderr).toBe('');
  expect([inspected.code, help.code]).toEqual([0, 0]);
  expect(demo.stderr).toMatch(/expected ONNX Runtime, got none/);
});

it('colours appear when asked for, and never with NO_COLOR', async () => {
  const plain = await spawnHalftone(['inspect', model], { env: { FORCE_COLOR: '1' } });
  expect(plain.stdout).not.toContain('\u001b');
  const coloured = await spawnHalftone(['inspect', model], { env: { FORCE_COLOR: '1', NO_COLOR: '' } });
  expect(coloured.stdout).toContain('\u001b[1m');
});

it('says once that the native runtime is missing, and goes on with the other', async () => {
  const out = folder.path('web.onnx');
  const result = await spawnHalftone(['quantize', model, '-o', out, '--calibrate', 'random', '--samples', '2'], {
    node: ['--import', without("name === 'onnxruntime-node'")],
  });
  expect(result.stderr).toMatch(
    /^halftone: the native ONNX Runtime is missing.*npm install onnxruntime-node --ignore-scripts.*\n$/,
  );
  expect(result.code).toBe(0);
  expect(folder.files()).toContain('web.onnx');
});

it("the demo prints the article's lines and a table of widths", async () => {
  const { code, stdout, stderr } = await halftone(['demo']);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  expect(stdout).toMatch(/^Predicted digit: \d$/m);
  expect(stdout).toMatch(/^Corrected predicted digit: 4$/m);
  expect(stdout).toMatch(/^ {2}float +867,033 +90\.7 %/m);
  const rows = [...stdout.matchAll(/^ {2}(\d) bits? +([\d,]+) +([\d.]+)× +([\d.]+) % +([\d.]+) %/gm)].map(
    ([, ...cells]) => cells.map((cell) => Number(cell.replaceAll(',', ''))),
  );
  expect(rows.map(([bits]) => bits)).toEqual([8, 4, 3, 2, 1]);
  const row = (bits: number) => rows.find(([width]) => width === bits)!;
  for (const [bits, bytes, , , after] of rows) {
    expect(bytes).toBeLessThan((867_033 * bits) / 32 + 4000);
    if (bits >= 3) expect(after).toBeGreaterThanOrEqual(90);
  }
  expect(row(2)[4] - row(2)[3]).toBeGreaterThan(20);
  expect(row(1)[4] - row(1)[3]).toBeGreaterThan(10);
});

it("examples/article prints the article's number and the corrected one", async () => {
  const { code, stdout } = await finish([join(repository, 'examples/article/article.mjs')]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/w_q = -98\.25$/m);
  expect(stdout).toMatch(/code = .* = 64 of 0…255$/m);
  expect(stdout).toMatch(/value = .* = -49\.80$/m);
});
