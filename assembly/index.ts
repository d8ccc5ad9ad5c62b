/**
 * The SIMD kernels, in AssemblyScript. Every export works on addresses in the module's memory, which the caller lays
 * out (src/kernel/arena.ts), and gives what the method of the same name in src/kernel/reference.ts gives.
 */

export { chooseCodes, improveCodes } from './compensate';
export { cover } from './cover';
export { blockExtents, extent } from './extent';
export { fit, fitAdd, fitConfigure, fitNext, fitScale, fitStart, fitZeroPoint } from './fit';
export { decodeFloats, encodeFloats } from './floats';
export { noise, quantizeNoise } from './noise';
export { pack, unpack } from './pack';
export { dequantize, quantize } from './quantize';
export { channelSums, columnSums, countBins, products, runSums, squaredError } from './sums';
export { transpose1, transpose4 } from './transpose';

/** Where the memory is free. */
export function heapBase(): usize {
  return __heap_base;
}
