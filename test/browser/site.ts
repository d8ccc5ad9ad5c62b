/** An application that uses halftone in the browser: the package as published, bundled, and served on this machine. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

export interface Site {
  readonly url: string;
  close(): Promise<void>;
}

const repository = fileURLToPath(new URL('../..', import.meta.url));

/** Below node_modules, where the application finds the other packages. */
const folder = join(repository, 'node_modules/.cache/halftone-browser', String(process.pid));

const html = `<!doctype html>
<meta charset="utf-8">
<title>halftone</title>
<link rel="icon" href="data:,">
<input type="file" multiple>
<script type="module" src="/page.js"></script>
`;

const types: Readonly<Record<string, string>> = {
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

/** Makes the application from the present sources and serves it, cross-origin isolated. */
export async function openSite(): Promise<Site> {
  rmSync(folder, { recursive: true, force: true });
  installPackage(join(folder, 'node_modules/halftone'));
  await bundle();
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname;
    const body = path === '/' ? html : fileAt(path);
    // These two make a page cross-origin isolated, without which it has no SharedArrayBuffer and so no threads.
    response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
    response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
    response.setHeader('Content-Type', types[extname(path)] ?? 'text/html');
    response.statusCode = body === undefined ? 404 : 200;
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Compiles the sources into a folder laid out as the published package. */
function installPackage(target: string): void {
  mkdirSync(target, { recursive: true });
  copyFileSync(join(repository, 'package.json'), join(target, 'package.json'));
  const compiler = join(repository, 'node_modules/typescript/bin/tsc');
  spawnSync(process.execPath, [compiler, '-p', 'tsconfig.build.json', '--outDir', join(target, 'dist')], {
    cwd: repository,
  });
}

/** What is bundled, each by itself: the page, its worker, the workers that worker starts, and such that die. */
const entries = ['page.ts', 'worker.ts', 'weights.ts', 'mortal.ts'];

/** The application, copied into a package of its own, so that it finds halftone by its name. */
async function bundle(): Promise<void> {
  writeFileSync(join(folder, 'package.json'), '{"name":"application","private":true,"type":"module"}');
  for (const name of [...entries, 'flow.ts']) copyFileSync(join(import.meta.dirname, name), join(folder, name));
  await build({
    entryPoints: entries.map((name) => join(folder, name)),
    outdir: join(folder, 'site'),
    bundle: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    tsconfigRaw: {},
    logLevel: 'silent',
  });
}

/** A file of the bundle or, under /onnxruntime/, of onnxruntime-web. */
function fileAt(path: string): Buffer | undefined {
  const root = path.startsWith('/onnxruntime/')
    ? join(repository, 'node_modules/onnxruntime-web/dist')
    : join(folder, 'site');
  try {
    return readFileSync(join(root, basename(path)));
  } catch {
    return undefined;
  }
}
