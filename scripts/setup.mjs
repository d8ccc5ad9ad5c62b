// Installs the dependencies when they are missing or out of date, compiles the kernels, and with the argument "build"
// compiles dist/.
// onnxruntime-node carries its CPU library in the package; its install script only fetches GPU libraries, which
// halftone does not use and whose host may be unreachable, so the script is told to skip them.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const run = (command, args, env = {}) => {
  const result = spawnSync(command, args, {
    stdio: ['ignore', 2, 2],
    env: { ...process.env, ...env },
    shell: process.platform === 'win32',
  });
  if (result.status !== 0) process.exit(result.status ?? 1);
};

const stamp = 'node_modules/.halftone-installed';
const digest = () => createHash('sha256').update(readFileSync('package-lock.json')).digest('hex');
const current =
  existsSync(stamp) && readFileSync(stamp, 'utf8') === digest() && existsSync('node_modules/onnxruntime-node');
if (!current) {
  // Not `npm ci`: it refuses a lock file whose optional packages for other platforms a registry does not hold (yet).
  run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error'], { ONNXRUNTIME_NODE_INSTALL: 'skip' });
  writeFileSync(stamp, digest());
}
run(process.execPath, ['scripts/build-kernels.mjs']);
if (process.argv.includes('build')) run(process.execPath, ['scripts/build.mjs']);
