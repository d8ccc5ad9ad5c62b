/** Where the shared test assets are; tests that need them skip, saying so, where they are absent. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** `shared/assets` beside the repository. */
export const assets = fileURLToPath(new URL('../../../shared/assets', import.meta.url));

export const haveAssets = existsSync(assets);
if (!haveAssets) console.warn(`skipped: the tests on real models need ${assets}, which is absent`);

/** Every ONNX file among the assets, as paths below `assets`. */
export function assetModels(): string[] {
  if (!haveAssets) return [];
  return readdirSync(assets, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.onnx'))
    .sort();
}

/** The absolute path of an asset. */
export function asset(path: string): string {
  return join(assets, path);
}
