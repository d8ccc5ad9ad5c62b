// Compiles src/ to dist/. The output is replaced whole, so a deleted source leaves nothing behind.
import { spawnSync } from 'node:child_process';
import { chmodSync, rmSync } from 'node:fs';

await import('./build-kernels.mjs');
rmSync('dist', { recursive: true, force: true });
const result = spawnSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], {
  stdio: ['ignore', 2, 2],
});
if (result.status !== 0) process.exit(result.status ?? 1);
chmodSync('dist/cli/main.js', 0o755);
