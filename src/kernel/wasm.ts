/**
 * The kernels of assembly/ behind the interface. Arrays are copied into the module's memory window by window, unless they
 * lie there already.
 */
import { kernels } from './generated/kernels.ts';
import type { Kernel } from './kernel.ts';
import { Arena } from './wasm/arena.ts';
import { blockMethods } from './wasm/blocks.ts';
import { compensationMethods } from './wasm/compensation.ts';
import type { Exports } from './wasm/exports.ts';
import { fitMethods } from './wasm/fit.ts';
import { floatMethods } from './wasm/floats.ts';
import { moveMethods } from './wasm/moves.ts';
import { sumMethods } from './wasm/sums.ts';

/**
 * A kernel on a memory of its own of 26 MiB, of which only what is used is ever touched.
 * @throws where WebAssembly with SIMD is missing, or forbidden.
 */
export function createWasmKernel(): Kernel {
  const binary = Uint8Array.from(atob(kernels), (character) => character.charCodeAt(0));
  const instance = new WebAssembly.Instance(new WebAssembly.Module(binary));
  const wasm = instance.exports as unknown as Exports;
  const arena = new Arena(wasm.memory, wasm.heapBase());
  const blocks = blockMethods(wasm, arena);
  return {
    id: 'wasm',
    room: (bytes) => arena.room(bytes),
    desk: (bytes) => arena.desk(bytes),
    ...blocks,
    ...fitMethods(wasm, arena, blocks.extent),
    ...moveMethods(wasm, arena),
    ...floatMethods(wasm, arena),
    ...sumMethods(wasm, arena),
    ...compensationMethods(wasm, arena),
  };
}
