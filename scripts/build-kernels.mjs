// Compiles assembly/ to WebAssembly and writes it as base64 text into src/kernel/generated/kernels.ts, which bundles
// anywhere. Does nothing where the file already comes from the same sources and compiler.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';

const target = 'src/kernel/generated/kernels.ts';
const options = [
  'assembly/index.ts',
  ...['--outFile', 'kernels.wasm'],
  ...['--runtime', 'stub'],
  ...['--enable', 'simd'],
  ...['--use', 'abort='],
  // 26 MiB, laid out by src/kernel/wasm/arena.ts.
  ...['--initialMemory', '416', '--maximumMemory', '416'],
  '-O3',
  '--converge',
  '--noAssert',
];

const sources = readdirSync('assembly').filter((name) => name.endsWith('.ts'));
const hash = createHash('sha256').update(JSON.stringify(options));
for (const name of [...sources].sort()) hash.update(`${name}\n`).update(readFileSync(`assembly/${name}`));
hash.update(JSON.parse(readFileSync('node_modules/assemblyscript/package.json', 'utf8')).version);
const stamp = `// Sources: ${hash.digest('hex')}`;
if (!existsSync(target) || !readFileSync(target, 'utf8').includes(stamp)) {
  const { default: asc } = await import('assemblyscript/asc');
  let wasm;
  const writeFile = (name, contents) => {
    if (name.endsWith('.wasm')) wasm = contents;
  };
  const { error, stderr } = await asc.main(options, { writeFile });
  if (error || !wasm) {
    process.stderr.write(`${stderr.toString()}${error?.message ?? 'no module'}\n`);
    process.exit(1);
  }
  mkdirSync('src/kernel/generated', { recursive: true });
  const text = Buffer.from(wasm).toString('base64');
  writeFileSync(
    target,
    `/** The WebAssembly module of assembly/, made by scripts/build-kernels.mjs. */\n${stamp}\nexport const kernels =\n  '${text}';\n`,
  );
}
