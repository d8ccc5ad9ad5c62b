/** The fastest kernel that runs here. */
import type { Kernel } from './kernel.ts';
import { reference } from './reference.ts';
import { createWasmKernel } from './wasm.ts';

let best: Kernel | undefined;

/**
 * The WebAssembly kernel, or the reference where WebAssembly with SIMD is missing. It is made at the first call, and the
 * same ever after.
 */
export function bestKernel(): Kernel {
  if (best) return best;
  try {
    best = createWasmKernel();
  } catch {
    best = reference;
  }
  return best;
}
